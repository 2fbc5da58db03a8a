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

mod window;

use std::time::Duration;

use super::limits::AutoLimits;
use super::snapshot::{AutoDecision, AutoSnapshot};
use super::time::Time;
use super::types::Outcome;
use window::{Measured, Window};

/// Where it begins, or at twice the least that it may be.
const START: u32 = 8;
/// How far above what the application can work on the level lies: the probe then lies just below.
const HEADROOM: f64 = 1.25;
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
/// Measurements are off by so many standard deviations in all: it has changed. By chance this
/// happens once in a hundred probes.
const SURPRISE: f64 = 3.5;
/// Mean times of a request that a change of the limit needs to show, and that are measured at least.
const SETTLE: f64 = 1.5;
const SPAN: f64 = 2.0;
const LEVEL_SPAN: f64 = 8.0;
/// One of so many probes tries twice as much, and one of so many half.
const UPWARDS: u32 = 10;
const HALVES: u32 = 30;
/// With less than this part of the throughput, half of the level was not enough after all.
const REGRET: f64 = 0.88;
/// A ceiling holds for so many probes.
const CEILING: u32 = 40;
/// What is left of the level where the application fails.
const BACK_OFF: f64 = 0.85;
/// Completions at the limit, in parts of all, that make a window count.
const SATURATED: f64 = 0.9;
/// The level goes down only after so many completions without a pause in saturation: a gate that is
/// full now and then is not overloaded, and is full just when the application happens to be slow.
const PERSISTENT: u32 = 250;
/// A gate that has been saturated for so long is overloaded, even if it turns nobody away.
const LONG: Duration = Duration::from_secs(5);
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
/// One request counts as at most so many means more than the mean.
const OUTLIER: f64 = 3.0;
/// Requests over which service times are averaged.
const SMOOTHING: f64 = 64.0;

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
    /// Requests that ended since the gate is saturated, since when, and how many had been turned
    /// away by then.
    spell: u32,
    spell_began: Time,
    turned_away: u64,
    /// The gate is overloaded: it turns requests away, or is saturated for long.
    overloaded: bool,
    /// Since the search at the beginning.
    probes: u32,
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
    /// Mean service time, in seconds.
    service: f64,
    /// The squared coefficient of variation of service times within a lane.
    variation: f64,
    /// The same for each lane.
    lanes: Vec<f64>,
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

/// The level for an application that can work on so many at once. The part of a place more keeps the
/// probe of a small level from being rounded to far below.
fn with_headroom(useful: f64) -> f64 {
    HEADROOM * useful + 0.75
}

// === impl Auto ===

