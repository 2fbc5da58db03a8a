//! Lanes whose requests take times that differ widely.
//!
//! Inside an application the short ones stand in one queue with the long ones, and nothing that
//! waits there can be put in order: with a few too many long ones in flight the short ones take
//! many times as long. Throughput hardly tells, since few long requests are most of it and end
//! rarely; the short ones do, within a few dozen answers. So they are watched all the time, and a
//! limit at which a lane suffers is given up.
//!
//! Every change of the limit takes its time here, and is not felt before the long ones have made
//! room for others.

use super::judge::CEILING;
use super::{Arm, Auto, Sample};
use crate::gate::time::Time;

/// A lane that takes so many times as long as with fewer in flight stands in a queue inside the
/// application; and one that begins to.
pub(super) const CROWDED: f64 = 2.0;
const CROWDING: f64 = 1.5;
/// How long it takes to go up where a few requests hold most slots, as a multiple of how long they
/// hold them.
const CAREFUL: f64 = 8.0;
/// A limit on the way up that is seen to do harm has been harmless until here, as a part of it.
const SHY: f64 = 0.75;
/// A change of the limit that takes its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ramp {
    from: u32,
    to: u32,
    began: Time,
    pub(super) seconds: f64,
}

impl Auto {
    /// Whether one of several lanes takes far longer by now than where fewer were in flight.
    pub(super) fn is_crowding(&self, sample: &Sample) -> bool {
        let (calm, times) = match self.arm {
            Arm::Level if sample.now >= self.settled && self.can_go_down() => (&self.calm, CROWDED),
            Arm::Level | Arm::Down => return false,
            // To give up a probe costs nothing.
            Arm::Up => (&self.at_level, CROWDING),
        };
        let Some(calm) = calm.as_ref().filter(|_| self.times.several()) else { return false };
        // Only the lane of this sample has changed.
        let mean = self.times.lanes.get(sample.lane);
        mean.is_some_and(|mean| calm.is_lane_crowded(sample.lane, *mean, times))
    }

    /// What is being measured does harm, perhaps: nobody needs to see more of it.
    pub(super) fn look_closer(&mut self, now: Time) {
        let window = std::mem::take(&mut self.window).close();
        match self.arm {
            Arm::Down => {}
            Arm::Up => {
                self.search = None;
                self.futile = self.futile.saturating_add(1);
                self.move_to(self.measured.max(SHY * f64::from(self.limit)));
                self.calm = self.at_level.clone();
                (self.ceiling, self.ceiling_for) = (self.level, CEILING);
                let relieve = self.overloaded && self.can_go_down();
                self.enter(if relieve { Arm::Down } else { Arm::Level }, now);
            }
            Arm::Level => {
                (self.below, self.calm) = (None, None);
                self.crowded = Some(self.times.lanes.clone());
                self.at_level = Some(window);
                self.search = None;
                self.enter(Arm::Down, now);
            }
        }
    }

    /// Where all requests take as long, a lower limit is reached soon. Where a few long ones hold
    /// most slots, the short ones would wait for them meanwhile, and get nothing: the way down
    /// takes twice the time that it takes at least, so that every other slot goes on to somebody.
    /// And what goes up step by step can be stopped before it does harm.
    pub(super) fn ramp_to(&self, to: u32, began: Time) -> Ramp {
        let from = self.limit;
        let part = f64::from(from.abs_diff(to)) / f64::from(from.max(to).max(1));
        let pace = if to > from { CAREFUL } else { 2.0 };
        Ramp { from, to, began, seconds: pace * part * self.times.lag() }
    }

    /// Where the limit is by now, on its way.
    pub(super) fn climb(&mut self, now: Time) {
        let Some(ramp) = self.ramp else { return };
        let passed = now.since(ramp.began).as_secs_f64();
        let part = if passed < ramp.seconds { passed / ramp.seconds } else { 1.0 };
        let (from, to) = (f64::from(ramp.from), f64::from(ramp.to));
        self.limit = (from + part * (to - from)).round() as u32;
        if part >= 1.0 {
            self.ramp = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::limits::AutoLimits;
    use crate::gate::types::Outcome;
    use std::time::Duration;

    const BOUNDS: AutoLimits = AutoLimits { min: 2, max: 500, max_latency: None };

    /// So many requests of 5 ms end, one millisecond after the other, and one in 40 of `long`.
    fn play(auto: &mut Auto, from: u64, requests: u64, short: u64, long: u64) {
        for number in 0..requests {
            let lane = usize::from(number % 40 == 0);
            let millis = if lane == 0 { short } else { long };
            auto.observe(&Sample {
                now: Time::from_nanos((from + number) * 1_000_000),
                lane,
                outcome: Outcome::Answered(Duration::from_millis(millis)),
                in_flight: auto.limit,
                full: true,
                turned_away: number,
            });
        }
    }

    #[test]
    fn a_limit_takes_its_time_where_a_few_hold_most_slots() {
        let mut auto = Auto::new(Time::ZERO, BOUNDS);
        play(&mut auto, 0, 400, 5, 5);
        assert!(auto.ramp_to(100, Time::ZERO).seconds < 0.001);
        let mut auto = Auto::new(Time::ZERO, BOUNDS);
        play(&mut auto, 0, 400, 5, 500);
        let (up, down) = (auto.ramp_to(16, Time::ZERO), auto.ramp_to(4, Time::ZERO));
        assert!(up.seconds > 2.0 * down.seconds && down.seconds > 0.1, "{up:?} {down:?}");
    }

    #[test]
    fn new_bounds_hold_at_once_even_on_the_way() {
        let mut auto = Auto::new(Time::ZERO, BOUNDS);
        play(&mut auto, 0, 400, 5, 500);
        auto.enter(Arm::Up, Time::from_nanos(400_000_000));
        play(&mut auto, 401, 100, 5, 500);
        auto.set_limits(Time::from_nanos(502_000_000), AutoLimits { max: 3, ..BOUNDS });
        for step in 0..20 {
            assert!(auto.limit <= 3, "{}", auto.limit);
            play(&mut auto, 503 + step * 50, 50, 5, 500);
        }
    }

    #[test]
    fn a_way_up_on_which_short_requests_suffer_is_not_gone_to_its_end() {
        let mut auto = Auto::new(Time::ZERO, BOUNDS);
        let mut now = 0;
        while auto.arm != Arm::Up {
            play(&mut auto, now, 40, 5, 500);
            now += 40;
        }
        let (before, end) = (auto.measured, auto.ramp.map_or(0, |ramp| ramp.to));
        play(&mut auto, now, 200, 20, 500);
        assert!(auto.arm != Arm::Up && auto.limit < end, "{} of {end}", auto.limit);
        assert!(auto.level >= before);
    }
}
