//! Limits set from outside the gate, by the rules of others, for comparison. Each has the gate's
//! queue before it and the defaults of where it comes from.
//!
//! - `aimd` and `gradient2` after Netflix concurrency-limits, `AIMDLimit.java`,
//!   `Gradient2Limit.java` and `WindowedLimit.java` (Apache-2.0).
//! - `gradient` after Envoy, `adaptive_concurrency/controller/gradient_controller.cc`
//!   (Apache-2.0), with the intervals of its documentation: 100 ms, and 60 s between probes.
//!
//! The rules are theirs, the code is ours.

use super::random::Random;
use super::scenario::Protection;

const MS: u64 = 1_000_000;

/// What came of one request, for a controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) now: u64,
    pub(super) granted: u64,
    /// Requests in flight when it ended, itself included.
    pub(super) in_flight: u32,
    /// It failed of overload, or timed out.
    pub(super) dropped: bool,
}

/// A rule that sets the limit.
#[derive(Debug)]
pub(super) enum Controller {
    Aimd(Aimd),
    Gradient(Gradient),
    Gradient2(Gradient2),
}

#[derive(Debug)]
pub(super) struct Aimd {
    limit: f64,
}

#[derive(Debug)]
pub(super) struct Gradient {
    limit: u32,
    /// While the least latency is measured: the limit to go back to.
    deferred: Option<u32>,
    epoch: u64,
    next_probe: u64,
    window_end: u64,
    samples: Vec<u64>,
    least: f64,
    at_minimum: u32,
    random: Random,
}

#[derive(Debug)]
pub(super) struct Gradient2 {
    limit: f64,
    long: f64,
    long_count: u32,
    /// Of the window: when it ends, the sum and number of samples, the most in flight, any drop.
    window_end: u64,
    sum: f64,
    count: u32,
    in_flight: u32,
    dropped: bool,
}

// === impl Controller ===

impl Controller {
    /// The controller of a protection; none where the gate finds its limit itself.
    pub(super) fn of(protection: Protection, seed: u64) -> Option<Controller> {
        match protection {
            Protection::None | Protection::Gate | Protection::Oracle => None,
            Protection::Aimd => Some(Controller::Aimd(Aimd { limit: 20.0 })),
            Protection::Gradient => Some(Controller::Gradient(Gradient::new(seed))),
            Protection::Gradient2 => Some(Controller::Gradient2(Gradient2::new())),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        match self {
            Controller::Aimd(aimd) => aimd.limit as u32,
            Controller::Gradient(gradient) => gradient.limit,
            Controller::Gradient2(gradient) => gradient.limit as u32,
        }
    }

    pub(super) fn sample(&mut self, sample: Sample) {
        match self {
            Controller::Aimd(aimd) => aimd.sample(sample),
            Controller::Gradient(gradient) => gradient.sample(sample),
            Controller::Gradient2(gradient) => gradient.sample(sample),
        }
    }
}

// === impl Aimd ===

impl Aimd {
    fn sample(&mut self, sample: Sample) {
        let slow = sample.now - sample.granted > 5_000 * MS;
        if sample.dropped || slow {
            self.limit *= 0.9;
        } else if f64::from(sample.in_flight) * 2.0 >= self.limit {
            self.limit += 1.0;
        }
        self.limit = self.limit.clamp(20.0, 200.0).floor();
    }
}

// === impl Gradient ===

const LEAST_LIMIT: u32 = 3;
const MOST_LIMIT: u32 = 1_000;
const PROBE_SAMPLES: usize = 50;

impl Gradient {
    fn new(seed: u64) -> Gradient {
        Gradient {
            limit: LEAST_LIMIT,
            deferred: Some(LEAST_LIMIT),
            epoch: 0,
            next_probe: u64::MAX,
            window_end: 100 * MS,
            samples: Vec::new(),
            least: 0.0,
            at_minimum: 0,
            random: Random::new(seed, 0xe4_0f),
        }
    }

    fn sample(&mut self, sample: Sample) {
        if sample.granted < self.epoch {
            return;
        }
        if self.deferred.is_none() && sample.now >= self.next_probe {
            self.deferred = Some(self.limit);
            (self.limit, self.epoch) = (LEAST_LIMIT, sample.now);
            self.samples.clear();
            return;
        }
        if !sample.dropped {
            self.samples.push(sample.now - sample.granted);
        }
        match self.deferred {
            Some(limit) if self.samples.len() >= PROBE_SAMPLES => {
                self.least = self.median();
                self.deferred = None;
                self.set(limit, sample.now);
                let jitter = u64::from(self.random.below(9_000)) * MS;
                self.next_probe = sample.now + 60_000 * MS + jitter;
                self.window_end = sample.now + 100 * MS;
            }
            None if sample.now >= self.window_end && !self.samples.is_empty() => {
                let recent = self.median();
                let gradient = (1.25 * self.least / recent.max(1.0)).clamp(0.5, 2.0);
                let limit = f64::from(self.limit) * gradient;
                let limit = (limit + limit.sqrt()) as u32;
                self.set(limit.clamp(LEAST_LIMIT, MOST_LIMIT), sample.now);
                self.window_end = sample.now + 100 * MS;
            }
            _ => {}
        }
    }

