//! A limit that finds itself, by asking whether more in flight brings more throughput.
//!
//! Latency alone cannot tell an application that is slower from one that has too much to do, and a
//! baseline that was measured once goes stale. So both are measured at the same time. While the
//! gate is saturated, the limit alternates between a *level* and short *probes*: seven tenths of it
//! (or half of it, while little is known and it is not small), and now and then twice as much. What
//! a probe holds back waits in our own queue, so that a probe turns nobody away by itself.
//!
//! With `N` in flight and `T` completed a second, `W = N / T` is the time that one takes (Little's
//! law). If the application has a place free for each of them, `W` does not depend on `N`; if they
//! queue up inside, it grows with `N`. The application can work on `T(level) x W(probe)` at once,
//! if the probe lies below the knee, and on no more than the probe otherwise: the level moves to a
//! quarter above that, and so settles where all places are taken and few queue up inside. A
//! slow-down that has nothing to do with load raises both and moves nothing; a change of the mix of
//! requests is weighted out by the mean time of each lane.
//!
//! Not saturated, it learns nothing and changes nothing. Saturated but turning hardly anybody away,
//! it only looks upwards: what the queue absorbs needs no lower limit.
//!
//! This file counts and takes turns; `judge` draws the conclusions; `lanes` takes care of short
//! requests beside long ones.

mod judge;
mod lanes;
#[cfg(test)]
mod tests;
mod times;
mod window;

use std::time::Duration;

use super::limits::AutoLimits;
use super::snapshot::{AutoDecision, AutoSnapshot};
use super::time::Time;
use super::types::Outcome;
use lanes::Ramp;
use times::Times;
use window::{Measured, Window};

/// Where it begins, or at twice the least that it may be. A level below is small: half of it costs
/// much throughput, and what little ends meanwhile says little.
const START: u32 = 8;
/// A probe, as a part of the level. With the headroom it lies at seven eighths of what is useful: a
/// level that is too high goes down by an eighth.
const PROBE: f64 = 0.7;
/// Completions to measure a level, a probe, and a probe while searching.
const LEVEL_SAMPLES: u32 = 180;
const PROBE_SAMPLES: u32 = 40;
const SEARCH_SAMPLES: u32 = 60;
const WIDE_SAMPLES: u32 = 80;
/// How far the application may change from one probe to the next, and how far off the first guess
/// is: standard deviations, as parts.
const DRIFT: f64 = 0.03;
const FIRST_DOUBT: f64 = 0.3;
/// From this on a level is hardly more than a guess: it is probed further down.
const UNSURE: f64 = 0.15;
/// Mean times of a request that a change of the limit needs to show, and that a probe and a level
/// are measured for at least.
const SETTLE: f64 = 1.5;
const SPAN: f64 = 2.0;
const LEVEL_SPAN: f64 = 8.0;
/// So many times longer a level is measured while nothing hints at a change: each probe costs
/// throughput.
const AT_EASE: f64 = 1.5;
/// A sum of surprises that hints at one.
const HINT: f64 = 0.5;
/// Time of slots that those account for that have ended, as a part of all, that makes a first look
/// good enough, unless it takes longer than so many seconds.
const KNOWN: f64 = 0.7;
const LONGEST: f64 = 5.0;
/// What is left of the level where the application fails.
const BACK_OFF: f64 = 0.85;
/// Completions at the limit, in parts of all, that make a window count.
const SATURATED: f64 = 0.9;
/// A gate that has been saturated for so long is overloaded, even if it turns nobody away.
const LONG: Duration = Duration::from_secs(5);
/// So is one that turns away more than one for so many that end, within a spell of saturation: a
/// burst that fits into the queue but for a few is absorbed.
const FAILING: u32 = 50;
/// More failures than this mean overload; more than `OUTAGE`, that it is down for other reasons.
const FAILURES: f64 = 0.02;
const OUTAGE: f64 = 0.5;
/// Clients that left, as a part, that make a window worthless; so many such windows in a row mean
/// that the application does not answer in time any more.
const LOST: f64 = 0.5;
const IN_VAIN: u32 = 3;
/// A window is closed after so many seconds with such a part of what it needs.
const PATIENCE: f64 = 1.0;
const HASTE: f64 = 0.4;
const SEARCH_HASTE: f64 = 0.8;

