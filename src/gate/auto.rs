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
/// How far above what the application can work on the level lies: the probe then lies just below.
const HEADROOM: f64 = 1.25;
/// A probe, as a part of the level.
const PROBE: f64 = 0.75;
/// Completions to measure a level, a probe, and a probe while searching.
const LEVEL_SAMPLES: u32 = 150;
const PROBE_SAMPLES: u32 = 40;
const UPWARDS_SAMPLES: u32 = 80;
/// How far the application may change from one probe to the next, and how far off the first guess
/// is: standard deviations, as parts.
const DRIFT: f64 = 0.03;
const FIRST_DOUBT: f64 = 0.3;
/// Two measurements in a row so many standard deviations off, to the same side: it has changed.
const SURPRISE: f64 = 1.3;
/// Mean times of a request that a change of the limit needs to show, and that are measured at least.
const SETTLE: f64 = 1.5;
const SPAN: f64 = 2.0;
/// Probes between two that try twice as much.
const UPWARDS: u32 = 8;
/// Completions at the limit, in parts of all, that make a window count.
const SATURATED: f64 = 0.9;
/// The level goes down only after so many completions without a pause in saturation: a gate that is
/// full now and then is not overloaded, and is full just when the application happens to be slow.
const PERSISTENT: u32 = 250;
/// More failures than this mean overload; more than `OUTAGE`, that it is down for other reasons.
const FAILURES: f64 = 0.02;
const OUTAGE: f64 = 0.5;
/// Requests over which service times are averaged.
const SMOOTHING: f64 = 64.0;
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
    /// The latest measurement at the level, and the one below that waits to be compared with the
    /// next.
    at_level: Option<Measured>,
    below: Option<Measured>,
    /// Little is known: probes are wide, and lead from one to the next.
    search: Option<Search>,
    /// Completions since the gate is saturated.
    spell: u32,
    since_upwards: u32,
    /// How uncertain the level is: a variance, relative to it.
    doubt: f64,
    /// By how many standard deviations the latest measurement was off.
    surprise: f64,
    /// Mean service time, in seconds.
    service: f64,
    /// Its variance.
    variance: f64,
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

