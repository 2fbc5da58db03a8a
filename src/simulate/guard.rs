//! The gate as a run drives it, and what can be judged of it from outside: promises kept, nobody
//! overtaken by somebody less important.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;

use super::controllers::{Controller, Sample};
use super::scenario::Scenario;
use crate::gate::{
    Abandoned, Arrival, Budget, Claim, Class, Gate, LaneKind, Limits, Outcome, RejectReason, Slot,
    Ticket, TicketId, Time, Verdict,
};

/// After so many operations everything is counted again.
const AUDIT_EVERY: u64 = 1_024;
/// A limit that nobody has set from outside.
const UNKNOWN: u32 = u32::MAX;

/// The gate of a run.
#[derive(Debug)]
pub(super) struct Guard {
    gate: Gate,
    limits: Limits,
    controller: Option<Controller>,
    tickets: HashMap<TicketId, u32, BuildHasherDefault<Scatter>>,
    operations: u64,
    paused: bool,
    /// The bound that holds now, as far as it is known from outside.
    limit: u32,
    /// The bound that held when all that was granted was known: grants under it may be still to
    /// come.
    limit_before: u32,
    in_flight: u32,
    lanes: Vec<Seen>,
    /// Grants that each class may still get before a higher one, by its floor.
    floors: [f64; Class::COUNT],
    /// Since it was last asked.
    inversions: u64,
    violations: u64,
}

/// What is known of a lane from outside.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    in_flight: u32,
    waiting: [u32; Class::COUNT],
}

/// Ticket names are spread well already.
#[derive(Debug, Default)]
struct Scatter(u64);

impl Hasher for Scatter {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(29) ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Guard {
        let mut limits = scenario.limits.clone();
        let controller = Controller::of(scenario.protection, seed);
        if let Some(controller) = &controller {
            limits.budget = Budget::Fixed(controller.limit());
        }
        Guard {
            gate: Gate::new(Time::ZERO, &limits),
            limit: bound(&limits),
            limit_before: 0,
            lanes: vec![Seen::default(); limits.lanes.len()],
            limits,
            controller,
            tickets: HashMap::default(),
            operations: 0,
            paused: false,
            in_flight: 0,
            floors: [0.0; Class::COUNT],
            inversions: 0,
            violations: 0,
        }
    }

    pub(super) fn arrive(&mut self, now: u64, request: u32, arrival: Arrival) -> Verdict {
        self.operation();
        let verdict = self.gate.arrive(Time::from_nanos(now), arrival);
        match &verdict {
            Verdict::Admitted(_) => self.granted(arrival.lane, arrival.class, false),
            Verdict::Queued(ticket, _) => {
                self.tickets.insert(ticket.id(), request);
                self.lanes[arrival.lane].waiting[class_index(arrival.class)] += 1;
            }
            Verdict::Rejected(rejection) => {
                self.refused(arrival.lane, arrival.class, rejection.reason);
            }
        }
        verdict
    }

    /// The next request that the gate has resolved.
    pub(super) fn resolved(&mut self) -> Option<u32> {
        let Some(action) = self.gate.poll_action() else {
            self.limit_before = self.limit;
            return None;
        };
        let request = self.tickets.remove(&action.ticket);
        self.violations += u64::from(request.is_none());
        request
    }

    /// What has become of a request that [`Guard::resolved`] named.
    pub(super) fn claim(&mut self, ticket: Ticket, lane: usize, class: Class) -> Claim {
        let claim = self.gate.claim(ticket, Waker::noop());
        match &claim {
            Claim::Granted(_, waited) => {
                self.unqueue(lane, class);
                self.granted(lane, class, true);
                self.violations += u64::from(*waited > self.limits.lanes[lane].max_wait);
            }
            Claim::Rejected(rejection, _) => {
                self.unqueue(lane, class);
                self.refused(lane, class, rejection.reason);
            }
            Claim::Waiting(_) => self.violations += 1,
        }
        claim
    }

    /// The client of a request that waits has left. A slot that it had been given goes back.
    pub(super) fn abandon(&mut self, now: u64, ticket: Ticket, lane: usize, class: Class) {
        self.operation();
        self.tickets.remove(&ticket.id());
        self.unqueue(lane, class);
        match self.gate.abandon(Time::from_nanos(now), ticket) {
            Abandoned::Left | Abandoned::WasRejected => {}
            Abandoned::WasGranted(slot) => {
                self.gate.complete(Time::from_nanos(now), slot, Outcome::Unknown);
            }
        }
    }

    pub(super) fn complete(&mut self, now: u64, slot: Slot, granted: u64, outcome: Outcome) {
        self.operation();
        let (lane, in_flight) = (slot.lane(), self.in_flight);
        self.lanes[lane].in_flight -= 1;
        self.in_flight -= u32::from(self.in_budget(lane));
        let now_time = Time::from_nanos(now);
        self.gate.complete(now_time, slot, outcome);
        let Some(controller) = &mut self.controller else { return };
        let dropped = matches!(outcome, Outcome::Overloaded | Outcome::TimedOut);
        if outcome != Outcome::Unknown {
            controller.sample(Sample { now, granted, in_flight, dropped });
            let limit = controller.limit();
            if limit != self.limit {
                self.limit = limit;
                self.gate.set_limit(now_time, limit);
            }
        }
    }

