//! The virtual time of start-time fair queueing, in nanoseconds of slots: the level to which those
//! are raised that begin to wait, be they flows (see `band`) or lanes (see `ready`).

use std::time::Duration;

use super::time::Time;

/// Where those stand who have had the least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The tag of whoever was served last.
    pub(super) now: u64,
    /// No tag is above.
    highest: u64,
    /// Since when nobody has waited, if nobody does.
    pub(super) idle_since: Time,
}

// === impl Clock ===

impl Clock {
    pub(super) const fn new(now: Time) -> Clock {
        Clock { now: 0, highest: 0, idle_since: now }
    }

    /// Somebody with this tag is served.
    pub(super) fn serve(&mut self, tag: u64) {
        self.now = self.now.max(tag);
        self.note(tag);
    }

    /// Somebody has this tag.
    pub(super) fn note(&mut self, tag: u64) {
        self.highest = self.highest.max(tag);
    }

    /// Somebody begins to wait where nobody did: so many slots have paid debts off meanwhile. No
    /// further than there are debts, or a long rest would use the numbers up.
    pub(super) fn rested(&mut self, now: Time, slots: u32) {
        let paid = nanos(now.since(self.idle_since).saturating_mul(slots));
        self.now = self.now.saturating_add(paid).min(self.highest.max(self.now));
    }
}

/// A time as nanoseconds of slots.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_pays_debts_and_no_more() {
        let mut clock = Clock::new(Time::ZERO);
        clock.serve(100);
        clock.note(1_000);
        clock.rested(Time::from_nanos(200), 2);
        assert_eq!(clock.now, 500);
        clock.idle_since = Time::from_nanos(200);
        clock.rested(Time::NEVER, u32::MAX);
        assert_eq!(clock.now, 1_000);
    }
}