/// The limit and what is known of the application.
#[derive(Debug)]
pub(super) struct Auto {
    limits: AutoLimits,
    level: f64,
    /// What is in force: the level, or a probe.
    limit: u32,
    arm: Arm,
    /// On the way there, if it is not reached at once.
    ramp: Option<Ramp>,
    settled: Time,
    window: Window,
    /// The latest measurement at the level, and the one below that waits to be compared with the
    /// next.
    at_level: Option<Measured>,
    /// The level at which that was measured.
    measured: f64,
    below: Option<Measured>,
    /// What was measured last with fewer in flight.
    calm: Option<Measured>,
    /// The mean time of each lane when one seemed to take far longer than that.
    crowded: Option<Vec<f64>>,
    /// Little is known: probes are wide, and lead from one to the next.
    search: Option<Search>,
    /// Requests that ended since the gate is saturated, since when, and how many had been turned
    /// away by then.
    spell: u32,
    spell_began: Time,
    turned_away: u64,
    /// The gate is overloaded: it turns requests away, or is saturated for long.
    overloaded: bool,
    /// Since the search at the beginning.
    probes: u32,
    /// Probes upwards in a row that brought nothing.
    futile: u32,
    /// A probe upwards that brought nothing was repeated.
    looked_twice: bool,
    /// The level stays below this for so many probes.
    ceiling: f64,
    ceiling_for: u32,
    /// Windows in a row in which most clients left.
    in_vain: u32,
    /// The time that one took in the latest window, in seconds.
    pace: f64,
    /// The level that was given up for half of it, and what was measured there.
    before: Option<(f64, Measured)>,
    /// Half of the level seemed to be enough.
    suspect: bool,
    /// How uncertain the level is: a variance, relative to it.
    doubt: f64,
    /// By how many standard deviations measurements were off of late, each way, beyond what chance
    /// explains (Page's cumulative sums).
    rising: f64,
    falling: f64,
    times: Times,
    seen: AutoSnapshot,
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) now: Time,
    pub(super) lane: usize,
    pub(super) outcome: Outcome,
    /// Before its slot came back, without those that stay open.
    pub(super) in_flight: u32,
    /// No lane could have had one more out of what all may use.
    pub(super) full: bool,
    /// How many were turned away so far.
    pub(super) turned_away: u64,
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

// === impl Auto ===

impl Auto {
    pub(super) fn new(now: Time, limits: AutoLimits) -> Auto {
        let limits = limits.usable();
        let level = START.max(limits.min.saturating_mul(2)).clamp(limits.min, limits.max);
        Auto {
            limits,
            level: f64::from(level),
            limit: level,
            arm: Arm::Level,
            ramp: None,
            settled: now,
            window: Window::default(),
            at_level: None,
            measured: f64::from(level),
            looked_twice: false,
            below: None,
            calm: None,
            crowded: None,
            search: Some(Search::Any),
            spell: 0,
            spell_began: now,
            turned_away: 0,
            overloaded: false,
            probes: 0,
            futile: 0,
            ceiling: 0.0,
            ceiling_for: 0,
            in_vain: 0,
            pace: 0.0,
            before: None,
            suspect: false,
            doubt: FIRST_DOUBT.powi(2),
            rising: 0.0,
            falling: 0.0,
            times: Times::new(),
            seen: AutoSnapshot::default(),
        }
    }

    /// Changes the bounds, and goes on from what was found.
    pub(super) fn set_limits(&mut self, now: Time, limits: AutoLimits) {
        let limits = limits.usable();
        if limits == self.limits {
            return;
        }
        self.limits = limits;
        self.level = self.bounded(self.level);
        (self.below, self.before) = (None, None);
        // At once: nothing leads outside of the bounds, not even the way back into them.
        self.limit = self.limit.clamp(limits.min, limits.max);
        self.enter(Arm::Level, now);
    }

    /// The limit where so many responses stay open, which are no part of it.
    pub(super) fn limit_beside(&self, open: u32) -> u32 {
        self.limit.saturating_add(open).min(self.limits.max)
    }

    pub(super) fn snapshot(&self) -> AutoSnapshot {
        self.seen
    }

    /// Learns from a request that has ended.
    pub(super) fn observe(&mut self, sample: &Sample) {
        if let Outcome::Answered(time) = sample.outcome {
            self.times.note(sample.lane, time.as_secs_f64());
        }
        self.climb(sample.now);
        if self.is_crowding(sample) {
            return self.look_closer(sample.now);
        }
        if sample.now < self.settled {
            return;
        }
        self.window.add(sample);
        self.spell = self.spell.saturating_add(1);
        let long = sample.now.since(self.spell_began) >= LONG && self.spell >= judge::PERSISTENT;
        let failed = sample.turned_away - self.turned_away;
        self.overloaded = long || failed > u64::from(self.spell / FAILING);
        if self.window.ended() >= 8 && self.is_slack() {
            (self.spell, self.below) = (0, None);
            (self.spell_began, self.turned_away) = (sample.now, sample.turned_away);
            return self.enter(Arm::Level, sample.now);
        }
        if self.is_done() {
            self.conclude(sample.now);
        }
    }

    /// Whether what was measured is not a full limit: then there is nothing to learn from it. Twice
    /// the level is not always filled.
    fn is_slack(&self) -> bool {
        self.arm != Arm::Up && self.window.saturation() < SATURATED
    }

