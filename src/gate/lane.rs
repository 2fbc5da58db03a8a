//! One route inside the gate: its limits, its queue, its counts.

use std::time::Duration;

use super::limits::{LaneKind, LaneLimits};
use super::retry::Returns;
use super::snapshot::LaneSnapshot;
use super::time::Time;
use super::waiters::List;
use super::{RejectReason, Rejection};

/// Which list of lanes with waiters a lane stands in.
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
    pub(super) queue: List,
    pub(super) in_flight: u32,
    pub(super) returns: Returns,
    /// The list of ready lanes that the lane stands in, and its neighbours there.
    pub(super) standing: Standing,
    pub(super) previous: u32,
    pub(super) next: u32,
    /// A shrink of `max_queue` fails no waiter: until the surplus has left, this is the bound.
    surplus_bound: u32,
    arrivals: u64,
    admitted: u64,
    abandoned: u64,
    rejected: [u64; RejectReason::ALL.len()],
    queued_nanos: u128,
    in_flight_nanos: u128,
    accrued: Time,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(limits: LaneLimits, now: Time) -> Lane {
        Lane {
            limits,
            queue: List::default(),
            in_flight: 0,
            returns: Returns::default(),
            standing: Standing::Out,
            previous: u32::MAX,
            next: u32::MAX,
            surplus_bound: 0,
            arrivals: 0,
            admitted: 0,
            abandoned: 0,
            rejected: [0; RejectReason::ALL.len()],
            queued_nanos: 0,
            in_flight_nanos: 0,
            accrued: now,
        }
    }

    pub(super) fn set_limits(&mut self, limits: LaneLimits) {
        self.surplus_bound = self.queue.len;
        self.limits = limits;
    }

    /// Where the lane belongs, by its queue and its own cap.
    pub(super) fn belongs(&self) -> Standing {
        if self.queue.len == 0 || self.in_flight >= self.limits.cap() {
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

    /// Adds the time since the last change to the integrals. Call before any change.
    pub(super) fn accrue(&mut self, now: Time) {
        let elapsed = now.since(self.accrued).as_nanos();
        self.queued_nanos += elapsed * u128::from(self.queue.len);
        self.in_flight_nanos += elapsed * u128::from(self.in_flight);
        self.accrued = now;
    }

    pub(super) fn count_arrival(&mut self) {
        self.arrivals += 1;
    }

    pub(super) fn count_abandoned(&mut self) {
        self.abandoned += 1;
    }

    /// Counts a rejection and says when to come back.
    pub(super) fn reject(&mut self, now: Time, reason: RejectReason) -> Rejection {
        self.rejected[reason as usize] += 1;
        let fallback = self.limits.max_wait;
        let retry_after = self.returns.next(now, self.queue.len, self.in_flight, fallback);
        Rejection { reason, retry_after }
    }

    /// Takes a slot.
    pub(super) fn admit(&mut self) {
        invariant!(self.in_flight < self.limits.cap(), "I1: a lane never exceeds its own cap");
        self.in_flight += 1;
        self.admitted += 1;
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self) {
        invariant!(self.in_flight > 0, "I5: a slot is given back exactly once");
        self.in_flight -= 1;
    }

    /// I2 and I3, after any change.
    pub(super) fn check(&mut self) {
        self.surplus_bound = self.surplus_bound.min(self.queue.len);
        invariant!(
            self.queue.len <= self.limits.max_queue.max(self.surplus_bound),
            "I2: nothing is queued beyond max_queue"
        );
        let rejected: u64 = self.rejected.iter().sum();
        invariant!(
            self.arrivals == self.admitted + rejected + self.abandoned + u64::from(self.queue.len),
            "I3: every arrival has one outcome"
        );
    }

    pub(super) fn snapshot(&self, now: Time, limit: u32) -> LaneSnapshot {
        let elapsed = now.since(self.accrued).as_nanos();
        let queued = self.queued_nanos + elapsed * u128::from(self.queue.len);
        let in_flight = self.in_flight_nanos + elapsed * u128::from(self.in_flight);
        LaneSnapshot {
            arrivals: self.arrivals,
            admitted: self.admitted,
            abandoned: self.abandoned,
            rejected: self.rejected,
            queue_depth: self.queue.len,
            max_queue: self.limits.max_queue,
            in_flight: self.in_flight,
            max_in_flight: match self.limits.kind {
                LaneKind::Budget => self.limits.cap().min(limit),
                LaneKind::Beside => self.limits.cap(),
            },
            queued_time: from_nanos(queued),
            in_flight_time: from_nanos(in_flight),
            mean_hold: self.returns.mean_hold(),
            shadow_rejected: [0; RejectReason::ALL.len()],
            service_p50: None,
            service_p90: None,
        }
    }
}

fn from_nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
    Duration::new(seconds, (nanos % SECOND) as u32)
}