/// Which way a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// Up first, and down if that brings nothing.
    Any,
    Up,
    Down,
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
    /// Ended without anybody knowing how: the client left.
    lost: u32,
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
    ended: f64,
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
            below: None,
            search: Some(Search::Any),
            spell: 0,
            since_upwards: 0,
            doubt: FIRST_DOUBT.powi(2),
            surprise: 0.0,
            service: 0.0,
            variance: 0.0,
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
        if let Outcome::Answered(time) = sample.outcome {
            self.note(sample.lane, time.as_secs_f64());
        }
        if sample.now < self.settled {
            return;
        }
        let weight = self.weight(sample.lane);
        self.window.add(sample, weight, self.limit);
        self.spell = self.spell.saturating_add(1);
        if self.window.ended() >= 8 && self.is_slack() {
            (self.spell, self.below) = (0, None);
            return self.enter(Arm::Level, sample.now);
        }
        let needed = self.needed();
        let long_enough = self.window.seconds() >= SPAN * self.service;
        if self.window.ended() >= needed && long_enough {
            self.conclude(sample.now);
        }
    }

    /// Whether what was measured is not a full limit: then there is nothing to learn from it. Twice
    /// the level is not always filled.
    fn is_slack(&self) -> bool {
        let Window { at_limit, .. } = self.window;
        self.arm != Arm::Up && f64::from(at_limit) < SATURATED * f64::from(self.window.ended())
    }

    /// How many must end before they say something: more where their times differ widely.
    fn needed(&self) -> u32 {
        let samples = match (self.arm, self.search) {
            (_, Some(Search::Any | Search::Up)) | (Arm::Down, None) => PROBE_SAMPLES,
            (Arm::Up, _) => UPWARDS_SAMPLES,
            // Whoever is let go of a level that had proven itself is let go with care.
            (Arm::Down, Some(Search::Down)) if self.spell > 10 * PROBE_SAMPLES => UPWARDS_SAMPLES,
            (Arm::Down, Some(Search::Down)) => PROBE_SAMPLES,
            (Arm::Level, _) => LEVEL_SAMPLES,
        };
        (f64::from(samples) * self.spread()) as u32
    }

    /// How much more the times of requests vary than those of a Poisson process.
    fn spread(&self) -> f64 {
        let squared = self.service.powi(2).max(f64::MIN_POSITIVE);
        ((1.0 + self.variance / squared) / 2.0).clamp(0.5, 4.0)
    }

    fn conclude(&mut self, now: Time) {
        let window = self.window;
        let measured = window.evaluate();
        if self.backs_off(&window) {
            self.decide(AutoDecision::BackOff);
            self.below = None;
            return self.enter(Arm::Level, now);
        }
        let next = match (self.arm, self.at_level) {
            (Arm::Down, Some(level)) => self.judge_down(measured, level),
            (Arm::Up, Some(level)) => self.judge_up(measured, level),
            _ => self.judge_level(measured, &window),
        };
        self.enter(next, now);
    }

    /// Compares the level with what was measured below it just before, and chooses the next probe.
    fn judge_level(&mut self, level: Measured, window: &Window) -> Arm {
        self.fold_lanes();
        self.at_level = Some(level);
        self.seen.throughput = f64::from(window.completed) / window.seconds();
        self.seen.latency = Duration::from_secs_f64(self.service);
        if let Some(below) = self.below.take()
            && let Some(elasticity) = elasticity(&below, &level)
        {
            self.report(elasticity, &below);
            self.correct(&below, &level);
        }
        self.next_probe()
    }

    /// Moves the level towards what was measured, as far as that is more certain than the level
    /// (a Kalman filter of one number).
    fn correct(&mut self, below: &Measured, level: &Measured) {
        let noise = self.spread() * (1.0 / below.ended + 1.0 / level.ended);
        self.doubt += DRIFT.powi(2);
        let off = HEADROOM * useful(below, level) / self.level - 1.0;
        let surprise = off / (self.doubt + noise).sqrt();
        let changed = surprise.abs().min(self.surprise.abs()) > SURPRISE
            && surprise.signum() == self.surprise.signum();
        self.surprise = surprise;
        if changed {
            self.doubt += FIRST_DOUBT.powi(2);
        }
        let gain = self.doubt / (self.doubt + noise);
        self.doubt *= 1.0 - gain;
        if off > 0.0 || self.spell >= PERSISTENT {
            self.move_to(self.level * (1.0 + gain * off));
        }
        if changed && off < 0.0 {
            self.search = Some(Search::Down);
        }
    }

    fn next_probe(&mut self) -> Arm {
        self.since_upwards += 1;
        let can_go_down = self.probe_below() < self.limit_of(self.level);
        let due = self.since_upwards > UPWARDS;
        let up = matches!(self.search, Some(Search::Any | Search::Up))
            || (self.search.is_none() && due)
            || !can_go_down;
        if up {
            self.since_upwards = 0;
            return Arm::Up;
        }
        Arm::Down
    }

    /// With fewer in flight: did throughput fall with them?
    fn judge_down(&mut self, below: Measured, level: Measured) -> Arm {
        if self.search.is_none() {
            // Judged beside the level that comes next: one that was full before the probe was
            // perhaps full because the application happened to be slow.
            self.below = Some(below);
            return Arm::Level;
        }
        let Some(elasticity) = elasticity(&below, &level) else {
            self.search = None;
            return Arm::Level;
        };
        self.report(elasticity, &below);
        if elasticity < 0.3 {
            // The knee lies below: look there at once, from what has just been measured.
            self.move_to(below.in_flight);
            self.at_level = Some(below);
            if self.probe_below() < self.limit_of(self.level) {
                return Arm::Down;
            }
        } else if elasticity < 0.7 {
            self.move_to(HEADROOM * useful(&below, &level));
        }
        self.search = None;
        self.since_upwards = UPWARDS;
        Arm::Level
    }

    /// With twice as many in flight: did throughput rise with them?
    fn judge_up(&mut self, above: Measured, level: Measured) -> Arm {
        let filled = above.in_flight >= SATURATED * f64::from(self.limit);
        let elasticity = elasticity(&level, &above);
        if let Some(elasticity) = elasticity.filter(|elasticity| *elasticity > 0.45) {
            self.report(elasticity, &level);
            self.at_level = Some(above);
            self.search = Some(Search::Up);
            if elasticity < 0.8 {
                self.move_to(HEADROOM * useful(&level, &above));
            } else {
                self.move_to(above.in_flight);
                if filled && self.limit_of(self.level) < self.limits.max {
                    return Arm::Up;
                }
            }
        }
        let overloaded = filled && elasticity.is_some_and(|elasticity| elasticity < 0.3);
        let down = self.search == Some(Search::Any) && overloaded;
        self.search = down.then_some(Search::Down);
        if down && self.probe_below() < self.limit_of(self.level) {
            return Arm::Down;
        }
        self.search = None;
        Arm::Level
    }

    /// The application fails: down, whatever the throughput.
    fn backs_off(&mut self, window: &Window) -> bool {
        let part = |count: u32| f64::from(count) / f64::from(window.ended());
        let slow = self.limits.max_latency.is_some_and(|max| self.service > max.as_secs_f64());
        let failing = (FAILURES..OUTAGE).contains(&part(window.failed));
        // Nearly all clients lost patience with the application.
        let in_vain = part(window.lost) > 0.9;
        if !(slow || failing || in_vain) {
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
        let part = if self.search.is_some() { 0.5 } else { PROBE };
        let below = (f64::from(level) * part) as u32;
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
        if self.service == 0.0 {
            self.service = seconds;
        }
        let apart = seconds - self.service;
        self.service += apart / SMOOTHING;
        self.variance += (apart * apart - self.variance) / SMOOTHING;
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

/// What the application can work on at once, by Little's law: the throughput of the level, and the
/// time that one takes below, where none queues up inside.
fn useful(below: &Measured, level: &Measured) -> f64 {
    let useful = level.throughput * below.in_flight / below.throughput;
    useful.clamp(0.6 * level.in_flight, 1.1 * level.in_flight)
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
            Outcome::Answered(_) => {
                self.completed += 1;
                self.work += weight;
            }
            Outcome::Overloaded | Outcome::TimedOut => self.failed += 1,
            Outcome::Unknown => self.lost += 1,
        }
        self.at_limit += u32::from(sample.in_flight >= limit);
    }

    fn ended(&self) -> u32 {
        self.completed + self.failed + self.lost
    }

    fn seconds(&self) -> f64 {
        self.began.map_or(0.0, |began| self.latest.since(began).as_secs_f64())
    }

    fn evaluate(&self) -> Measured {
        let seconds = self.seconds().max(1e-9);
        Measured {
            in_flight: self.in_flight / seconds,
            throughput: (self.work / seconds).max(1e-12),
            ended: f64::from(self.ended()),
        }
    }
}
