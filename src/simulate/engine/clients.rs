//! The clients: when they call, how long they wait, what they do then.

use std::time::Duration;

use super::super::events::What;
use super::super::laws;
use super::super::random::mix;
use super::super::scenario::Group;
use super::{Engine, Request};
use crate::gate::{Arrival, Rejection, Time, Verdict};

/// There and back: who tries again at once tries again after this.
const ROUND_TRIP: u64 = 1_000_000;
const SECOND: f64 = 1e9;

// === impl Engine ===

impl Engine<'_> {
    /// Foresees the next call of a group: a Poisson process whose rate changes.
    pub(super) fn plan_call(&mut self, group: usize) {
        let due = self.traffic[group].exponential();
        let at = next_call(&self.scenario.groups[group], self.now, self.end, due);
        if at < self.end {
            self.events.at(at, What::Call(group as u32));
        }
    }

    pub(super) fn call(&mut self, group: usize) {
        let client = self.traffic[group].below(self.scenario.groups[group].clients.max(1));
        let request = self.place(group as u32, client, 0, self.window as u32);
        self.present += 1;
        self.draw(request);
        let work = self.requests[request as usize].work as f64;
        let tally = self.tally(group as u32);
        tally.calls += 1;
        tally.asked += work;
        let all = (self.first_client[group] + client) as usize;
        let tally = &mut self.counted.windows[self.window].clients[all];
        tally.calls += 1;
        tally.asked += work;
        self.bin().into_iter().for_each(|bin| bin.calls += 1);
        self.attempt(request);
        self.plan_call(group);
    }

    /// A client sends a request.
    pub(super) fn attempt(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        (request.arrived, request.here) = (self.now, true);
        let (group, client, generation) = (request.group, request.client, request.generation);
        let (leaves, work) = (request.leaves, request.work);
        self.counted.attempts += 1;
        self.tally(group).attempts += 1;
        self.bin().into_iter().for_each(|bin| bin.attempts += 1);
        let kind = &self.scenario.groups[group as usize];
        let mut patience = kind.timeout.as_nanos() as u64;
        if leaves {
            patience = patience.min(request_leaves_after(kind, work));
        }
        self.events.at(self.now + patience, What::GiveUp(index, generation));
        let Some(guard) = &mut self.guard else {
            self.enter(index);
            return;
        };
        let told = kind.tell && self.scenario.protection != super::Protection::Oracle;
        let arrival = Arrival {
            lane: kind.route,
            class: kind.class,
            flow: mix(u64::from(self.first_client[group as usize] + client) + 1),
            deadline: told.then(|| Time::from_nanos(self.now) + kind.timeout),
        };
        match guard.arrive(self.now, index, arrival) {
            Verdict::Admitted(slot) => self.granted(index, slot),
            Verdict::Queued(ticket, _) => self.requests[index as usize].ticket = Some(ticket),
            Verdict::Rejected(rejection) => self.refused(index, rejection),
        }
    }

    /// A client has waited for long enough.
    pub(super) fn give_up(&mut self, index: u32, generation: u32) {
        let request = &mut self.requests[index as usize];
        if request.generation != generation {
            return;
        }
        let (group, leaves) = (request.group, request.leaves);
        let ticket = request.ticket.take();
        if let (Some(guard), Some(ticket)) = (&mut self.guard, ticket) {
            let kind = &self.scenario.groups[group as usize];
            guard.abandon(self.now, ticket, kind.route, kind.class);
        }
        if self.scenario.app.cancel {
            self.cancel(index);
        }
        if leaves {
            let call_window = self.requests[index as usize].call_window as usize;
            self.counted.windows[call_window].groups[group as usize].left += 1;
            self.satisfied(index);
        } else {
            self.tally(group).timeouts += 1;
            self.bin().into_iter().for_each(|bin| bin.timeouts += 1);
            self.failed(index, None);
        }
    }

    /// The gate turned a request away.
    pub(super) fn refused(&mut self, index: u32, rejection: Rejection) {
        let request = &self.requests[index as usize];
        let (group, after) = (request.group, self.now - request.arrived);
        let hopeless = self.scenario.groups[group as usize].tell
            && self.scenario.groups[group as usize].timeout.as_nanos() as u64
                <= self.service_p90(group);
        let tally = self.tally(group);
        tally.rejected[rejection.reason as usize] += 1;
        tally.refusal.record(after);
        if hopeless {
            tally.hopeless.record(after);
        }
        self.bin().into_iter().for_each(|bin| bin.rejected += 1);
        self.failed(index, Some(rejection.retry_after));
    }

    /// An attempt came to nothing, and its client knows it.
    pub(super) fn failed(&mut self, index: u32, retry_after: Option<u32>) {
        let request = &self.requests[index as usize];
        let (group, client, attempt) = (request.group, request.client, request.attempt);
        let call_window = request.call_window;
        self.satisfied(index);
        let kind = &self.scenario.groups[group as usize];
        if attempt >= kind.retries {
            return;
        }
        self.present += 1;
        let again = self.place(group, client, attempt + 1, call_window);
        self.draw(again);
        let mut wait = ROUND_TRIP;
        if let Some(backoff) = &kind.backoff {
            wait = wait.max(laws::draw(backoff, &mut self.aftermath));
        }
        if let Some(told) = retry_after.filter(|_| kind.obey) {
            wait = wait.max(u64::from(told) * SECOND as u64);
        }
        self.events.at(self.now + wait, What::Retry(again));
    }

    /// A client does not wait for this attempt any longer, for better or worse.
    pub(super) fn satisfied(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        request.here = false;
        request.generation = request.generation.wrapping_add(1);
        self.present -= 1;
        self.release(index);
    }

    fn place(&mut self, group: u32, client: u32, attempt: u32, call_window: u32) -> u32 {
        let index = self.free.pop().unwrap_or(self.requests.len() as u32);
        let generation = self.requests.get(index as usize).map_or(0, |old| old.generation);
        let request = Request {
            generation,
            group,
            client,
            attempt,
            call_window,
            arrived: self.now,
            granted: 0,
            work: 0,
            here: true,
            leaves: false,
            inside: false,
            ticket: None,
            slot: None,
        };
        match self.requests.get_mut(index as usize) {
            Some(place) => *place = request,
            None => self.requests.push(request),
        }
        index
    }

    /// Frees the place of a request that nobody knows any more.
    pub(super) fn release(&mut self, index: u32) {
        let request = &self.requests[index as usize];
        if !request.here && !request.inside && request.ticket.is_none() && request.slot.is_none() {
            self.free.push(index);
        }
    }

    /// What a request is like. First attempts are drawn from the traffic, whatever happens to them.
    fn draw(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        let kind = &self.scenario.groups[request.group as usize];
        let random = match request.attempt {
            0 => &mut self.traffic[request.group as usize],
            _ => &mut self.aftermath,
        };
        request.work = laws::draw(&kind.service, random);
        request.leaves = kind.leave.is_some_and(|(share, _)| random.chance(share));
    }
}

/// When a client that leaves early does so; drawn from its work, so that it costs no state.
fn request_leaves_after(group: &Group, work: u64) -> u64 {
    let Some((_, law)) = &group.leave else { return u64::MAX };
    laws::draw(law, &mut super::super::random::Random::new(work, 1))
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
    use super::super::super::random::Random;
    use super::super::super::scenario::Bursts;
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
