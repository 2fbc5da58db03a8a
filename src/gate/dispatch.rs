//! Who gets the next slot, and how slots are taken and given back.

use std::time::Duration;

use super::Gate;
use super::clock::nanos;
use super::lane::{Lane, Standing};
use super::limits::{LaneKind, Order};
use super::ready::classes;
use super::time::Time;
use super::types::{Charge, Grant, RejectReason};
use super::waiters::{NIL, State};

/// While the queue stands nobody waits for more than so many targets. A flow that does not stand
/// may wait for all of them: what it sends comes and goes, and does not make the queue stand.
const PATIENCE: u32 = 4;
/// A flow that stands may wait for so many rounds of all flows, if that is more than the target.
const ROUNDS: u32 = 3;
/// So many whose time is up are turned away at once, so that no operation takes long.
const SWEEP: usize = 16;

impl Gate {
    /// Whether a lane could use a slot now, were it its turn.
    pub(super) fn has_slot_for(&self, lane: u32) -> bool {
        let here = &self.lanes[lane as usize];
        let within_cap = here.in_flight < here.limits.cap();
        let within_budget = match here.limits.kind {
            LaneKind::Beside => true,
            LaneKind::Budget if here.in_flight < here.limits.set_aside() => self.has_budget(),
            LaneKind::Budget => self.has_budget() && self.has_shared(),
        };
        within_cap && within_budget
    }

    /// The classes of those who could be granted a slot now.
    pub(super) fn admissible(&self) -> u8 {
        if self.paused.is_some() {
            return 0;
        }
        self.ready.mask(Standing::Beside) | self.admissible_to_budget()
    }

    /// Gives every free slot to whose turn it is.
    pub(super) fn dispatch(&mut self) {
        while let Some((lane, class)) = self.next() {
            self.serve(lane, class);
        }
    }

    /// Takes a slot.
    pub(super) fn admit(&mut self, lane: u32, class: usize, charge: Option<Charge>) -> Grant {
        let here = &mut self.lanes[lane as usize];
        here.accrue(self.now);
        let before = here.beyond_reservation();
        here.admit();
        if here.limits.kind == LaneKind::Budget {
            self.shared_in_flight += here.beyond_reservation() - before;
            self.in_flight += 1;
            invariant!(self.in_flight <= self.limit, "I1: the budget is never exceeded");
        }
        self.ready.refile(&mut self.lanes, lane, self.limit);
        self.grant(lane, class, false, charge)
    }

    /// Takes a place outside of all limits.
    pub(super) fn admit_shadow(&mut self, lane: u32, class: usize) -> Grant {
        let here = &mut self.lanes[lane as usize];
        here.accrue(self.now);
        here.admit_shadow();
        if here.limits.kind == LaneKind::Budget {
            self.shadow_in_flight += 1;
        }
        self.grant(lane, class, true, None)
    }

    /// Gives a slot back.
    pub(super) fn release(&mut self, grant: &Grant) {
        let here = &mut self.lanes[grant.lane as usize];
        here.accrue(self.now);
        let inside = here.limits.kind == LaneKind::Budget;
        if grant.shadow {
            here.release_shadow();
            self.shadow_in_flight -= u32::from(inside);
            return;
        }
        let before = here.beyond_reservation();
        here.release();
        if inside {
            invariant!(self.in_flight > 0, "I5: a slot is given back exactly once");
            self.shared_in_flight -= before - here.beyond_reservation();
            self.in_flight -= 1;
            if grant.open {
                self.open -= 1;
                self.take_limit();
            }
        }
        self.ready.refile(&mut self.lanes, grant.lane, self.limit);
    }

    /// Corrects what was charged in advance.
    pub(super) fn settle(&mut self, grant: &Grant, held: Duration) {
        let Some(charge) = grant.charge else { return };
        let (class, held) = (usize::from(grant.class), nanos(held));
        self.lanes[grant.lane as usize].band(class).settle(charge.flow, charge.nanos, held);
        self.ready.settle(&mut self.lanes, grant.lane, class, (charge, held));
    }