impl Auto {
    pub(super) fn new(now: Time, limits: AutoLimits) -> Auto {
        let level = START.max(limits.min.saturating_mul(2)).clamp(limits.min, limits.max);
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
            spell_began: now,
            turned_away: 0,
            overloaded: false,
            probes: 0,
            ceiling: 0.0,
            ceiling_for: 0,
            in_vain: 0,
            pace: 0.0,
            before: None,
            suspect: false,
            doubt: FIRST_DOUBT.powi(2),
            rising: 0.0,
            falling: 0.0,
            service: 0.0,
            variation: 1.0,
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
        self.window.add(sample, self.limit);
        self.spell = self.spell.saturating_add(1);
        let long = sample.now.since(self.spell_began) >= LONG;
        self.overloaded = long || sample.turned_away > self.turned_away;
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
        let (seconds, ended) = (self.window.seconds(), f64::from(self.window.ended()));
        let spread = ((1.0 + self.variation) / 2.0).clamp(0.5, 4.0);
        let needed = f64::from(samples) * spread;
        let evidence = self.window.effective(&self.lanes).min(ended);
        // What is slow is judged by less.
        let haste = if self.search.is_some() { SEARCH_HASTE } else { HASTE };
        let late = seconds > PATIENCE && ended >= f64::from(samples) * haste;
        // Longer at the level than away from it: a probe costs throughput.
        let at_home = self.arm == Arm::Level && self.search.is_none() && !self.is_unsure();
        let span = if at_home { LEVEL_SPAN } else { SPAN };
        seconds >= span * self.service && (evidence >= needed || late)
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
            (Arm::Down, Some(level)) => self.judge_down(window.close(), level),
            (Arm::Up, Some(level)) => self.judge_up(window.close(), level),
            _ => self.judge_level(window),
        };
        self.enter(next, now);
    }

    /// Compares the level with what was measured below it just before, and chooses the next probe.
    fn judge_level(&mut self, window: Window) -> Arm {
        self.seen.throughput = window.rate();
        self.seen.latency = Duration::from_secs_f64(self.service);
        let level = window.close();
        if let Some(below) = self.below.take()
            && let Some(elasticity) = below.elasticity(&level, &self.lanes)
        {
            self.report(elasticity, &below);
            self.correct(&below, &level, elasticity);
            self.make_room(&below, &level);
        }
        if let Some((before, measured)) = self.before.take()
            && level.throughput(&self.lanes) < REGRET * measured.throughput(&self.lanes)
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
        let variation = (self.variation * stretch.powi(2)).clamp(0.15, 4.0);
        let evidence = |window: &Measured| 1.0 / window.effective(&self.lanes).max(1.0);
        let noise = variation * (evidence(below) + evidence(level));
        self.doubt += DRIFT.powi(2);
        let off = with_headroom(below.useful(level, &self.lanes)) / self.level - 1.0;
        let surprise = off / (self.doubt + noise).sqrt();
        self.rising = (self.rising + surprise - 0.5).max(0.0);
        self.falling = (self.falling - surprise - 0.5).max(0.0);
        let gain = self.doubt / (self.doubt + noise);
        self.doubt *= 1.0 - gain;
        if off > 0.0 || self.overloaded {
            self.move_to(self.level * (1.0 + gain * off));
        }
        let scales = elasticity > 0.8 && off > 1.3 * noise.sqrt();
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
            self.ceiling = (level.in_flight - 1.0).max(below.in_flight);
            self.ceiling_for = CEILING;
            self.jump_to(below.in_flight);
        }
        if self.ceiling_for > 0 && self.level > self.ceiling {
            self.move_to(self.ceiling);
        }
    }

    /// Three quarters, most of the time; in between twice as much, and half.
    fn next_probe(&mut self) -> Arm {
        if matches!(self.search, Some(Search::Any | Search::Up)) {
            return Arm::Up;
        }
        if self.search.is_none() {
            self.probes += 1;
            if self.probes.is_multiple_of(UPWARDS) {
                return Arm::Up;
            }
            let halve = self.suspect || self.probes % HALVES == HALVES / 2;
            if halve && self.spell >= PERSISTENT {
                self.search = Some(Search::Down);
            }
        }
        match (self.overloaded, self.can_go_down()) {
            // What the queue absorbs needs no lower limit, and nothing is cut to look for one.
            (false, _) => {
                self.search = None;
                if self.probes.is_multiple_of(2) { Arm::Up } else { Arm::Level }
            }
            (true, false) => Arm::Up,
            (true, true) => Arm::Down,
        }
    }

    /// With fewer in flight: did throughput fall with them?
    fn judge_down(&mut self, below: Measured, level: Measured) -> Arm {
        if self.search.is_none() {
            // Judged beside the level that comes next: one that was full before the probe was
            // perhaps full because the application happened to be slow.
            self.below = Some(below);
            return Arm::Level;
        }
        let elasticity = below.elasticity(&level, &self.lanes).unwrap_or(1.0);
        self.report(elasticity, &below);
        let low = elasticity < 0.3;
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
            self.jump_to(with_headroom(below.useful(&level, &self.lanes)));
        }
        self.search = None;
        Arm::Level
    }

    /// With twice as many in flight: did throughput rise with them?
    fn judge_up(&mut self, above: Measured, level: Measured) -> Arm {
        let filled = above.in_flight >= SATURATED * f64::from(self.limit);
        let elasticity = level.elasticity(&above, &self.lanes);
        let overloaded = filled && elasticity.is_some_and(|elasticity| elasticity < 0.3);
        let search = self.search.take();
        let crowds_out = level.crowds_out(&above);
        if let Some(elasticity) = elasticity.filter(|part| *part > 0.45 && !crowds_out) {
            self.report(elasticity, &level);
            if elasticity < 0.8 {
                self.jump_to(with_headroom(level.useful(&above, &self.lanes)));
            } else {
                self.jump_to(above.in_flight);
                if filled && self.limit_of(self.level) < self.limits.max {
                    (self.at_level, self.search) = (Some(above), Some(Search::Up));
                    return Arm::Up;
                }
            }
        } else if !filled && elasticity.is_none_or(|part| part > 0.3) && !crowds_out {
            // All who came found a place.
            self.move_to(with_headroom(above.in_flight).max(self.level));
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

    /// The application fails: down, whatever the throughput.
    fn backs_off(&mut self, window: &Window) -> bool {
        let slow = self.limits.max_latency.is_some_and(|max| self.service > max.as_secs_f64());
        let failing = (FAILURES..OUTAGE).contains(&window.part(window.failed));
        if !(slow || failing || self.in_vain >= IN_VAIN) {
            return false;
        }
        self.in_vain = 0;
        self.level = self.bounded(self.level * BACK_OFF);
        self.doubt = FIRST_DOUBT.powi(2);
        true
    }

    /// The level is somewhere else than was thought.
    fn jump_to(&mut self, level: f64) {
        self.doubt = FIRST_DOUBT.powi(2);
        (self.rising, self.falling) = (0.0, 0.0);
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
        let taken = self.service * below.in_flight / below.throughput(&self.lanes);
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
            let settle = SETTLE * self.service.max(self.pace);
            self.settled = now + Duration::try_from_secs_f64(settle).unwrap_or_default();
        }
    }

    fn probe_below(&self) -> u32 {
        let level = self.limit_of(self.level);
        let part = if self.search.is_some() || self.is_unsure() { 0.5 } else { PROBE };
        let below = (f64::from(level) * part) as u32;
        below.min(level.saturating_sub(1)).max(self.limits.min)
    }

    /// The level is hardly more than a guess.
    fn is_unsure(&self) -> bool {
        self.doubt > UNSURE.powi(2)
    }

    fn limit_of(&self, level: f64) -> u32 {
        (level.round() as u32).clamp(self.limits.min, self.limits.max)
    }

    fn bounded(&self, level: f64) -> f64 {
        level.clamp(f64::from(self.limits.min), f64::from(self.limits.max))
    }

    fn note(&mut self, lane: usize, seconds: f64) {
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, 0.0);
        }
        let mean = &mut self.lanes[lane];
        if *mean == 0.0 {
            *mean = seconds.max(1e-9);
        }
        let apart = (seconds / *mean - 1.0).min(OUTLIER);
        *mean += *mean * apart / SMOOTHING;
        self.variation += (apart * apart - self.variation) / SMOOTHING;
        if self.service == 0.0 {
            self.service = seconds;
        }
        self.service += (seconds - self.service) / SMOOTHING;
    }
}
