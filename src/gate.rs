//! The decision core: which request may go to the application, which waits, which is turned away.
//!
//! A state machine without I/O. There is no clock, no lock, no runtime in here: time is an
//! argument, and what the outside must do is said by [`Gate::poll_action`]. The same code therefore
//! runs in the proxy (behind `admission`) and in every property test.
//!
//! One gate stands before one upstream. Its **budget** (`max_in_flight`) is shared by **lanes**,
//! one for each route; a lane may have a cap of its own, may have part of the budget reserved, or
//! may stand beside the budget with a bound of its own (streams, exempt routes). Each lane has a
//! bounded queue, first in, first out. Where several lanes wait for the same slot they take turns.
//!
//! Read [`Gate::arrive`], then [`Gate::complete`], then `Gate::dispatch`.
//!
//! # Invariants
//!
//! - **I1** A slot is granted only where `in_flight + 1 <= limit`, for the budget and for the lane.
//! - **I2** Nothing is queued beyond the lane's `max_queue`. A smaller `max_queue` fails no waiter.
//! - **I3** `arrivals = admitted + rejected + abandoned + queued`, for each lane.
//! - **I4** After any operation no waiter stands beside a slot that it may use.
//! - **I5** A slot is given back exactly once.
//! - **I8** The same inputs give the same outputs.
//!
//! The O(1) ones are checked after every operation, also in production; a broken one aborts the
//! process, because a gate that miscounts would either let the application drown or starve it,
//! silently.

/// Aborts if an invariant of the gate does not hold (in unit tests: panics).
macro_rules! invariant {
    ($holds:expr, $what:expr) => {
        if !$holds {
            $crate::gate::broken($what);
        }
    };
}

mod audit;
mod deadlines;
mod lane;
mod limits;
mod ready;
mod retry;
mod snapshot;
#[cfg(test)]
mod testing;
mod time;
mod types;
mod waiters;

use std::task::Waker;

use deadlines::Deadlines;
use lane::{Lane, Standing};
use ready::Ready;
use waiters::{List, NIL, State, Waiters};

pub use limits::{AutoLimits, Budget, Class, LaneKind, LaneLimits, Limits, Order};
pub use snapshot::{AutoDecision, AutoSnapshot, LaneSnapshot, Snapshot};
pub use time::Time;
pub use types::{
    Abandoned, Action, Arrival, Claim, Outcome, RejectReason, Rejection, Slot, Ticket, TicketId,
    Verdict,
};

/// The gate before one upstream. See the module.
#[derive(Debug)]
pub struct Gate {
    /// The latest instant seen: callers read their clocks before they take their turn.
    now: Time,
    limit: u32,
    in_flight: u32,
    /// Slots of the budget that no reservation covers, in use.
    shared_in_flight: u32,
    /// Slots of the budget that are set aside for single lanes.
    set_aside: u32,
    lanes: Vec<Lane>,
    ready: Ready,
    waiters: Waiters,
    deadlines: Deadlines,
    actions: List,
    draining: bool,
    paused: bool,
}

// === impl Gate ===

impl Gate {
    /// A gate at rest.
    #[must_use]
    pub fn new(now: Time, limits: &Limits) -> Gate {
        let mut gate = Gate {
            now,
            limit: 0,
            in_flight: 0,
            shared_in_flight: 0,
            set_aside: 0,
            lanes: Vec::new(),
            ready: Ready::new(),
            waiters: Waiters::new(),
            deadlines: Deadlines::default(),
            actions: List::default(),
            draining: false,
            paused: false,
        };
        gate.reconfigure(now, limits);
        gate
    }

    /// A request arrives at a lane.
    pub fn arrive(&mut self, now: Time, arrival: Arrival) -> Verdict {
        let lane = arrival.lane;
        self.advance(now);
        self.lanes[lane].accrue(self.now);
        self.lanes[lane].count_arrival();
        let verdict = self.decide(lane as u32);
        self.check(lane as u32);
        verdict
    }

    /// A slot comes back; it may go on to somebody who waits.
    pub fn complete(&mut self, now: Time, slot: Slot, _outcome: Outcome) {
        self.advance(now);
        let (lane, held) = (slot.lane, self.now.since(slot.granted));
        slot.consumed();
        self.lanes[lane as usize].returns.completed(held);
        self.release(lane);
        self.dispatch();
        self.check(lane);
    }

    /// Asks what has become of a ticket. While it waits, `waker` is kept for [`Gate::poll_action`].
    pub fn claim(&mut self, ticket: Ticket, waker: &Waker) -> Claim {
        let index = self.waiters.find(&ticket);
        let waiter = self.waiters.get_mut(index);
        let (state, lane, arrived) = (waiter.state, waiter.lane, waiter.arrived);
        match state {
            State::Waiting => {
                match &mut waiter.waker {
                    Some(kept) => kept.clone_from(waker),
                    none => *none = Some(waker.clone()),
                }
                Claim::Waiting(ticket)
            }
            State::Granted(granted) => {
                self.forget(index, ticket);
                Claim::Granted(Slot { lane, granted }, granted.since(arrived))
            }
            State::Refused(rejection) => {
                let waited = self.now.since(arrived);
                self.forget(index, ticket);
                Claim::Rejected(rejection, waited)
            }
            State::Free => broken("a ticket's place is taken"),
        }
    }

