//! A limit that finds itself, by asking whether more in flight brings more throughput.
//!
//! Latency alone cannot tell an application that is slower from one that has too much to do, and a
//! baseline that was measured once goes stale. So both are measured at the same time. While the
//! gate is saturated, the limit alternates between a *level* and short *probes*: three quarters of
//! it (or half of it, while little is known), and now and then twice as much. What a probe holds
//! back waits in our own queue, so that a probe turns nobody away by itself.
//!
//! With `N` in flight and `T` completed a second, `W = N / T` is the time that one takes (Little's
//! law). If the application has a place free for each of them, `W` does not depend on `N`; if they
//! queue up inside, it grows with `N`. The application can work on `T(level) x W(probe)` at once,
//! if the probe lies below the knee, and on no more than the probe otherwise: the level moves to
//! 1.15 times that, and so settles where all places are taken and hardly anybody queues inside.
//! A slow-down that has nothing to do with load raises both and moves nothing; a change of the mix
//! of requests is weighted out by the mean time of each lane.
//!
//! Not saturated, it learns nothing and changes nothing.

use std::time::Duration;

use super::limits::AutoLimits;
use super::snapshot::{AutoDecision, AutoSnapshot};
use super::time::Time;
use super::types::Outcome;

/// Where it begins.
const START: u32 = 16;
/// How far above what the application can work on the level lies: the probe must lie below it.
const HEADROOM: f64 = 1.15;
/// How far one probe moves the level: it is measured in a hurry.
const GAIN: f64 = 0.4;
/// Completions to measure a level, and a probe.
const LEVEL_SAMPLES: u32 = 60;
const PROBE_SAMPLES: u32 = 30;
/// Mean times of a request that a change of the limit needs to show, and that are measured at least.
const SETTLE: f64 = 1.5;
const SPAN: f64 = 2.0;
/// Probes between two that try twice as much.
const UPWARDS: u32 = 5;
/// Completions at the limit, in parts of all, that make a window count.
const SATURATED: f64 = 0.9;
/// More failures than this mean overload; more than `OUTAGE`, that it is down for other reasons.
const FAILURES: f64 = 0.02;
const OUTAGE: f64 = 0.5;
/// Weight of the newest mean of a lane.
const LANE_GAIN: f64 = 0.3;

/// The limit and what is known of the application.
#[derive(Debug)]
pub(super) struct Auto {
    limits: AutoLimits,
    level: f64,
    /// What is in force: the level, or a probe.
    limit: u32,
    arm: Arm,
    settled: Time,
    window: Window,
    /// What was measured at the level, from which the present probe differs.
    at_level: Option<Measured>,
    /// Little is known: probes are wide.
    wide: bool,
    since_upwards: u32,
    /// Mean service time, in seconds.
    service: f64,
    lanes: Vec<LaneMean>,
    seen: AutoSnapshot,
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) now: Time,
    pub(super) lane: usize,
    pub(super) outcome: Outcome,
    /// Before its slot came back.
    pub(super) in_flight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Level,
    Down,
    Up,
}

/// What is counted while the limit stays where it is.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began: Option<Time>,
    latest: Time,
    completed: u32,
    failed: u32,
    at_limit: u32,
    /// Completions, each weighted with the mean of its lane.
    work: f64,
    /// Time integral of what is in flight, in seconds.
    in_flight: f64,
}

/// One window, evaluated.
#[derive(Clone, Copy, Debug)]
struct Measured {
    in_flight: f64,
    /// Weighted completions a second.
    throughput: f64,
}

/// Mean service time of a lane, in seconds. The weight stays while windows are compared.
#[derive(Clone, Copy, Debug, Default)]
struct LaneMean {
    weight: f64,
    sum: f64,
    count: f64,
}

// === impl Auto ===

impl Auto {
    pub(super) fn new(now: Time, limits: AutoLimits) -> Auto {
        let level = START.clamp(limits.min, limits.max);
        Auto {
            limits,
            level: f64::from(level),
            limit: level,
            arm: Arm::Level,
            settled: now,
            window: Window::default(),
            at_level: None,
            wide: true,
            since_upwards: 0,
            service: 0.0,
            lanes: Vec::new(),
            seen: AutoSnapshot::default(),
        }
    }

