//! The full audit: everything the gate counts, counted again the slow way.

use super::lane::{Lane, Standing};
use super::limits::{Class, LaneKind};
use super::waiters::State;
use super::{Gate, broken};

impl Gate {
    /// Recounts everything from the lists and compares; O(everything), for tests and the simulator.
    /// A mismatch is a broken invariant.
    pub fn audit(&self) {
        let (mut in_flight, mut shared, mut shadow, mut queued) = (0, 0, 0, 0);
        let mut waiting = [0; Class::COUNT];
        for (index, lane) in self.lanes.iter().enumerate() {
            let counted = self.audit_queue(index as u32, lane);
            queued += counted.iter().sum::<u32>();
            if lane.limits.kind == LaneKind::Budget {
                in_flight += lane.in_flight;
                shadow += lane.shadow_in_flight;
                shared += lane.beyond_reservation();
                waiting.iter_mut().zip(counted).for_each(|(sum, count)| *sum += count);
            }
            self.audit_turn(index as u32, lane);
        }
        invariant!(in_flight == self.in_flight, "the budget counts what its lanes count");
        invariant!(shadow == self.shadow_in_flight, "what is let through is counted once");
        invariant!(shared == self.shared_in_flight, "what is shared is counted once");
        invariant!(self.open <= self.in_flight, "what stays open holds a slot");
        invariant!(queued as usize == self.deadlines.len(), "who waits has a deadline");
        for (class, count) in waiting.into_iter().enumerate() {
            invariant!(count == self.floors.waiting(class), "floors count who waits");
        }
        let actions = self.waiters.iter(&self.actions).filter(|w| w.unannounced).count() as u32;
        invariant!(actions == self.actions.len, "an action is announced once");
        invariant!(queued + actions <= self.waiters.taken(), "a place is taken by one waiter");
    }

    /// Asserts that nothing is held: no slot, no waiter, no unannounced action.
    pub fn assert_at_rest(&self) {
        self.audit();
        let idle = |lane: &Lane| lane.in_flight == 0 && lane.shadow_in_flight == 0;
        let resting =
            self.in_flight == 0 && self.waiters.taken() == 0 && self.lanes.iter().all(idle);
        if !resting {
            broken("at rest nothing is held");
        }
    }

    /// The waiters of each class of a lane.
    fn audit_queue(&self, index: u32, lane: &Lane) -> [u32; Class::COUNT] {
        let mut counted = [0; Class::COUNT];
        for (class, band) in lane.bands() {
            band.audit(|list| {
                let mut len = 0;
                for waiter in self.waiters.iter(list) {
                    let ours = waiter.lane == index && usize::from(waiter.class) == class;
                    invariant!(ours && waiter.state == State::Waiting, "who queues, waits");
                    len += 1;
                }
                invariant!(len == list.len, "a queue's length is the number of its waiters");
                counted[class] += len;
            });
            let waits = lane.waiting_classes() & (1 << class) != 0;
            invariant!(waits == (band.len > 0), "the classes that wait are known");
            let filed = self.ready.contains(lane.standing, class, index);
            let ready = waits && lane.standing != Standing::Out;
            invariant!(filed == ready, "who waits and could use a slot has a turn");
        }
        let charged: u32 = lane.bands().map(|(_, band)| band.charged()).sum();
        invariant!(charged <= lane.in_flight, "what was charged is in use, and else was settled");
        invariant!(counted.iter().sum::<u32>() == lane.queued, "a lane counts its waiters");
        counted
    }

    fn audit_turn(&self, index: u32, lane: &Lane) {
        invariant!(lane.standing == lane.belongs(), "a lane stands in the pool where it belongs");
        let idle = self.paused.is_some() || lane.queued == 0 || !self.has_slot_for(index);
        invariant!(idle, "I4: nobody waits beside a slot that it may use");
        if lane.standing == Standing::Out && lane.queued > 0 {
            let at_cap = lane.in_flight >= lane.limits.cap();
            invariant!(at_cap, "only its own cap takes a lane with waiters out of turn");
        }
    }
}
