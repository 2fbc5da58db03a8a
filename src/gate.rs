//! The decision core: which request may go to the application, which waits, which is turned away.
//!
//! A state machine without I/O. There is no clock, no lock, no runtime in here: time is an
//! argument, and what the outside must do is said by [`Gate::poll_action`]. The same code therefore
//! runs in the proxy (behind `admission`) and in every property test.
//!
//! One gate stands before one upstream. Its **budget** is shared by **lanes**, one for each route;
//! a lane may have a cap of its own, may have part of the budget reserved, or may stand beside the
//! budget with a bound of its own (streams, exempt routes). Each lane has a bounded queue. The next
//! slot goes to the highest **class** that can use it (lower ones have floors), within it to the
//! lane and within that to the **flow** that has had the least of the application, within that to
//! who came first or last.
//!
//! A burst is absorbed, a standing queue is not allowed to stay: a queue that has not been empty
//! for long, and has failed somebody meanwhile, holds its waits short, until it was empty once. A
//! queue fails who waits in it in vain, be it that they are turned away or that they leave, and who
//! finds no place in it.
//!
//! Read [`Gate::arrive`], then [`Gate::complete`], then `Gate::dispatch`. Who waits stands in a
//! `band` (one class of one lane); `ready` says which band is next.
//!
//! # Invariants
//!
//! - **I1** A slot is granted only where `in_flight + 1 <= limit`, for the budget and for the lane.
//! - **I2** Nothing is queued beyond the lane's `max_queue`. A smaller `max_queue` fails no waiter.
//! - **I3** `arrivals = admitted + rejected + abandoned + queued`, for each lane.
//! - **I4** After any operation no waiter stands beside a slot that it may use (unless paused).
//! - **I5** A slot is given back exactly once.
//! - **I6** Within a lane nobody is turned away for lack of space while somebody of a lower class
//!   waits there; the next slot goes to the highest class that can use it. Floors aside.
//! - **I7** A class that waits gets at least one of each `floor_period` grants of the budget that
//!   it could use; every wait ends by `max_wait`, or by `max_wait` and `hold` after a pause.
//! - **I8** The same inputs give the same outputs.
//!
//! Lanes that are not held to their limits (`enforce = false`) stand outside of I1, I2 and I4.
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
mod auto;
mod band;
mod clock;
mod dispatch;
mod enter;
mod floors;
mod heap;
mod lane;
mod limits;
mod open;
mod pause;
mod ready;
mod retry;
mod service;
mod snapshot;
#[cfg(test)]
mod testing;
mod time;
mod types;
mod waiters;

use std::task::Waker;
use std::time::Duration;

use auto::{Auto, Sample};
use floors::Floors;
use heap::Heap;
use lane::Lane;
use ready::Ready;
use types::Grant;
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
    /// Finds `limit`, where it is to be found.
    auto: Option<Box<Auto>>,
    in_flight: u32,
    /// Slots of the budget that no reservation covers, in use.
    shared_in_flight: u32,
    /// Slots of the budget that are set aside for single lanes.
    set_aside: u32,
    /// Slots of the budget that responses hold which stay open.
    open: u32,
    /// Requests inside the budget's lanes that were let through without being held to it.
    shadow_in_flight: u32,
    lanes: Vec<Lane>,
    ready: Ready,
    floors: Floors,
    waiters: Waiters,
    deadlines: Heap<Time>,
    actions: List,
    rejected_class: [u64; Class::COUNT],
    /// All of them in lanes of the budget.
    turned_away: u64,
    draining: bool,
    /// Since when nothing is granted.
    paused: Option<Time>,
    /// How long a pause may keep somebody waiting.
    hold: Duration,
    /// When the latest pause ended.
    resumed: Time,
}

// === impl Gate ===

impl Gate {
    /// A gate at rest.
    #[must_use]
    pub fn new(now: Time, limits: &Limits) -> Gate {
        let mut gate = Gate {
            now,
            limit: 0,
            auto: None,
            in_flight: 0,
            shared_in_flight: 0,
            set_aside: 0,
            open: 0,
            shadow_in_flight: 0,
            lanes: Vec::new(),
            ready: Ready::new(),
            floors: Floors::new(),
            waiters: Waiters::new(),
            deadlines: Heap::new(),
            actions: List::default(),
            rejected_class: [0; Class::COUNT],
            turned_away: 0,
            draining: false,
            paused: None,
            hold: Duration::ZERO,
            resumed: now,
        };
        gate.reconfigure(now, limits);
        gate
    }

    /// A request arrives at a lane.
    pub fn arrive(&mut self, now: Time, arrival: Arrival) -> Verdict {
        self.advance(now);
        let lane = arrival.lane as u32;
        self.lanes[arrival.lane].accrue(self.now);
        let verdict = self.decide(&arrival);
        self.lanes[arrival.lane].count_arrival();
        self.check(lane);
        verdict
    }

    /// A slot comes back; it may go on to somebody who waits.
    pub fn complete(&mut self, now: Time, slot: Slot, outcome: Outcome) {
        self.advance(now);
        let grant = slot.consumed();
        // A pause says nothing of how long the application takes.
        let held = self.now.since(grant.at.max(self.resumed));
        let on_top = self.is_on_top(&grant);
        let here = &mut self.lanes[grant.lane as usize];
        if !on_top {
            here.returns.completed(held);
        }
        if let Outcome::Answered(time) = outcome {
            here.service.record(time);
        }
        self.settle(&grant, held);
        if !on_top {
            self.learn(&grant, outcome);
        }
        self.release(&grant);
        self.dispatch();
        self.check(grant.lane);
    }