    pub(super) fn set_limits(&mut self, limits: AutoLimits) {
        self.limits = limits;
        self.level = self.bounded(self.level);
        let now = self.settled;
        self.enter(Arm::Level, now);
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    pub(super) fn snapshot(&self) -> AutoSnapshot {
        self.seen
    }

    /// Learns from a request that has ended.
    pub(super) fn observe(&mut self, sample: &Sample) {
        match sample.outcome {
            Outcome::Unknown => return,
            Outcome::Answered(time) => self.note(sample.lane, time.as_secs_f64()),
            Outcome::Overloaded | Outcome::TimedOut => {}
        }
        if sample.now < self.settled {
            return;
        }
        let weight = self.weight(sample.lane);
        self.window.add(sample, weight, self.limit);
        if self.window.completed >= 8 && self.is_slack() {
            return self.enter(Arm::Level, sample.now);
        }
        let needed = if self.arm == Arm::Level { LEVEL_SAMPLES } else { PROBE_SAMPLES };
        let long_enough = self.window.seconds() >= SPAN * self.service;
        if self.window.completed + self.window.failed >= needed && long_enough {
            self.conclude(sample.now);
        }
    }

    /// Whether what was measured is not a full limit: then there is nothing to learn from it. Twice
    /// the level is not always filled.
    fn is_slack(&self) -> bool {
        let Window { at_limit, completed, .. } = self.window;
        self.arm != Arm::Up && f64::from(at_limit) < SATURATED * f64::from(completed)
    }

    fn conclude(&mut self, now: Time) {
        let window = self.window;
        let measured = window.evaluate();
        if self.backs_off(&window) {
            self.decide(AutoDecision::BackOff);
            return self.enter(Arm::Level, now);
        }
        match (self.arm, self.at_level) {
            (Arm::Down, Some(level)) => self.judge_down(measured, level, now),
            (Arm::Up, Some(level)) => self.judge_up(measured, level, now),
            _ => self.measured_level(measured, window, now),
        }
    }

    fn measured_level(&mut self, measured: Measured, window: Window, now: Time) {
        self.fold_lanes();
        self.at_level = Some(measured);
        self.seen.throughput = f64::from(window.completed) / window.seconds();
        self.seen.latency = Duration::from_secs_f64(self.service);
        self.next_probe(now);
    }

    fn next_probe(&mut self, now: Time) {
        self.since_upwards += 1;
        let down = self.probe_below() < self.limit_of(self.level);
        if !down || self.since_upwards > UPWARDS {
            self.since_upwards = 0;
            return self.enter(Arm::Up, now);
        }
        self.enter(Arm::Down, now);
    }

    /// With fewer in flight: did throughput fall with them?
    fn judge_down(&mut self, below: Measured, level: Measured, now: Time) {
        let Some(elasticity) = elasticity(&below, &level) else {
            return self.enter(Arm::Level, now);
        };
        // Little's law, with the throughput of the level and the time that one takes below.
        let useful = level.throughput * below.in_flight / below.throughput;
        let wanted = HEADROOM * useful.clamp(below.in_flight, level.in_flight);
        self.report(elasticity, &below);
        if !self.wide {
            self.move_to(self.level + GAIN * (wanted - self.level));
            return self.enter(Arm::Level, now);
        }
        if elasticity < 0.3 {
            // The knee lies below: look there at once, from what has just been measured.
            self.move_to(below.in_flight);
            self.at_level = Some(below);
            if self.probe_below() < self.limit_of(self.level) {
                return self.enter(Arm::Down, now);
            }
        } else if elasticity > 0.7 {
            return self.enter(Arm::Up, now);
        } else {
            self.move_to(wanted);
        }
        self.wide = false;
        self.enter(Arm::Level, now);
    }

    /// With twice as many in flight: did throughput rise with them?
    fn judge_up(&mut self, above: Measured, level: Measured, now: Time) {
        let Some(elasticity) = elasticity(&level, &above) else {
            self.wide = false;
            return self.enter(Arm::Level, now);
        };
        if elasticity > 0.5 {
            self.report(elasticity, &level);
            self.move_to(above.in_flight);
            self.at_level = Some(above);
            self.wide = true;
            if self.limit_of(self.level) < self.limits.max {
                return self.enter(Arm::Up, now);
            }
        }
        self.wide = false;
        self.enter(Arm::Level, now);
    }

    /// The application fails: down, whatever the throughput.
    fn backs_off(&mut self, window: &Window) -> bool {
        let failed = f64::from(window.failed) / f64::from(window.failed + window.completed);
        let slow = self.limits.max_latency.is_some_and(|max| self.service > max.as_secs_f64());
        if !slow && (failed <= FAILURES || failed > OUTAGE) {
            return false;
        }
        self.level = self.bounded(self.level * 0.85);
        true
    }

    fn move_to(&mut self, level: f64) {
        let before = self.limit_of(self.level);
        self.level = self.bounded(level);
        self.decide(match self.limit_of(self.level).cmp(&before) {
            std::cmp::Ordering::Less => AutoDecision::Shrink,
            std::cmp::Ordering::Equal => AutoDecision::Hold,
            std::cmp::Ordering::Greater => AutoDecision::Grow,
        });
    }

    fn decide(&mut self, decision: AutoDecision) {
        self.seen.decision = decision;
        self.seen.decisions[decision as usize] += 1;
    }

    fn report(&mut self, elasticity: f64, below: &Measured) {
        self.seen.elasticity = elasticity.clamp(0.0, 1.0);
        // Weighted completions count in seconds; one mean request is worth its service time.
        let taken = self.service * below.in_flight / below.throughput.max(f64::MIN_POSITIVE);
        self.seen.baseline = Duration::try_from_secs_f64(taken).unwrap_or_default();
    }

    fn enter(&mut self, arm: Arm, now: Time) {
        let before = self.limit;
        self.arm = arm;
        self.limit = match arm {
            Arm::Level => self.limit_of(self.level),
            Arm::Down => self.probe_below(),
            Arm::Up => self.limit_of(self.level).saturating_mul(2).min(self.limits.max),
        };
        self.window = Window::default();
        if self.limit != before {
            self.settled = now + Duration::from_secs_f64(SETTLE * self.service);
        }
    }

    fn probe_below(&self) -> u32 {
        let level = self.limit_of(self.level);
        let below = if self.wide { level / 2 } else { level * 3 / 4 };
        below.min(level.saturating_sub(1)).max(self.limits.min)
    }

    fn limit_of(&self, level: f64) -> u32 {
        (level.round() as u32).clamp(self.limits.min, self.limits.max)
    }

    fn bounded(&self, level: f64) -> f64 {
        level.clamp(f64::from(self.limits.min), f64::from(self.limits.max))
    }

    fn note(&mut self, lane: usize, seconds: f64) {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, LaneMean::default());
        }
        self.lanes[lane].sum += seconds;
        self.lanes[lane].count += 1.0;
        self.service = match self.service {
            0.0 => seconds,
            mean => mean + (seconds - mean) / 32.0,
        };
    }

    /// What a completion of this lane counts.
    fn weight(&self, lane: usize) -> f64 {
        let known = self.lanes.get(lane).map_or(0.0, |mean| mean.weight);
        if known > 0.0 { known } else { self.service.max(f64::MIN_POSITIVE) }
    }

    fn fold_lanes(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.count > 0.0) {
            let mean = lane.sum / lane.count;
            let first = lane.weight == 0.0;
            lane.weight += if first { mean } else { LANE_GAIN * (mean - lane.weight) };
            (lane.sum, lane.count) = (0.0, 0.0);
        }
    }
}

