//! Responses that stay open: WebSockets, streams of events.
//!
//! They hold their slots for hours, and what they do meanwhile is no measure of the application. A
//! number is what was asked for, and does not care what fills it. A budget that finds itself would
//! find nothing where a few of them fill it: it is one higher for each, within its bounds.

use super::Gate;
use super::limits::LaneKind;
use super::time::Time;
use super::types::{Grant, Slot};

impl Gate {
    /// The response to this request has begun, and stays open until somebody ends it. Without
    /// effect beside the budget, and where no limit holds.
    pub fn stay_open(&mut self, now: Time, slot: &mut Slot) {
        self.advance(now);
        let grant = slot.grant_mut();
        let lane = grant.lane;
        let inside = self.lanes[lane as usize].limits.kind == LaneKind::Budget;
        if inside && !grant.shadow && !grant.open {
            grant.open = true;
            if self.auto.is_some() {
                // For fairness it ends here: from now on it takes nothing from anybody.
                self.settle(grant, self.now.since(grant.at.max(self.resumed)));
                grant.charge = None;
            }
            self.open += 1;
            self.take_limit();
            self.dispatch();
        }
        self.check(lane);
    }

    /// Whether a response stays open that is no part of what the limit has found.
    pub(super) fn is_on_top(&self, grant: &Grant) -> bool {
        grant.open && self.auto.is_some()
    }

    /// Takes over the limit that has been found.
    pub(super) fn take_limit(&mut self) {
        if let Some(auto) = &self.auto {
            self.limit = auto.limit_beside(self.open);
        }
    }
}
