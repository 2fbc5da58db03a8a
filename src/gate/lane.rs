//! One route inside the gate: its limits, its queues, its counts.

use std::time::Duration;

use super::band::Band;
use super::limits::{Class, LaneKind, LaneLimits};
use super::retry::Returns;
use super::service::ServiceTimes;
use super::snapshot::LaneSnapshot;
use super::time::Time;
use super::{RejectReason, Rejection};

/// While the queue stands a wait is held to the median service time, within these bounds.
const SHORTEST_TARGET: Duration = Duration::from_millis(5);
const LONGEST_TARGET: Duration = Duration::from_millis(100);

/// Which pool of lanes with waiters a lane stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody waits, or the lane's own cap is reached.
    Out,
    /// Its next slot comes out of its reservation.
    Reserved,
    /// Its next slot comes out of what all may use.
    Shared,
    /// Its next slot lies beside the budget.
    Beside,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) limits: LaneLimits,
    /// Requests that wait, of all classes.
    pub(super) queued: u32,
    /// One for each class that ever waited.
    bands: [Option<Box<Band>>; Class::COUNT],
    waiting_classes: u8,
    /// Slots in use that count against the limits.
    pub(super) in_flight: u32,
    /// Slots in use that were let through while the lane was not held to its limits.
    pub(super) shadow_in_flight: u32,
    pub(super) returns: Returns,
    pub(super) service: ServiceTimes,
    /// When the lane has recovered, or did, from the latest pause.
    pub(super) recovered: Time,
    /// The pool of ready lanes that the lane stands in.
    pub(super) standing: Standing,
    /// A shrink of `max_queue` fails no waiter: until the surplus has left, this is the bound.
    surplus_bound: u32,
    arrivals: u64,
    admitted: u64,
    abandoned: u64,
    rejected: [u64; RejectReason::ALL.len()],
    shadow_rejected: [u64; RejectReason::ALL.len()],
    queued_nanos: u128,
    in_flight_nanos: u128,
    accrued: Time,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(limits: LaneLimits, now: Time) -> Lane {
        Lane {
            limits,
            queued: 0,
            bands: [const { None }; Class::COUNT],
            waiting_classes: 0,
            in_flight: 0,
            shadow_in_flight: 0,
            returns: Returns::default(),
            service: ServiceTimes::new(),
            recovered: now,
            standing: Standing::Out,
            surplus_bound: 0,
            arrivals: 0,
            admitted: 0,
            abandoned: 0,
            rejected: [0; RejectReason::ALL.len()],
            shadow_rejected: [0; RejectReason::ALL.len()],
            queued_nanos: 0,
            in_flight_nanos: 0,
            accrued: now,
        }
    }

    pub(super) fn set_limits(&mut self, limits: LaneLimits) {
        self.surplus_bound = self.queued;
        self.limits = limits;
    }

    /// Where the lane belongs, by its queue and its own cap.
    pub(super) fn belongs(&self) -> Standing {
        if self.queued == 0 || self.in_flight >= self.limits.cap() {
            return Standing::Out;
        }
        match self.limits.kind {
            LaneKind::Beside => Standing::Beside,
            LaneKind::Budget if self.in_flight < self.limits.set_aside() => Standing::Reserved,
            LaneKind::Budget => Standing::Shared,
        }
    }

    /// How many of its slots are not covered by its reservation.
    pub(super) fn beyond_reservation(&self) -> u32 {
        match self.limits.kind {
            LaneKind::Budget => self.in_flight.saturating_sub(self.limits.set_aside()),
            LaneKind::Beside => 0,
        }
    }

    /// The waiters of a class that ever waited.
    pub(super) fn band(&mut self, class: usize) -> &mut Band {
        self.bands[class].as_mut().expect("a class that waits has a band")
    }

    /// The waiters of a class; `None` if it never waited.
    pub(super) fn waiting(&self, class: usize) -> Option<&Band> {
        self.bands[class].as_deref()
    }

    /// The waiters of a class, which perhaps never waited before.
    pub(super) fn open_band(&mut self, class: usize) -> &mut Band {
        let now = self.accrued;
        self.bands[class].get_or_insert_with(|| Box::new(Band::new(now)))
    }

    /// The waiters of each class.
    pub(super) fn bands(&self) -> impl DoubleEndedIterator<Item = (usize, &Band)> {
        let bands = self.bands.iter().enumerate();
        bands.filter_map(|(class, band)| Some((class, band.as_deref()?)))
    }

    /// The classes that wait, as a mask.
    pub(super) fn waiting_classes(&self) -> u8 {
        self.waiting_classes
    }

    /// One waits more, or less. Call after the band has changed.
    pub(super) fn count_waiters(&mut self, class: usize) {
        let before = self.waiting_classes;
        let waits = self.band(class).len > 0;
        self.waiting_classes = before & !(1 << class) | u8::from(waits) << class;
    }

    /// A pause has ended. What the queues did so far is no sign of overload.
    pub(super) fn resume(&mut self, now: Time, hold: Duration) {
        self.bands.iter_mut().flatten().for_each(|band| band.forget_failures());
        self.recovered = if self.queued > 0 { now + hold } else { now };
    }

    /// How long a wait may be while the queue stands.
    pub(super) fn target(&self) -> Duration {
        self.service.p50().map_or(LONGEST_TARGET, |p50| p50.clamp(SHORTEST_TARGET, LONGEST_TARGET))
    }

    /// How long `ahead` requests and one more will take to get their slots, of `slots` that there
    /// are; zero while nothing is known.
    pub(super) fn drain_time(&self, ahead: u32, slots: u32) -> Duration {
        self.returns.mean_hold().saturating_mul(ahead.saturating_add(1)) / slots.max(1)
    }

    /// Adds the time since the last change to the integrals. Call before any change.
    pub(super) fn accrue(&mut self, now: Time) {
        let elapsed = now.since(self.accrued).as_nanos();
        self.queued_nanos += elapsed * u128::from(self.queued);
        self.in_flight_nanos += elapsed * u128::from(self.in_flight + self.shadow_in_flight);
        self.accrued = now;
    }

    /// The instant of the latest change.
    pub(super) fn accrued(&self) -> Time {
        self.accrued
    }

    pub(super) fn count_arrival(&mut self) {
        self.arrivals += 1;
    }

    pub(super) fn count_abandoned(&mut self) {
        self.abandoned += 1;
    }

    pub(super) fn count_shadow(&mut self, reason: RejectReason) {
        self.shadow_rejected[reason as usize] += 1;
    }

    /// Counts a rejection and says when to come back.
    pub(super) fn reject(&mut self, now: Time, reason: RejectReason) -> Rejection {
        self.rejected[reason as usize] += 1;
        let fallback = self.limits.max_wait;
        let retry_after = self.returns.next(now, self.queued, self.in_flight, fallback);
        Rejection { reason, retry_after }
    }

    /// Takes a slot.
    pub(super) fn admit(&mut self) {
        invariant!(self.in_flight < self.limits.cap(), "I1: a lane never exceeds its own cap");
        self.in_flight += 1;
        self.admitted += 1;
    }

    /// Lets a request through that the limits do not hold.
    pub(super) fn admit_shadow(&mut self) {
        self.shadow_in_flight += 1;
        self.admitted += 1;
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self) {
        invariant!(self.in_flight > 0, "I5: a slot is given back exactly once");
        self.in_flight -= 1;
    }

    /// A request that was let through has ended.
    pub(super) fn release_shadow(&mut self) {
        invariant!(self.shadow_in_flight > 0, "I5: a slot is given back exactly once");
        self.shadow_in_flight -= 1;
    }

    /// I2 and I3, after any change.
    pub(super) fn check(&mut self) {
        self.surplus_bound = self.surplus_bound.min(self.queued);
        invariant!(
            self.queued <= self.limits.max_queue.max(self.surplus_bound),
            "I2: nothing is queued beyond max_queue"
        );
        let rejected: u64 = self.rejected.iter().sum();
        invariant!(
            self.arrivals == self.admitted + rejected + self.abandoned + u64::from(self.queued),
            "I3: every arrival has one outcome"
        );
    }

    pub(super) fn snapshot(&self, now: Time, limit: u32) -> LaneSnapshot {
        let elapsed = now.since(self.accrued).as_nanos();
        let in_flight = self.in_flight + self.shadow_in_flight;
        let queued_nanos = self.queued_nanos + elapsed * u128::from(self.queued);
        let in_flight_nanos = self.in_flight_nanos + elapsed * u128::from(in_flight);
        LaneSnapshot {
            arrivals: self.arrivals,
            admitted: self.admitted,
            abandoned: self.abandoned,
            rejected: self.rejected,
            shadow_rejected: self.shadow_rejected,
            queue_depth: self.queued,
            max_queue: self.limits.max_queue,
            max_wait: self.limits.max_wait,
            in_flight,
            max_in_flight: match self.limits.kind {
                LaneKind::Budget => self.limits.cap().min(limit),
                LaneKind::Beside => self.limits.cap(),
            },
            queued_time: from_nanos(queued_nanos),
            in_flight_time: from_nanos(in_flight_nanos),
            mean_hold: self.returns.mean_hold(),
            service_p50: self.service.p50(),
            service_p90: self.service.p90(),
        }
    }
}

fn from_nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
    Duration::new(seconds, (nanos % SECOND) as u32)
}