    /// Five windows at the minimum: the least latency was measured wrongly.
    fn set(&mut self, limit: u32, now: u64) {
        let stuck = self.limit == LEAST_LIMIT && limit == LEAST_LIMIT;
        self.at_minimum = if stuck { self.at_minimum + 1 } else { 0 };
        self.limit = limit;
        if self.at_minimum >= 5 {
            self.next_probe = now;
            self.at_minimum = 0;
        }
    }

    fn median(&mut self) -> f64 {
        let middle = self.samples.len() / 2;
        let (_, median, _) = self.samples.select_nth_unstable(middle);
        let median = *median as f64;
        self.samples.clear();
        median
    }
}

// === impl Gradient2 ===

impl Gradient2 {
    fn new() -> Gradient2 {
        Gradient2 {
            limit: 20.0,
            long: 0.0,
            long_count: 0,
            window_end: 1_000 * MS,
            sum: 0.0,
            count: 0,
            in_flight: 0,
            dropped: false,
        }
    }

    fn sample(&mut self, sample: Sample) {
        self.sum += (sample.now - sample.granted) as f64;
        self.count += 1;
        self.in_flight = self.in_flight.max(sample.in_flight);
        self.dropped |= sample.dropped;
        if sample.now < self.window_end || self.count < 10 {
            return;
        }
        let short = self.sum / f64::from(self.count);
        self.update(short);
        (self.sum, self.count, self.in_flight, self.dropped) = (0.0, 0, 0, false);
        self.window_end = sample.now + 1_000 * MS;
    }

    fn update(&mut self, short: f64) {
        // An average of the first ten, then one that forgets over 600.
        if self.long_count < 10 {
            self.long_count += 1;
            self.long += (short - self.long) / f64::from(self.long_count);
        } else {
            self.long += (short - self.long) * 2.0 / 601.0;
        }
        if self.long / short > 2.0 {
            self.long *= 0.9;
        }
        if f64::from(self.in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (self.long / short).clamp(0.5, 1.0);
        let limit = self.limit * gradient + 4.0;
        self.limit = (self.limit * 0.8 + limit * 0.2).clamp(20.0, 200.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(now: u64, latency: u64, in_flight: u32) -> Sample {
        Sample { now, granted: now - latency, in_flight, dropped: false }
    }

    #[test]
    fn gradient_probes_first_and_then_grows_while_latency_is_low() {
        let mut controller = Controller::of(Protection::Gradient, 1).unwrap();
        for count in 1..=49 {
            controller.sample(sample((20 + count) * MS, 20 * MS, 3));
            assert_eq!(controller.limit(), 3);
        }
        for count in 50..1_000 {
            controller.sample(sample((20 + count) * MS, 20 * MS, 3));
        }
        assert!(controller.limit() >= 12, "{}", controller.limit());
        for count in 1_000..1_450 {
            controller.sample(sample((20 + count) * MS, 200 * MS, 3));
        }
        assert!(controller.limit() < 12, "{}", controller.limit());
    }

    #[test]
    fn gradient2_grows_while_in_use_and_shrinks_when_slower() {
        let mut controller = Controller::of(Protection::Gradient2, 1).unwrap();
        for count in 0..20_000 {
            controller.sample(sample((20 + count) * MS, 20 * MS, 100));
        }
        let high = controller.limit();
        assert!(high > 30, "{high}");
        for count in 20_000..40_000 {
            controller.sample(sample((20 + count) * MS, 100 * MS, 100));
        }
        assert!(controller.limit() < high, "{}", controller.limit());
    }

    #[test]
    fn aimd_falls_by_a_tenth() {
        let mut controller = Controller::of(Protection::Aimd, 1).unwrap();
        for count in 0..20 {
            controller.sample(sample((20 + count) * MS, 20 * MS, 100));
        }
        assert_eq!(controller.limit(), 40);
        controller.sample(Sample { dropped: true, ..sample(100 * MS, 20 * MS, 100) });
        assert_eq!(controller.limit(), 36);
    }
}
