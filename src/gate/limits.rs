//! What a gate may use: the budget, and the limits of each lane.

use std::time::Duration;

/// The limits of a whole gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The budget: slots that the lanes share.
    pub budget: Budget,
    /// A class that waits gets at least one of so many grants of the budget, whatever the classes
    /// above it ask for; 0: they always come first. At least [`Class::COUNT`] otherwise.
    pub floor_period: u32,
    /// How long a pause keeps who waits, and how much longer than `max_wait` anybody may wait for
    /// it; zero: a pause turns everybody away.
    pub hold: Duration,
    /// One for each lane; a lane's index is its name.
    pub lanes: Vec<LaneLimits>,
}

/// How many requests may be in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many.
    Fixed(u32),
    /// As many as the application can work on, found by watching it.
    Auto(AutoLimits),
}

/// The bounds of a budget that finds itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoLimits {
    /// The limit is never below; 0 is taken for 1.
    pub min: u32,
    /// The limit is never above; less than `min` is taken for `min`.
    pub max: u32,
    /// Where the mean service time is above, the limit goes down, whatever the throughput says.
    pub max_latency: Option<Duration>,
}

/// What a lane may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Inside the shared budget, or beside it.
    pub kind: LaneKind,
    /// The lane's own cap on requests in flight; `None`: the budget alone bounds it.
    pub max_in_flight: Option<u32>,
    /// Slots of the budget that only this lane may use. Meaningless beside the budget.
    pub reserved: u32,
    /// Places in the queue; 0: never wait.
    pub max_queue: u32,
    /// The longest wait; zero: never wait.
    pub max_wait: Duration,
    /// Who of one flow is next.
    pub order: Order,
    /// A queue that was not empty for so long and has failed somebody meanwhile stands, and waits
    /// in it are held short; `None`: `max_wait` alone bounds them.
    pub standing_after: Option<Duration>,
    /// Whether the lane is held to all this. If not it is let through beside the budget, and what
    /// would have been turned away is counted.
    pub enforce: bool,
}

/// Whether a lane's slots come out of the shared budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// They do.
    Budget,
    /// They do not: the lane has a cap of its own (streams, exempt routes).
    Beside,
}

/// Who of one flow is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Who came first.
    Fifo,
    /// Who came last. The oldest makes room where the queue is full.
    Lifo,
    /// Who came first; but who came last while the queue stands.
    Adaptive,
}

/// How important a request is: 0 to 7, 7 the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u8);

// === impl AutoLimits ===

impl AutoLimits {
    /// The same with `1 <= min <= max`, whatever was asked for: a budget of nothing would never
    /// see a request end, and so never learn that more is possible.
    pub(super) fn usable(self) -> AutoLimits {
        let min = self.min.max(1);
        AutoLimits { min, max: self.max.max(min), ..self }
    }
}

// === impl LaneLimits ===

impl LaneLimits {
    /// A lane inside the budget: no cap of its own, no reservation, first in, first out, no
    /// control of a standing queue.
    #[must_use]
    pub const fn plain(max_queue: u32, max_wait: Duration) -> LaneLimits {
        LaneLimits {
            kind: LaneKind::Budget,
            max_in_flight: None,
            reserved: 0,
            max_queue,
            max_wait,
            order: Order::Fifo,
            standing_after: None,
            enforce: true,
        }
    }

    /// Whether anybody ever waits in the lane.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.max_queue > 0 && !self.max_wait.is_zero()
    }

    /// The lane's own cap, or as many as there are.
    pub(super) fn cap(&self) -> u32 {
        self.max_in_flight.unwrap_or(u32::MAX)
    }

    /// Slots that the budget sets aside for the lane.
    pub(super) fn set_aside(&self) -> u32 {
        match self.kind {
            LaneKind::Budget if self.enforce => self.reserved.min(self.cap()),
            LaneKind::Budget | LaneKind::Beside => 0,
        }
    }
}

// === impl Class ===

impl Class {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// The class of who says nothing.
    pub const DEFAULT: Class = Class(3);

    /// The class of that number; `None` above 7.
    #[must_use]
    pub const fn new(number: u8) -> Option<Class> {
        if (number as usize) < Class::COUNT { Some(Class(number)) } else { None }
    }

    /// Its number, 0 to 7.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    #[allow(dead_code)]
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Default for Class {
    fn default() -> Class {
        Class::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_a_budget_are_never_in_the_wrong_order() {
        for (min, max, usable) in [(0, 0, (1, 1)), (0, 9, (1, 9)), (9, 2, (9, 9)), (2, 9, (2, 9))] {
            let limits = AutoLimits { min, max, max_latency: None }.usable();
            assert_eq!((limits.min, limits.max), usable);
        }
    }
}
