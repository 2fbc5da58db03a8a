//! What two measurements say of the application, and where the level goes.

use std::time::Duration;

use super::lanes::CROWDED;
use super::window::{APART, Measured, Window};
use super::{Arm, Auto, DRIFT, SATURATED, Search};

/// How far above what the application can work on the level lies: the probe then lies just below.
const HEADROOM: f64 = 1.25;
/// Measurements are off by so many standard deviations in all: it has changed. By chance this
/// happens once in a hundred probes.
const SURPRISE: f64 = 3.5;
/// One of so many probes tries twice as much, and one of so many half.
const UPWARDS: u32 = 10;
const HALVES: u32 = 30;
/// With twice as many in flight, throughput should rise by this part of that at least.
const RISE: f64 = 0.3;
/// By so many standard deviations it must lie below that to be judged before its time, and so many
/// answers must have come.
const BEYOND_DOUBT: f64 = 1.5;
const LEAST_ANSWERS: f64 = 8.0;
/// With less than this part of the throughput, half of the level was not enough after all.
const REGRET: f64 = 0.88;
/// A ceiling holds for so many probes.
pub(super) const CEILING: u32 = 40;
/// The level goes down only after so many completions without a pause in saturation: a gate that is
/// full now and then is not overloaded, and is full just when the application happens to be slow.
pub(super) const PERSISTENT: u32 = 250;

/// The level for an application that can work on so many at once. The part of a place more keeps
/// the probe of a small level from being rounded to far below.
fn with_headroom(useful: f64) -> f64 {
    HEADROOM * useful + 0.5
}

/// The variance of the ratio of two throughputs, of which so many answers count. The variation
/// is bounded: what few answers show of it may be far off.
fn noise(variation: f64, one: f64, other: f64) -> f64 {
    variation.clamp(0.15, 4.0) * (1.0 / one.max(1.0) + 1.0 / other.max(1.0))
}

impl Auto {
    /// Compares the level with what was measured below it just before, and chooses the next probe.
    pub(super) fn judge_level(&mut self, window: Window) -> Arm {
        self.seen.throughput = window.rate();
        self.seen.latency = Duration::from_secs_f64(self.times.mean);
        let level = window.close();
        self.measured = self.level;
        if let Some(below) = self.below.take()
            && let Some(elasticity) = below.elasticity(&level, &self.times.lanes)
        {
            self.report(elasticity, &below);
            self.correct(&below, &level, elasticity);
            self.make_room(&below, &level);
        }
        if let Some((before, measured)) = self.before.take()
            && level.throughput(&self.times.lanes) < REGRET * measured.throughput(&self.times.lanes)
        {
            self.jump_to(before);
            return Arm::Level;
        }
        self.at_level = Some(level);
        self.next_probe()
    }

    /// Moves the level towards what was measured, as far as that is more certain than the level
    /// (a Kalman filter of one number).
    fn correct(&mut self, below: &Measured, level: &Measured, elasticity: f64) {
        // What requests wait inside the application makes their times alike, and not throughput.
        let stretch = (level.pace() / below.pace()).clamp(1.0, 2.0);
        let variation = self.times.variation * stretch.powi(2);
        let lanes = &self.times.lanes;
        let noise = noise(variation, below.effective(lanes), level.effective(lanes));
        self.doubt += DRIFT.powi(2);
        // Slots that are kept for a lane that does not use them do not count.
        let idle = (f64::from(self.limit) - level.in_flight).max(0.0);
        let useful = below.useful(level, &self.times.lanes);
        let off = (with_headroom(useful) + idle) / self.level - 1.0;
        let surprise = off / (self.doubt + noise).sqrt();
        self.rising = (self.rising + surprise - 0.5).max(0.0);
        self.falling = (self.falling - surprise - 0.5).max(0.0);
        let gain = self.doubt / (self.doubt + noise);
        self.doubt *= 1.0 - gain;
        if off > 0.0 || self.overloaded {
            self.move_to(self.level * (1.0 + gain * off));
        }
        // One standard deviation: to have looked upwards in vain costs less than to climb slowly
        // after a failure.
        let scales = elasticity > 0.8 && off > noise.sqrt();
        if (self.rising > SURPRISE || scales) && self.ceiling_for == 0 {
            (self.rising, self.search) = (0.0, Some(Search::Up));
        } else if self.falling > SURPRISE {
            (self.falling, self.search) = (0.0, Some(Search::Down));
        }
    }

    /// Where the short requests of one lane queue up inside the application behind the long ones of
    /// another, nothing that waits there can be put in order: the level stays below for a while.
    fn make_room(&mut self, below: &Measured, level: &Measured) {
        self.ceiling_for = self.ceiling_for.saturating_sub(1);
        if below.crowds_out(level) {
            self.stay_near(f64::from(self.probe_below()));
        }
        if self.ceiling_for > 0 && self.level > self.ceiling {
            self.move_to(self.ceiling);
        }
    }

    /// A little above what did no harm.
    fn stay_near(&mut self, calm: f64) {
        self.ceiling = calm + (self.level - calm).max(0.0) / 3.0;
        self.ceiling_for = CEILING;
        self.move_to(self.ceiling);
    }

