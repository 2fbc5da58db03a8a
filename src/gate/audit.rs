//! The full audit: everything the gate counts, counted again the slow way.

use super::lane::Standing;
use super::limits::LaneKind;
use super::waiters::State;
use super::{Gate, broken};

impl Gate {
    /// Recounts everything from the lists and compares; O(everything), for tests and the simulator.
    /// A mismatch is a broken invariant.
    pub fn audit(&self) {
        let mut in_flight = 0;
        let mut shared = 0;
        let mut queued = 0;
        for lane in &self.lanes {
            if lane.limits.kind == LaneKind::Budget {
                in_flight += lane.in_flight;
                shared += lane.beyond_reservation();
            }
            let waiting = self.waiters.iter(&lane.queue);
            let count =
                waiting.inspect(|w| invariant!(w.state == State::Waiting, "who queues, waits"));
            let count = count.count() as u32;
            invariant!(count == lane.queue.len, "a queue's length is the number of its waiters");
            queued += count;
            invariant!(
                lane.standing == lane.belongs(),
                "a lane stands in the list where it belongs"
            );
        }
        invariant!(in_flight == self.in_flight, "the budget counts what its lanes count");
        invariant!(shared == self.shared_in_flight, "what is shared is counted once");
        invariant!(queued as usize == self.deadlines.len(), "who waits has a deadline");
        let actions = self.waiters.iter(&self.actions).filter(|w| w.unannounced).count() as u32;
        invariant!(actions == self.actions.len, "an action is announced once");
        invariant!(queued + actions <= self.waiters.taken(), "a place is taken by one waiter");
        for (index, lane) in self.lanes.iter().enumerate() {
            let idle = self.paused || lane.queue.len == 0 || !self.has_slot_for(index as u32);
            invariant!(idle, "I4: nobody waits beside a slot that it may use");
            if lane.standing == Standing::Out && lane.queue.len > 0 {
                let at_cap = lane.in_flight >= lane.limits.cap();
                invariant!(at_cap, "only its own cap takes a lane with waiters out of turn");
            }
        }
    }

    /// Asserts that nothing is held: no slot, no waiter, no unannounced action.
    pub fn assert_at_rest(&self) {
        self.audit();
        let resting = self.in_flight == 0
            && self.waiters.taken() == 0
            && self.lanes.iter().all(|lane| lane.in_flight == 0);
        if !resting {
            broken("at rest nothing is held");
        }
    }
}
