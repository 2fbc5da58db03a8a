//! What is counted while a limit stays where it is, and how two such counts are compared.

use super::Sample;
use crate::gate::time::Time;
use crate::gate::types::Outcome;

/// Two windows whose requests in flight differ by less say nothing.
pub(super) const APART: f64 = 0.1;
/// Answers of a lane that make its mean count.
const CROWD: u32 = 50;

/// A window that is open.
#[derive(Debug, Default)]
pub(super) struct Window {
    began: Option<Time>,
    latest: Time,
    answered: Vec<Answers>,
    completed: u32,
    pub(super) failed: u32,
    /// Ended without anybody knowing how: the client left.
    pub(super) lost: u32,
    at_limit: u32,
    /// Time integral of what is in flight, in seconds.
    in_flight: f64,
}

/// A window that was closed.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Mean in flight.
    pub(super) in_flight: f64,
    pub(super) ended: f64,
    /// What ended where no lane could have had one more, as a part.
    pub(super) saturation: f64,
    seconds: f64,
    answered: Vec<Answers>,
}

/// The answers of one lane.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    count: u32,
    /// Sum of their service times.
    seconds: f64,
}

// === impl Window ===

impl Window {
    pub(super) fn add(&mut self, sample: &Sample) {
        if self.began.is_none() {
            // The time runs from a completion to a completion.
            (self.began, self.latest) = (Some(sample.now), sample.now);
            return;
        }
        let elapsed = sample.now.since(self.latest).as_secs_f64();
        self.in_flight += elapsed * f64::from(sample.in_flight);
        self.latest = sample.now;
        match sample.outcome {
            Outcome::Answered(time) => {
                if self.answered.len() <= sample.lane {
                    self.answered.resize(sample.lane + 1, Answers::default());
                }
                self.answered[sample.lane].count += 1;
                self.answered[sample.lane].seconds += time.as_secs_f64();
                self.completed += 1;
            }
            Outcome::Overloaded | Outcome::TimedOut => self.failed += 1,
            Outcome::Unknown => self.lost += 1,
        }
        self.at_limit += u32::from(sample.full);
    }

    pub(super) fn ended(&self) -> u32 {
        self.completed + self.failed + self.lost
    }

    /// A part of what ended.
    pub(super) fn part(&self, count: u32) -> f64 {
        f64::from(count) / f64::from(self.ended().max(1))
    }

    /// How much of the time of slots was spent on those that have ended, as a part.
    pub(super) fn accounted(&self) -> f64 {
        let ended: f64 = self.answered.iter().map(|lane| lane.seconds).sum();
        ended / self.in_flight.max(1e-9)
    }

    /// What ended at the limit, as a part.
    pub(super) fn saturation(&self) -> f64 {
        self.part(self.at_limit)
    }

    /// How many answers count: where a few long ones are most of the work, only these do.
    pub(super) fn effective(&self, weights: &[f64]) -> f64 {
        effective(&self.answered, weights)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.began.map_or(0.0, |began| self.latest.since(began).as_secs_f64())
    }

    /// Answers a second.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.completed) / self.seconds().max(1e-9)
    }

    /// See [`Measured::throughput`].
    pub(super) fn throughput(&self, weights: &[f64]) -> f64 {
        throughput(&self.answered, self.seconds(), weights)
    }

    pub(super) fn mean_in_flight(&self) -> f64 {
        self.in_flight / self.seconds().max(1e-9)
    }

    /// The time that one took, by Little's law.
    pub(super) fn pace(&self) -> f64 {
        self.in_flight / f64::from(self.ended().max(1))
    }

    pub(super) fn close(self) -> Measured {
        let seconds = self.seconds().max(1e-9);
        let (in_flight, ended) = (self.mean_in_flight(), f64::from(self.ended()));
        let saturation = self.saturation();
        Measured { in_flight, ended, saturation, seconds, answered: self.answered }
    }
}

// === impl Measured ===

impl Measured {
    /// Throughput, each answer weighted with the mean service time of its lane: what the
    /// application works on at once, if `weights` are its service times.
    pub(super) fn throughput(&self, weights: &[f64]) -> f64 {
        throughput(&self.answered, self.seconds, weights)
    }

    /// How many answers count.
    pub(super) fn effective(&self, weights: &[f64]) -> f64 {
        effective(&self.answered, weights)
    }

    /// The time that one took, by Little's law.
    pub(super) fn pace(&self) -> f64 {
        self.in_flight * self.seconds / self.ended.max(1.0)
    }

    /// The part of a rise of what is in flight, from here to `above`, that throughput followed;
    /// `None`: they are too close to each other to tell.
    pub(super) fn elasticity(&self, above: &Measured, weights: &[f64]) -> Option<f64> {
        let rise = (above.in_flight / self.in_flight).ln();
        let more = above.throughput(weights) / self.throughput(weights);
        (rise > APART).then(|| more.ln() / rise)
    }

    /// What the application can work on at once, by Little's law: the throughput of `above`, and
    /// the time that one takes here, where none queues up inside.
    pub(super) fn useful(&self, above: &Measured, weights: &[f64]) -> f64 {
        let more = above.throughput(weights) / self.throughput(weights);
        let useful = self.in_flight * more;
        useful.clamp(0.6 * above.in_flight, 1.1 * above.in_flight)
    }

    /// Whether one of several lanes takes so many times as long as here, with these mean times.
    pub(super) fn is_crowded(&self, lanes: &[f64], times: f64) -> bool {
        let mut lanes = lanes.iter().enumerate();
        lanes.any(|(lane, mean)| self.is_lane_crowded(lane, *mean, times))
    }

    /// The same of one lane.
    pub(super) fn is_lane_crowded(&self, lane: usize, mean: f64, times: f64) -> bool {
        let here = self.answered.get(lane).filter(|here| here.count >= CROWD);
        here.is_some_and(|here| mean > times * here.mean())
    }

    /// Whether one of several lanes takes far longer `above` than here, because its short requests
    /// stand in a queue inside the application behind the long ones of others.
    pub(super) fn crowds_out(&self, above: &Measured) -> bool {
        let several = above.answered.iter().filter(|lane| lane.count > 0).count() > 1;
        let mut lanes = self.answered.iter().zip(&above.answered);
        several
            && lanes.any(|(below, above)| {
                below.count.min(above.count) >= CROWD && above.mean() > 2.0 * below.mean()
            })
    }
}

fn throughput(answered: &[Answers], seconds: f64, weights: &[f64]) -> f64 {
    let counts = answered.iter().zip(weights);
    let work: f64 = counts.map(|(lane, weight)| f64::from(lane.count) * weight).sum();
    (work / seconds.max(1e-9)).max(1e-12)
}

/// The number of equal answers that would be as certain (Kish's effective sample size).
fn effective(answered: &[Answers], weights: &[f64]) -> f64 {
    let (mut sum, mut squares) = (0.0, 0.0);
    for (lane, weight) in answered.iter().zip(weights) {
        sum += f64::from(lane.count) * weight;
        squares += f64::from(lane.count) * weight.powi(2);
    }
    if squares > 0.0 { sum.powi(2) / squares } else { 0.0 }
}

// === impl Answers ===

impl Answers {
    fn mean(&self) -> f64 {
        self.seconds / f64::from(self.count)
    }
}