    /// Whether enough has ended to say something: more where times differ widely.
    fn is_done(&self) -> bool {
        let samples = match (self.arm, self.search) {
            // Whoever is let go of a level that had proven itself is let go with care.
            (_, Some(_)) if self.probes == 0 => SEARCH_SAMPLES,
            (Arm::Down, None) => PROBE_SAMPLES,
            (Arm::Down | Arm::Up, _) => WIDE_SAMPLES,
            (Arm::Level, _) => LEVEL_SAMPLES,
        };
        let at_home = self.arm == Arm::Level && self.search.is_none() && !self.is_unsure();
        let calm = at_home && self.probes > 0 && self.rising.max(self.falling) < HINT;
        let ease = if calm { AT_EASE } else { 1.0 };
        let samples = f64::from(samples) * ease;
        let (seconds, ended) = (self.window.seconds(), f64::from(self.window.ended()));
        let spread = ((1.0 + self.times.variation) / 2.0).clamp(0.5, 4.0);
        let evidence = self.window.effective(&self.times.lanes).min(ended);
        // What is slow is judged by less.
        let hurry = match self.search {
            None => true,
            // To look upwards costs the more the longer it takes.
            Some(_) if self.probes > 0 => self.arm == Arm::Up,
            Some(_) => self.times.is_mixed(),
        };
        let haste = if hurry { HASTE } else { SEARCH_HASTE };
        let late = seconds > PATIENCE * ease && evidence >= samples * haste;
        let span = ease * if at_home { LEVEL_SPAN } else { SPAN };
        // At first nothing is known of the long requests: none has ended.
        let known = self.probes > 0 || self.window.accounted() >= KNOWN || seconds > LONGEST;
        // What does harm is not waited for.
        let harms = || seconds > PATIENCE && self.brings_nothing();
        let enough = evidence >= samples * spread || late;
        seconds >= span * self.times.turnover() && known && (enough || harms())
    }

    fn conclude(&mut self, now: Time) {
        let window = std::mem::take(&mut self.window);
        self.pace = window.pace();
        // Where most clients leave, throughput says little of the application.
        let in_vain = window.part(window.lost) > LOST;
        self.in_vain = if in_vain { self.in_vain + 1 } else { 0 };
        let backs_off = self.backs_off(&window);
        if backs_off {
            self.decide(AutoDecision::BackOff);
        }
        if in_vain || backs_off {
            self.below = None;
            return self.enter(Arm::Level, now);
        }
        let next = match (self.arm, self.at_level.take()) {
            (Arm::Down, Some(level)) => {
                let below = window.close();
                self.calm = Some(below.clone());
                self.judge_down(below, level)
            }
            (Arm::Up, Some(level)) => self.judge_up(window.close(), level),
            _ => self.judge_level(window),
        };
        self.enter(next, now);
    }

    /// The application fails: down, whatever the throughput.
    fn backs_off(&mut self, window: &Window) -> bool {
        let slow = self.limits.max_latency.is_some_and(|max| self.times.mean > max.as_secs_f64());
        let failing = (FAILURES..OUTAGE).contains(&window.part(window.failed));
        if !(slow || failing || self.in_vain >= IN_VAIN) {
            return false;
        }
        (self.in_vain, self.futile) = (0, 0);
        self.level = self.bounded(self.level * BACK_OFF);
        self.doubt = FIRST_DOUBT.powi(2);
        true
    }

    /// The level is somewhere else than was thought.
    fn jump_to(&mut self, level: f64) {
        self.doubt = FIRST_DOUBT.powi(2);
        (self.rising, self.falling, self.futile) = (0.0, 0.0, 0);
        self.move_to(level);
    }

    fn can_go_down(&self) -> bool {
        self.probe_below() < self.limit_of(self.level)
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
        // Work is weighted with the service time itself: what one takes below, as a part of that.
        let taken = self.times.mean * below.in_flight / below.throughput(&self.times.lanes);
        self.seen.baseline = Duration::try_from_secs_f64(taken).unwrap_or_default();
    }

    fn enter(&mut self, arm: Arm, now: Time) {
        (self.arm, self.ramp) = (arm, None);
        self.window = Window::default();
        let limit = match arm {
            Arm::Level => self.limit_of(self.level),
            Arm::Down => self.probe_below(),
            Arm::Up => self.limit_of(self.level).saturating_mul(2).min(self.limits.max),
        };
        if limit != self.limit {
            let ramp = self.ramp_to(limit, now);
            let settle = ramp.seconds + SETTLE * self.times.turnover().max(self.pace);
            self.settled = now + Duration::try_from_secs_f64(settle).unwrap_or_default();
            self.ramp = Some(ramp);
            self.climb(now);
        }
    }

    fn probe_below(&self) -> u32 {
        let level = self.limit_of(self.level);
        let wide = self.is_unsure() && !self.times.is_mixed() && !self.is_small();
        let part = if self.search.is_some() || wide { 0.5 } else { PROBE };
        let below = (f64::from(level) * part).round() as u32;
        below.min(level.saturating_sub(1)).max(self.limits.min)
    }

    /// The level is hardly more than a guess.
    fn is_unsure(&self) -> bool {
        self.doubt > UNSURE.powi(2)
    }

    fn is_small(&self) -> bool {
        self.limit_of(self.level) < START
    }

    fn limit_of(&self, level: f64) -> u32 {
        (level.round() as u32).clamp(self.limits.min, self.limits.max)
    }

    fn bounded(&self, level: f64) -> f64 {
        level.clamp(f64::from(self.limits.min), f64::from(self.limits.max))
    }
}
