//! The calls of a seed: when clients call, which of them, and how much work each call is.
//!
//! What becomes of a call changes nothing here, so that whatever stands before the application, and
//! even a real one, can be given the same calls.

use std::time::Duration;

use super::laws;
use super::random::Random;
use super::scenario::{Group, Scenario};

const SECOND: f64 = 1e9;

/// A call: the first attempt of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it is made.
    pub at: Duration,
    /// Which client of the group makes it.
    pub client: u32,
    /// How long the application works on it.
    pub work: Duration,
    /// Whether its client leaves early.
    pub leaves: bool,
}

/// The calls of a group, in order of time.
#[derive(Debug)]
pub struct Calls<'s> {
    group: &'s Group,
    random: Random,
    now: u64,
    end: u64,
}

/// The calls of the group at an index of a scenario, under a seed.
#[must_use]
pub fn calls(scenario: &Scenario, group: usize, seed: u64) -> Calls<'_> {
    Calls {
        group: &scenario.groups[group],
        random: Random::new(seed, group as u64),
        now: 0,
        end: scenario.duration.as_nanos() as u64,
    }
}

// === impl Calls ===

impl Iterator for Calls<'_> {
    type Item = Call;

    /// A Poisson process whose rate changes.
    fn next(&mut self) -> Option<Call> {
        self.now = next_call(self.group, self.now, self.end, self.random.exponential());
        (self.now < self.end).then(|| Call {
            at: Duration::from_nanos(self.now),
            client: self.random.below(self.group.clients.max(1)),
            work: Duration::from_nanos(laws::draw(&self.group.service, &mut self.random)),
            leaves: self.group.leave.is_some_and(|(share, _)| self.random.chance(share)),
        })
    }
}

/// The instant at which the integral of the rate from `now` on reaches `due`.
fn next_call(group: &Group, now: u64, end: u64, mut due: f64) -> u64 {
    let mut at = now;
    while at < end {
        let (rate, until) = rate_until(group, at);
        let (until, within) = (until.min(end), rate * (until.min(end) - at) as f64 / SECOND);
        if within >= due {
            return at + (due / rate * SECOND) as u64;
        }
        due -= within;
        at = until;
    }
    end
}

/// The rate at an instant, and until when it holds.
fn rate_until(group: &Group, at: u64) -> (f64, u64) {
    let mut rate = group.rate_at(Duration::from_nanos(at));
    let next =
        group.rates.iter().map(|(since, _)| since.as_nanos() as u64).find(|since| *since > at);
    let mut until = next.unwrap_or(u64::MAX);
    if let Some(bursts) = &group.bursts {
        let on = bursts.on.as_nanos() as u64;
        let period = on + bursts.off.as_nanos() as u64;
        let within = at % period.max(1);
        let (factor, ends) = if within < on { (bursts.high, on) } else { (bursts.low, period) };
        rate *= factor;
        until = until.min(at + (ends - within).max(1));
    }
    (rate, until)
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Bursts;
    use super::*;

    fn count(group: &Group, from: u64, to: u64) -> f64 {
        let mut random = Random::new(1, 1);
        let (mut at, mut calls) = (from, 0);
        loop {
            at = next_call(group, at, to, random.exponential());
            if at >= to {
                return f64::from(calls) / ((to - from) as f64 / SECOND);
            }
            calls += 1;
        }
    }

    #[test]
    fn calls_come_at_the_rate_of_the_moment() {
        let mut group = Group::plain("g", 1_000.0);
        group.rates.push((Duration::from_secs(10), 0.0));
        group.rates.push((Duration::from_secs(20), 3_000.0));
        let second = SECOND as u64;
        assert!((count(&group, 0, 10 * second) / 1_000.0 - 1.0).abs() < 0.03);
        assert_eq!(count(&group, 10 * second, 20 * second), 0.0);
        assert!((count(&group, 5 * second, 25 * second) / 1_000.0 - 1.0).abs() < 0.03);
    }

    #[test]
    fn bursts_rise_and_fall_around_the_rate() {
        let (on, off) = (Duration::from_millis(500), Duration::from_millis(1_500));
        let bursts = Some(Bursts { on, off, high: 2.4, low: 0.2 });
        let group = Group { bursts, ..Group::plain("g", 1_000.0) };
        assert!((count(&group, 0, 40 * SECOND as u64) / 750.0 - 1.0).abs() < 0.03);
        assert!((count(&group, 0, SECOND as u64 / 2) / 2_400.0 - 1.0).abs() < 0.1);
    }
}