    /// The client left the queue, perhaps after its ticket was resolved and before it was woken.
    pub fn abandon(&mut self, now: Time, ticket: Ticket) -> Abandoned {
        self.advance(now);
        let index = self.waiters.find(&ticket);
        let (state, lane) = (self.waiters.get(index).state, self.waiters.get(index).lane);
        let abandoned = match state {
            State::Waiting => {
                self.leave_queue(index);
                self.lanes[lane as usize].count_abandoned();
                Abandoned::Left
            }
            State::Granted(granted) => Abandoned::WasGranted(Slot { lane, granted }),
            State::Refused(_) => Abandoned::WasRejected,
            State::Free => broken("a ticket's place is taken"),
        };
        self.forget(index, ticket);
        self.check(lane);
        abandoned
    }

    /// Time passes: whoever waited for `max_wait` is turned away.
    pub fn expire(&mut self, now: Time) {
        self.advance(now);
    }

    /// When [`Gate::expire`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Changes the limits in place. No waiter is failed and none loses its place: a lower limit
    /// grants nothing until enough has completed, a shorter queue takes no newcomers until its
    /// surplus has left, and who waits already keeps the `max_wait` under which it came. Lanes may
    /// be added at the end; those beyond the new list keep their limits.
    pub fn reconfigure(&mut self, now: Time, limits: &Limits) {
        self.advance(now);
        self.limit = match limits.budget {
            Budget::Fixed(limit) => limit,
            Budget::Auto(auto) => 16.clamp(auto.min, auto.max),
        };
        for (index, lane_limits) in limits.lanes.iter().enumerate() {
            match self.lanes.get_mut(index) {
                Some(lane) => {
                    let unchanged = lane.limits.kind == lane_limits.kind;
                    invariant!(unchanged, "a lane stays inside the budget or beside it");
                    lane.set_limits(*lane_limits);
                }
                None => self.lanes.push(Lane::new(*lane_limits, self.now)),
            }
            self.ready.refile(&mut self.lanes, index as u32);
        }
        self.set_aside = self.lanes.iter().map(|lane| lane.limits.set_aside()).sum();
        self.shared_in_flight = self.lanes.iter().map(Lane::beyond_reservation).sum();
        self.dispatch();
    }

    /// Turns away everybody who waits and everybody who comes from now on. Slots in use stay valid.
    pub fn drain(&mut self, now: Time) {
        self.advance(now);
        self.draining = true;
        while let Some((_, index)) = self.deadlines.first() {
            self.refuse(index, RejectReason::Draining);
        }
    }

    /// From now on nothing is granted: who comes waits, within the bounds of the queue. For an
    /// application that is known to be away.
    pub fn pause(&mut self, now: Time) {
        self.advance(now);
        self.paused = true;
    }

    /// Ends a [`Gate::pause`]. Who waits goes on in order.
    pub fn resume(&mut self, now: Time) {
        self.advance(now);
        self.paused = false;
        self.dispatch();
    }

    /// Sets a fixed budget from outside, as a controller would that is not part of the gate.
    pub fn set_limit(&mut self, now: Time, limit: u32) {
        self.advance(now);
        self.limit = limit;
        self.dispatch();
    }

    /// The next thing that the shell must do. Call it until it returns `None` after every
    /// operation.
    pub fn poll_action(&mut self) -> Option<Action> {
        let index = self.actions.head;
        if index == NIL {
            return None;
        }
        self.waiters.unlink(&mut self.actions, index);
        self.waiters.get_mut(index).unannounced = false;
        let waker = self.waiters.get_mut(index).waker.take();
        let (place, generation) = self.waiters.ticket_id(index);
        Some(Action { ticket: TicketId(place, generation), waker })
    }