    pub(super) fn expire(&mut self, now: u64) {
        self.operation();
        self.gate.expire(Time::from_nanos(now));
    }

    /// When [`Guard::expire`] has something to do; far away if never.
    pub(super) fn next(&self) -> u64 {
        self.gate.next_deadline().map_or(u64::MAX, Time::as_nanos)
    }

    pub(super) fn pause(&mut self, now: u64, pause: bool) {
        self.operation();
        self.paused = pause;
        let now = Time::from_nanos(now);
        if pause { self.gate.pause(now) } else { self.gate.resume(now) }
    }

    /// Gives the limits again; every other time with a smaller budget and shorter queues.
    pub(super) fn reconfigure(&mut self, now: u64, smaller: bool) {
        self.operation();
        let mut limits = self.limits.clone();
        if smaller {
            if let Budget::Fixed(limit) = &mut limits.budget {
                *limit = (*limit - *limit / 4).max(1);
            }
            limits.lanes.iter_mut().for_each(|lane| lane.max_queue -= lane.max_queue / 2);
        }
        self.limit = bound(&limits);
        self.gate.reconfigure(Time::from_nanos(now), &limits);
    }

    /// Who waits, slots in use, the limit.
    pub(super) fn reading(&self, now: u64) -> (u32, u32, u32) {
        let snapshot = self.gate.snapshot(Time::from_nanos(now));
        let queued = snapshot.lanes.iter().map(|lane| lane.queue_depth).sum();
        (queued, snapshot.in_flight, snapshot.max_in_flight)
    }

    /// Inversions since it was last asked.
    pub(super) fn take_inversions(&mut self) -> u64 {
        std::mem::take(&mut self.inversions)
    }

    /// Everything was given back: the gate says so too. Promises seen broken.
    pub(super) fn finish(self) -> u64 {
        self.gate.assert_at_rest();
        self.violations + self.tickets.len() as u64
    }

    fn operation(&mut self) {
        self.operations += 1;
        if self.operations.is_multiple_of(AUDIT_EVERY) {
            self.gate.audit();
        }
    }

    fn in_budget(&self, lane: usize) -> bool {
        let limits = &self.limits.lanes[lane];
        limits.kind == LaneKind::Budget && limits.enforce
    }

    fn unqueue(&mut self, lane: usize, class: Class) {
        self.lanes[lane].waiting[class_index(class)] -= 1;
    }

    fn granted(&mut self, lane: usize, class: Class, waited: bool) {
        let shared = self.lanes[lane].in_flight >= self.limits.lanes[lane].reserved;
        self.lanes[lane].in_flight += 1;
        if !self.in_budget(lane) {
            return;
        }
        self.in_flight += 1;
        let beyond = self.in_flight > self.limit.max(self.limit_before);
        self.violations += u64::from(beyond || self.paused);
        let own = class_index(class);
        if self.limits.floor_period > 0 {
            let share = 1.0 / f64::from(self.limits.floor_period);
            self.floors.iter_mut().for_each(|floor| *floor = (*floor + share).min(2.0));
        }
        if waited && self.higher_waits(lane, own, shared) {
            // Grants may be counted from either end of a turn; a thousandth is rounding.
            if self.floors[own] >= 0.999 {
                self.floors[own] -= 1.0;
            } else {
                self.inversions += 1;
            }
        }
    }

    /// Whether somebody of a higher class waits who could have used a slot that `lane` got.
    fn higher_waits(&self, lane: usize, class: usize, shared: bool) -> bool {
        let above = |seen: &Seen| seen.waiting[class + 1..].iter().any(|count| *count > 0);
        self.lanes.iter().enumerate().any(|(other, seen)| {
            let capped =
                self.limits.lanes[other].max_in_flight.is_some_and(|cap| seen.in_flight >= cap);
            above(seen) && (other == lane || (shared && !capped && self.in_budget(other)))
        })
    }

    /// Whoever is turned away for lack of space is of the lowest class that waits there, but for
    /// the few places that a floor needs.
    fn refused(&mut self, lane: usize, class: Class, reason: RejectReason) {
        if !matches!(reason, RejectReason::QueueFull | RejectReason::Evicted) {
            return;
        }
        let places = match self.limits.floor_period {
            0 => 0,
            period => self.limits.lanes[lane].max_queue.div_ceil(period),
        };
        let below = &self.lanes[lane].waiting[..class_index(class)];
        self.inversions += u64::from(below.iter().any(|count| *count > places));
    }
}

fn class_index(class: Class) -> usize {
    usize::from(class.number())
}

fn bound(limits: &Limits) -> u32 {
    match limits.budget {
        Budget::Fixed(limit) => limit,
        Budget::Auto(auto) => {
            if auto.max == 0 {
                UNKNOWN
            } else {
                auto.max
            }
        }
    }
}