/// The part of a rise from `few` to `many` in flight that throughput followed; `None`: they are too
/// close to each other to tell.
fn elasticity(few: &Measured, many: &Measured) -> Option<f64> {
    let rise = (many.in_flight / few.in_flight).ln();
    (rise > 0.1).then(|| (many.throughput / few.throughput).ln() / rise)
}

// === impl Window ===

impl Window {
    fn add(&mut self, sample: &Sample, weight: f64, limit: u32) {
        if self.began.is_none() {
            // The time runs from a completion to a completion.
            (self.began, self.latest) = (Some(sample.now), sample.now);
            return;
        }
        let elapsed = sample.now.since(self.latest).as_secs_f64();
        self.in_flight += elapsed * f64::from(sample.in_flight);
        self.latest = sample.now;
        match sample.outcome {
            Outcome::Answered(_) => self.completed += 1,
            _ => self.failed += 1,
        }
        self.work += weight;
        self.at_limit += u32::from(sample.in_flight >= limit);
    }

    fn seconds(&self) -> f64 {
        self.began.map_or(0.0, |began| self.latest.since(began).as_secs_f64())
    }

    fn evaluate(&self) -> Measured {
        let seconds = self.seconds().max(1e-9);
        Measured { in_flight: self.in_flight / seconds, throughput: self.work / seconds }
    }
}
