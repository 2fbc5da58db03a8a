//! How long requests take, lane by lane, and how long it takes until others are in flight.

/// One request counts as at most so many means more than the mean.
const OUTLIER: f64 = 3.0;
/// Requests over which service times are averaged.
const SMOOTHING: f64 = 64.0;
/// Slots over which the turnover is averaged.
const SLOTS: f64 = 32.0;

/// Mean service times, in seconds.
#[derive(Debug)]
pub(super) struct Times {
    /// Of all requests.
    pub(super) mean: f64,
    /// The squared coefficient of variation within a lane.
    pub(super) variation: f64,
    /// Of each lane.
    pub(super) lanes: Vec<f64>,
    /// How many have ended, of each lane, as far as it matters.
    ended: Vec<f64>,
    /// Lanes of which any has ended.
    known: u32,
    /// The mean of `lanes`, each as often as it holds a slot.
    long: f64,
}

// === impl Times ===

impl Times {
    pub(super) fn new() -> Times {
        Times {
            mean: 0.0,
            variation: 1.0,
            lanes: Vec::new(),
            ended: Vec::new(),
            known: 0,
            long: 0.0,
        }
    }

    pub(super) fn note(&mut self, lane: usize, seconds: f64) {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, 0.0);
            self.ended.resize(lane + 1, 0.0);
        }
        // The first are worth as much as each other: what ends first is not what takes longest.
        self.ended[lane] = (self.ended[lane] + 1.0).min(SMOOTHING);
        let mean = &mut self.lanes[lane];
        if *mean == 0.0 {
            *mean = seconds.max(1e-9);
            self.known += 1;
        }
        let apart = (seconds / *mean - 1.0).min(OUTLIER);
        *mean += *mean * apart / self.ended[lane];
        self.variation += (apart * apart - self.variation) / SMOOTHING;
        if self.mean == 0.0 {
            self.mean = seconds;
        }
        self.mean += (seconds - self.mean) / SMOOTHING;
        let held = self.lanes[lane];
        let weight = (held / (SLOTS * self.long.max(1e-9))).min(1.0);
        self.long += (held - self.long) * weight;
    }

    /// How long a slot is held, as a mean over slots and not over requests: where a few long ones
    /// hold most of the slots, so long does it take until a change of the limit is felt by all.
    pub(super) fn turnover(&self) -> f64 {
        if self.several() { self.long.max(self.mean) } else { self.mean }
    }

    /// How much longer that is than the shortest of them take: nothing where all are alike.
    pub(super) fn lag(&self) -> f64 {
        if self.several() { (self.long - self.shortest()).max(0.0) } else { 0.0 }
    }

    /// Whether most slots are held by far longer requests than the shortest.
    pub(super) fn is_mixed(&self) -> bool {
        self.several() && self.long > 2.0 * self.shortest()
    }

    fn shortest(&self) -> f64 {
        let known = self.lanes.iter().filter(|mean| **mean > 0.0);
        known.copied().fold(f64::INFINITY, f64::min)
    }

    /// Whether there is more than one lane.
    pub(super) fn several(&self) -> bool {
        self.known > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lane_turns_over_in_its_mean_time() {
        let mut times = Times::new();
        (0..1_000).for_each(|_| times.note(3, 0.02));
        assert!((times.turnover() - 0.02).abs() < 1e-9 && times.lag().abs() < 1e-9);
    }

    #[test]
    fn few_long_ones_hold_most_of_the_slots() {
        let mut times = Times::new();
        for request in 0..100_000 {
            let long = request % 40 == 0;
            times.note(usize::from(long), if long { 0.5 } else { 0.005 });
        }
        // (39 x 0.005^2 + 0.5^2) / (39 x 0.005 + 0.5) = 0.361 s.
        assert!((times.turnover() / 0.361 - 1.0).abs() < 0.1, "{}", times.turnover());
    }
}