    /// Seven tenths, most of the time; in between twice as much, and half.
    fn next_probe(&mut self) -> Arm {
        if matches!(self.search, Some(Search::Any | Search::Up)) {
            return Arm::Up;
        }
        if self.search.is_none() {
            self.probes += 1;
            if self.probes.is_multiple_of(UPWARDS << self.futile.min(2)) {
                return Arm::Up;
            }
            // Half of a small level costs more, and says less. But nothing else leads down from one
            // whose probe, a whole number, gives it back to itself.
            let every = if self.is_small() { 2 * HALVES } else { HALVES };
            let due = self.probes % every == every / 2;
            if (self.suspect || due) && self.spell >= PERSISTENT {
                self.search = Some(Search::Down);
            }
        }
        match (self.overloaded, self.can_go_down()) {
            // What the queue absorbs needs no lower limit, and nothing is cut to look for one.
            (false, _) => {
                self.search = None;
                // Less and less often, if it brings nothing.
                let every = 2 << self.futile.min(3);
                if self.probes.is_multiple_of(every) { Arm::Up } else { Arm::Level }
            }
            (true, false) => Arm::Up,
            (true, true) => Arm::Down,
        }
    }

    /// With fewer in flight: did throughput fall with them?
    pub(super) fn judge_down(&mut self, below: Measured, level: Measured) -> Arm {
        let crowded = self.crowded.take();
        if crowded.is_some_and(|lanes| below.is_crowded(&lanes, CROWDED)) {
            self.stay_near(f64::from(self.limit));
            return Arm::Level;
        }
        if self.search.is_none() {
            // Judged beside the level that comes next: one that was full before the probe was
            // perhaps full because the application happened to be slow.
            self.below = Some(below);
            return Arm::Level;
        }
        let elasticity = below.elasticity(&level, &self.times.lanes).unwrap_or(1.0);
        self.report(elasticity, &below);
        let low = elasticity < if self.is_unsure() { 0.3 } else { 0.15 };
        // A level that had proven itself is given up on a second look only.
        let doubted = low && !self.suspect && self.probes > 0;
        self.suspect = doubted;
        if low && !doubted {
            // The knee lies below: look there at once, from what has just been measured.
            if self.probes > 0 && self.before.is_none() {
                self.before = Some((self.level, level));
            }
            self.jump_to(below.in_flight);
            self.at_level = Some(below);
            if self.can_go_down() {
                return Arm::Down;
            }
        } else if elasticity < 0.7 && self.probes == 0 {
            self.jump_to(with_headroom(below.useful(&level, &self.times.lanes)));
        } else if elasticity > 0.8 && self.probes > 0 && self.ceiling_for == 0 {
            // Half brought half: the knee lies above.
            (self.at_level, self.search) = (Some(level), Some(Search::Up));
            return Arm::Up;
        }
        self.search = None;
        Arm::Level
    }

    /// Whether twice as many in flight bring nothing, beyond doubt and before its time: where the
    /// application suffers from them, little ends, and to wait for all the evidence takes long.
    pub(super) fn brings_nothing(&self) -> bool {
        let (Arm::Up, Some(level)) = (self.arm, &self.at_level) else { return false };
        let (above, lanes) = (&self.window, &self.times.lanes);
        let answers = above.effective(lanes);
        let filled = above.mean_in_flight() >= SATURATED * f64::from(self.limit);
        // One that does not answer at all says nothing of how much it can do.
        if answers < LEAST_ANSWERS || !filled {
            return false;
        }
        let noise = noise(self.times.variation, answers, level.effective(lanes));
        let rise = (above.mean_in_flight() / level.in_flight).ln();
        let more = (above.throughput(lanes) / level.throughput(lanes)).ln();
        rise > APART && more + BEYOND_DOUBT * noise.sqrt() < RISE * rise
    }

    /// With twice as many in flight: did throughput rise with them?
    pub(super) fn judge_up(&mut self, above: Measured, level: Measured) -> Arm {
        let filled = above.in_flight >= SATURATED * f64::from(self.limit);
        // Where few are most of the work throughput is a matter of luck; that all found a place who
        // did not before is not.
        let fits = self.times.is_mixed() && self.overloaded && above.saturation < 0.5;
        let enough = if fits { f64::NEG_INFINITY } else { RISE };
        let elasticity = level.elasticity(&above, &self.times.lanes);
        let overloaded = filled && elasticity.is_some_and(|elasticity| elasticity < RISE);
        let search = self.search.take();
        self.looked_twice &= search.is_some();
        self.futile = self.futile.saturating_add(1);
        let crowds_out = level.crowds_out(&above);
        if let Some(elasticity) = elasticity.filter(|part| *part > 0.45 && !crowds_out) {
            self.report(elasticity, &level);
            (self.futile, self.ceiling_for) = (0, 0);
            if elasticity < 0.8 {
                self.jump_to(with_headroom(level.useful(&above, &self.times.lanes)));
            } else {
                self.jump_to(above.in_flight);
                self.measured = self.level;
                if filled && self.limit_of(self.level) < self.limits.max {
                    (self.at_level, self.search) = (Some(above), Some(Search::Up));
                    return Arm::Up;
                }
            }
        } else if !filled && elasticity.is_none_or(|part| part > enough) && !crowds_out {
            // All who came found a place.
            self.futile = 0;
            self.move_to(with_headroom(above.in_flight).max(self.level));
        } else if search.is_some() && self.times.is_mixed() && !crowds_out && !self.looked_twice {
            (self.looked_twice, self.search) = (true, search);
            return Arm::Level;
        } else if search == Some(Search::Any) && overloaded {
            if !self.overloaded {
                self.search = search;
                return Arm::Level;
            }
            self.search = Some(Search::Down);
            if self.can_go_down() {
                self.at_level = Some(level);
                return Arm::Down;
            }
        }
        self.search = None;
        Arm::Level
    }
}
