//! What will happen, in order of time; what falls together happens in the order it was foreseen.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A client of this group makes a call.
    Call(u32),
    /// A client tries again: the request, by its index.
    Retry(u32),
    /// A client does not wait any longer: the request and its generation.
    GiveUp(u32, u32),
    /// An answer has come through a delay that is no work: the request.
    Delayed(u32),
    /// The application changes, to this step of its plan.
    Step(u32),
    /// The limits are given to the gate again.
    Reconfigure,
    /// The gate stops granting, or goes on.
    Pause(bool),
    /// A bin of the series ends.
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    at: u64,
    order: u64,
    what: What,
}

/// A queue of events.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Event>,
    foreseen: u64,
}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// === impl Events ===

impl Events {
    pub(super) fn at(&mut self, at: u64, what: What) {
        self.foreseen += 1;
        self.heap.push(Event { at, order: self.foreseen, what });
    }

    /// When the next one happens; far away if none does.
    pub(super) fn next(&self) -> u64 {
        self.heap.peek().map_or(u64::MAX, |event| event.at)
    }

    pub(super) fn pop(&mut self) -> Option<(u64, What)> {
        self.heap.pop().map(|event| (event.at, event.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_foreseen() {
        let mut events = Events::default();
        events.at(5, What::Call(1));
        events.at(3, What::Call(2));
        events.at(5, What::Call(3));
        assert_eq!(events.next(), 3);
        let order: Vec<_> = std::iter::from_fn(|| events.pop()).collect();
        assert_eq!(order, [(3, What::Call(2)), (5, What::Call(1)), (5, What::Call(3))]);
        assert_eq!(events.next(), u64::MAX);
    }
}