    /// What the gate holds at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let now = self.now.max(now);
        Snapshot {
            max_in_flight: self.limit,
            in_flight: self.in_flight,
            rejected_class: [0; Class::COUNT],
            paused: self.paused,
            auto: None,
            lanes: self.lanes.iter().map(|lane| lane.snapshot(now, self.limit)).collect(),
        }
    }

    fn decide(&mut self, lane: u32) -> Verdict {
        let here = &mut self.lanes[lane as usize];
        if self.draining {
            return Verdict::Rejected(here.reject(self.now, RejectReason::Draining));
        }
        if here.queue.len == 0 && !self.paused && self.has_slot_for(lane) {
            self.admit(lane);
            return Verdict::Admitted(Slot { lane, granted: self.now });
        }
        let here = &mut self.lanes[lane as usize];
        if here.queue.len >= here.limits.max_queue {
            return Verdict::Rejected(here.reject(self.now, RejectReason::QueueFull));
        }
        if here.limits.max_wait.is_zero() {
            return Verdict::Rejected(here.reject(self.now, RejectReason::MaxWait));
        }
        let (index, ticket) = self.waiters.insert(lane, self.now);
        self.waiters.push_back(&mut here.queue, index);
        let deadline = self.now + here.limits.max_wait;
        self.deadlines.insert(index, deadline);
        self.ready.refile(&mut self.lanes, lane);
        Verdict::Queued(ticket, deadline)
    }

    /// Whether a lane could use a slot now, were it its turn.
    fn has_slot_for(&self, lane: u32) -> bool {
        let here = &self.lanes[lane as usize];
        let within_cap = here.in_flight < here.limits.cap();
        let within_budget = match here.limits.kind {
            LaneKind::Beside => true,
            LaneKind::Budget if here.in_flight < here.limits.set_aside() => self.has_budget(),
            LaneKind::Budget => self.has_budget() && self.has_shared(),
        };
        within_cap && within_budget
    }

    fn has_budget(&self) -> bool {
        self.in_flight < self.limit
    }

    fn has_shared(&self) -> bool {
        self.shared_in_flight < self.limit.saturating_sub(self.set_aside)
    }

    /// Gives every free slot to whose turn it is.
    fn dispatch(&mut self) {
        while let Some(lane) = self.next_lane() {
            let index = self.lanes[lane as usize].queue.head;
            self.leave_queue(index);
            self.admit(lane);
            self.resolve(index, State::Granted(self.now));
            self.ready.move_to_end(&mut self.lanes, lane);
            self.lanes[lane as usize].check();
        }
    }

    /// The lane that gets the next slot: first who has one reserved, then who may use what is
    /// shared.
    fn next_lane(&self) -> Option<u32> {
        if self.paused {
            return None;
        }
        let beside = self.ready.first(Standing::Beside);
        if !self.has_budget() {
            return beside;
        }
        let shared = || self.ready.first(Standing::Shared).filter(|_| self.has_shared());
        beside.or_else(|| self.ready.first(Standing::Reserved)).or_else(shared)
    }

    fn admit(&mut self, lane: u32) {
        let here = &mut self.lanes[lane as usize];
        here.accrue(self.now);
        let before = here.beyond_reservation();
        here.admit();
        if here.limits.kind == LaneKind::Budget {
            self.shared_in_flight += here.beyond_reservation() - before;
            self.in_flight += 1;
            invariant!(self.in_flight <= self.limit, "I1: the budget is never exceeded");
        }
    }

    fn release(&mut self, lane: u32) {
        let here = &mut self.lanes[lane as usize];
        here.accrue(self.now);
        let before = here.beyond_reservation();
        here.release();
        if here.limits.kind == LaneKind::Budget {
            invariant!(self.in_flight > 0, "I5: a slot is given back exactly once");
            self.shared_in_flight -= before - here.beyond_reservation();
            self.in_flight -= 1;
        }
        self.ready.refile(&mut self.lanes, lane);
    }

    /// Moves the clock and turns away whose time is up: nobody is granted a slot after its
    /// deadline.
    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        while let Some((deadline, index)) = self.deadlines.first() {
            if deadline > self.now {
                break;
            }
            self.refuse(index, RejectReason::MaxWait);
        }
    }

    fn refuse(&mut self, index: u32, reason: RejectReason) {
        self.leave_queue(index);
        let lane = self.waiters.get(index).lane as usize;
        let rejection = self.lanes[lane].reject(self.now, reason);
        self.resolve(index, State::Refused(rejection));
        self.lanes[lane].check();
    }

    fn leave_queue(&mut self, index: u32) {
        let lane = self.waiters.get(index).lane;
        let here = &mut self.lanes[lane as usize];
        here.accrue(self.now);
        self.waiters.unlink(&mut here.queue, index);
        self.deadlines.remove(index);
        self.ready.refile(&mut self.lanes, lane);
    }

    fn resolve(&mut self, index: u32, state: State) {
        let waiter = self.waiters.get_mut(index);
        waiter.state = state;
        waiter.unannounced = true;
        self.waiters.push_back(&mut self.actions, index);
    }

    /// Frees the place of a ticket that has ended.
    fn forget(&mut self, index: u32, ticket: Ticket) {
        if self.waiters.get(index).unannounced {
            self.waiters.unlink(&mut self.actions, index);
            self.waiters.get_mut(index).unannounced = false;
        }
        self.waiters.remove(index);
        ticket.consumed();
    }

    /// The O(1) part of the audit, after every operation.
    fn check(&mut self, lane: u32) {
        self.lanes[lane as usize].check();
        invariant!(self.next_lane().is_none(), "I4: nobody waits beside a slot that it may use");
    }
}

/// Says which invariant is broken and ends the process: going on would be a lie.
#[cold]
#[inline(never)]
pub(crate) fn broken(what: &str) -> ! {
    if cfg!(test) {
        panic!("broken invariant: {what}");
    }
    eprintln!("tidegate: broken invariant: {what}; this is a bug, please report it");
    std::process::abort();
}