    /// Asks what has become of a ticket. While it waits, `waker` is kept for [`Gate::poll_action`].
    pub fn claim(&mut self, ticket: Ticket, waker: &Waker) -> Claim {
        let index = self.waiters.find(&ticket);
        let waiter = self.waiters.get_mut(index);
        let (state, arrived) = (waiter.state, waiter.arrived);
        match state {
            State::Waiting => {
                match &mut waiter.waker {
                    Some(kept) => kept.clone_from(waker),
                    none => *none = Some(waker.clone()),
                }
                Claim::Waiting(ticket)
            }
            State::Granted(grant) => {
                self.forget(index, ticket);
                Claim::Granted(Slot::new(grant), grant.at.since(arrived))
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
                let class = usize::from(self.waiters.get(index).class);
                self.leave_queue(index);
                let here = &mut self.lanes[lane as usize];
                here.count_abandoned();
                // A queue in which clients lose patience fails them, even before `max_wait`.
                here.band(class).note_failure();
                Abandoned::Left
            }
            State::Granted(grant) => Abandoned::WasGranted(Slot::new(grant)),
            State::Refused(_) => Abandoned::WasRejected,
            State::Free => broken("a ticket's place is taken"),
        };
        self.forget(index, ticket);
        self.check(lane);
        abandoned
    }

    /// Time passes: whoever waited for too long is turned away.
    pub fn expire(&mut self, now: Time) {
        self.advance(now);
    }

    /// Until when a ticket waits at the longest, as things are: a pause changes that. `None`: it
    /// does not wait any more.
    #[must_use]
    pub fn waits_until(&self, ticket: &Ticket) -> Option<Time> {
        self.deadlines.key(self.waiters.find(ticket))
    }

    /// When [`Gate::expire`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| deadline)
    }

    /// Changes the limits in place. No waiter is failed and none loses its place: a lower limit
    /// grants nothing until enough has completed, a shorter queue takes no newcomers until its
    /// surplus has left, and who waits already keeps the `max_wait` under which it came. Lanes may
    /// be added at the end; those beyond the new list keep their limits. A budget that finds
    /// itself goes on from what it has found.
    pub fn reconfigure(&mut self, now: Time, limits: &Limits) {
        self.advance(now);
        self.set_budget(limits.budget);
        self.floors.set_period(limits.floor_period);
        self.set_hold(limits.hold);
        for (index, lane_limits) in limits.lanes.iter().enumerate() {
            match self.lanes.get_mut(index) {
                Some(lane) => {
                    let unchanged = lane.limits.kind == lane_limits.kind;
                    invariant!(unchanged, "a lane stays inside the budget or beside it");
                    lane.accrue(self.now);
                    lane.set_limits(*lane_limits);
                }
                None => self.lanes.push(Lane::new(*lane_limits, self.now)),
            }
            self.ready.refile(&mut self.lanes, index as u32, self.limit);
            self.let_through(index as u32);
        }
        let set_aside = self.lanes.iter().map(|lane| lane.limits.set_aside());
        self.set_aside = set_aside.fold(0, u32::saturating_add);
        self.shared_in_flight = self.lanes.iter().map(Lane::beyond_reservation).sum();
        self.dispatch();
    }

    /// Sets a fixed budget from outside, as a controller would that is not part of the gate.
    pub fn set_limit(&mut self, now: Time, limit: u32) {
        self.advance(now);
        self.set_budget(Budget::Fixed(limit));
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
            open: self.open,
            rejected_class: self.rejected_class,
            paused: self.paused.is_some(),
            hold_left: self.held_until().map(|until| until.since(now)).unwrap_or_default(),
            auto: self.auto.as_ref().map(|auto| auto.snapshot()),
            lanes: self.lanes.iter().map(|lane| lane.snapshot(now, self.limit)).collect(),
        }
    }

    fn set_budget(&mut self, budget: Budget) {
        match (budget, &mut self.auto) {
            (Budget::Fixed(limit), auto) => {
                *auto = None;
                self.limit = limit;
            }
            (Budget::Auto(limits), Some(auto)) => auto.set_limits(self.now, limits),
            (Budget::Auto(limits), auto) => *auto = Some(Box::new(Auto::new(self.now, limits))),
        }
        self.take_limit();
    }

    /// Shows the automatic limit how a request went.
    fn learn(&mut self, grant: &Grant, outcome: Outcome) {
        let inside = self.lanes[grant.lane as usize].limits.kind == LaneKind::Budget;
        let full = !(self.has_budget() && self.has_shared());
        let Some(auto) = self.auto.as_mut().filter(|_| inside && !grant.shadow) else { return };
        auto.observe(&Sample {
            now: self.now,
            lane: grant.lane as usize,
            outcome,
            in_flight: self.in_flight - self.open,
            full,
            turned_away: self.turned_away,
        });
        self.take_limit();
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
        invariant!(self.admissible() == 0, "I4: nobody waits beside a slot that it may use");
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