    /// Moves the clock and turns away whose time is up: nobody is granted a slot after that.
    pub(super) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        while let Some((deadline, index)) = self.deadlines.first() {
            if deadline > self.now {
                break;
            }
            self.refuse(index, self.waiters.get(index).overdue);
        }
    }

    /// Turns somebody away who waits.
    pub(super) fn refuse(&mut self, index: u32, reason: RejectReason) {
        self.evict(index, reason);
        let lane = self.waiters.get(index).lane as usize;
        self.lanes[lane].check();
    }

    /// The same, where somebody else takes the place at once.
    pub(super) fn evict(&mut self, index: u32, reason: RejectReason) {
        self.leave_queue(index);
        let waiter = self.waiters.get(index);
        let (lane, class) = (waiter.lane, usize::from(waiter.class));
        self.count_rejection(lane, class);
        let here = &mut self.lanes[lane as usize];
        here.band(class).note_failure();
        let rejection = here.reject(self.now, reason);
        self.resolve(index, State::Refused(rejection));
    }

    pub(super) fn count_rejection(&mut self, lane: u32, class: usize) {
        self.rejected_class[class] += 1;
        // Those beside the budget say nothing about its limit.
        let inside = self.lanes[lane as usize].limits.kind == LaneKind::Budget;
        self.turned_away += u64::from(inside);
    }

    pub(super) fn leave_queue(&mut self, index: u32) {
        let waiter = self.waiters.get(index);
        let (lane, class, flow) = (waiter.lane, usize::from(waiter.class), waiter.flow);
        let here = &mut self.lanes[lane as usize];
        here.accrue(self.now);
        here.queued -= 1;
        if here.queued == 0 {
            here.recovered = here.recovered.min(self.now);
        }
        here.band(class).remove(&mut self.waiters, flow, index, self.now);
        here.count_waiters(class);
        if here.limits.kind == LaneKind::Budget {
            self.floors.left(class);
        }
        self.deadlines.remove(index);
        self.ready.sync(&mut self.lanes, lane, class, self.limit);
    }

    /// How long somebody of this flow may wait while the queue stands; `None`: it does not.
    pub(super) fn allowance(&self, lane: u32, class: usize, flow: u32) -> Option<Duration> {
        let here = &self.lanes[lane as usize];
        let band = here.waiting(class).filter(|band| self.stands(here, band.failing_since()))?;
        let target = here.target();
        if !self.stands(here, band.flow_busy_since(flow)) {
            return Some(target * PATIENCE);
        }
        // Flows take turns: nobody can be served faster than the turn comes round.
        let round = here.drain_time(band.active(), here.in_flight);
        Some(target.max(round * ROUNDS).min(target * PATIENCE))
    }

    /// Turns away who of this flow has waited for too long in a queue that stands.
    pub(super) fn sweep(&mut self, lane: u32, class: usize, flow: u32) {
        let Some(allowance) = self.allowance(lane, class, flow) else { return };
        for _ in 0..SWEEP {
            let oldest = self.lanes[lane as usize].band(class).oldest(flow);
            if oldest == NIL || self.waiters.get(oldest).arrived + allowance > self.now {
                return;
            }
            self.refuse(oldest, RejectReason::StandingQueue);
        }
    }

    /// Lets everybody through who waits in a lane that is no longer held to its limits.
    pub(super) fn let_through(&mut self, lane: u32) {
        while !self.lanes[lane as usize].limits.enforce {
            let Some(class) = classes(self.lanes[lane as usize].waiting_classes()).last() else {
                return;
            };
            let band = self.lanes[lane as usize].band(class);
            let flow = band.next().expect("a class that waits has a flow that does");
            let index = band.oldest(flow);
            self.leave_queue(index);
            let grant = self.admit_shadow(lane, class);
            self.resolve(index, State::Granted(grant));
        }
    }

    pub(super) fn admissible_to_budget(&self) -> u8 {
        if !self.has_budget() {
            return 0;
        }
        let shared = if self.has_shared() { self.ready.mask(Standing::Shared) } else { 0 };
        self.ready.mask(Standing::Reserved) | shared
    }

    /// The lane and class that get the next slot.
    fn next(&self) -> Option<(u32, usize)> {
        if self.paused.is_some() {
            return None;
        }
        let beside = self.ready.mask(Standing::Beside);
        if beside != 0 {
            let class = beside.ilog2() as usize;
            return Some((self.ready.first(Standing::Beside, class)?, class));
        }
        let mask = self.admissible_to_budget();
        if mask == 0 {
            return None;
        }
        let class = self.floors.choose(mask);
        let reserved = self.ready.first(Standing::Reserved, class);
        let lane = reserved.or_else(|| self.ready.first(Standing::Shared, class))?;
        Some((lane, class))
    }

    /// Gives a slot to who is next in a class of a lane; or finds that nobody there can use it any
    /// more, and turns them away.
    fn serve(&mut self, lane: u32, class: usize) {
        let band = self.lanes[lane as usize].band(class);
        let flow = band.next().expect("a class that waits has a flow that does");
        self.sweep(lane, class, flow);
        let Some(index) = self.turn(lane, class, flow) else { return };
        if self.too_late(lane, self.waiters.get(index).deadline) {
            return self.refuse(index, RejectReason::Deadline);
        }
        // Before it leaves: the last to wait takes its lane out of turn.
        let standing = self.lanes[lane as usize].standing;
        self.leave_queue(index);
        let cost = nanos(self.lanes[lane as usize].returns.mean_hold()).max(1);
        self.lanes[lane as usize].band(class).charge(flow, cost);
        self.ready.charge(&mut self.lanes, lane, class, (standing, cost));
        if self.lanes[lane as usize].limits.kind == LaneKind::Budget {
            self.floors.granted(class);
        }
        let grant = self.admit(lane, class, Some(Charge { flow, nanos: cost, standing }));
        self.resolve(index, State::Granted(grant));
        self.lanes[lane as usize].check();
    }

    /// Who of a flow is next; `None`: nobody waits there any more.
    fn turn(&mut self, lane: u32, class: usize, flow: u32) -> Option<u32> {
        let newest_first = self.newest_first(lane, class);
        let band = self.lanes[lane as usize].band(class);
        let index = if newest_first { band.newest(flow) } else { band.oldest(flow) };
        (index != NIL).then_some(index)
    }

    pub(super) fn newest_first(&self, lane: u32, class: usize) -> bool {
        let here = &self.lanes[lane as usize];
        match here.limits.order {
            Order::Fifo => false,
            Order::Lifo => true,
            Order::Adaptive => {
                here.waiting(class).is_some_and(|band| self.stands(here, band.failing_since()))
            }
        }
    }

    /// Whether a queue of this lane stands that fails somebody and has not been empty since then;
    /// or, where it does, whether a flow in it stands. A pause says nothing about the load: time
    /// counts from when the lane has recovered.
    fn stands(&self, here: &Lane, since: Option<Time>) -> bool {
        let (Some(since), Some(after)) = (since, here.limits.standing_after) else {
            return false;
        };
        let disturbed = self.paused.is_some() || here.recovered > self.now;
        !disturbed && self.now.since(since.max(here.recovered)) >= after
    }

    fn grant(&self, lane: u32, class: usize, shadow: bool, charge: Option<Charge>) -> Grant {
        Grant { lane, class: class as u8, at: self.now, shadow, open: false, charge }
    }

    fn resolve(&mut self, index: u32, state: State) {
        let waiter = self.waiters.get_mut(index);
        waiter.state = state;
        waiter.unannounced = true;
        self.waiters.push_back(&mut self.actions, index);
    }

    pub(super) fn has_budget(&self) -> bool {
        self.in_flight < self.limit
    }

    pub(super) fn has_shared(&self) -> bool {
        self.shared_in_flight < self.limit.saturating_sub(self.set_aside)
    }
}
