//! When a client that was turned away should come back.
//!
//! The queue drains at `in_flight / mean hold` requests a second (Little's law), so the present
//! queue is gone after `queue x hold / in_flight`: that is when the first of them comes back.
//! Clients that obey must not come back together, and others come meanwhile: each gets a return
//! slot of its own, and the slots are spaced so that returning clients take half of the drain rate.
//! Slots that pass without a rejection are gone. Beyond the longest answer there are no slots left,
//! and the answers are spread over its upper half.

use std::time::Duration;

use super::time::Time;

/// The longest `Retry-After`, in seconds.
const LONGEST: u64 = 30;
/// Returning clients may take one part in so many of the drain rate.
const RETURN_SHARE: u32 = 2;
/// Weight of the newest hold time in the mean: one part in so many.
const SMOOTHING: u64 = 16;

/// A lane's estimate of its own drain rate, and the next free return slot.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Mean time from grant to completion in nanoseconds; 0: nothing has completed yet.
    hold: u64,
    next: Time,
    given: u64,
}

impl Returns {
    /// Learns from a slot that came back.
    pub(super) fn completed(&mut self, held: Duration) {
        let held = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.hold = match self.hold {
            0 => held,
            mean => mean - mean / SMOOTHING + held / SMOOTHING,
        };
    }

    /// Mean time from grant to completion; zero while nothing has completed.
    pub(super) fn mean_hold(&self) -> Duration {
        Duration::from_nanos(self.hold)
    }

    /// Whole seconds, 1 to 30. `fallback` stands for the time to drain while no hold time is known.
    pub(super) fn next(&mut self, now: Time, queued: u32, busy: u32, fallback: Duration) -> u32 {
        let busy = u64::from(busy.max(1));
        let hold = Duration::from_nanos(self.hold / busy);
        let drained = match self.hold {
            0 => fallback,
            _ => hold.saturating_mul(queued.saturating_add(1)),
        };
        self.given = self.given.wrapping_add(1);
        let slot = self.next.max(now + drained);
        let wait = slot.since(now);
        if wait > Duration::from_secs(LONGEST) {
            let spread = LONGEST / 2 + 1;
            return (LONGEST - scramble(self.given) % spread) as u32;
        }
        self.next = slot + hold.saturating_mul(RETURN_SHARE);
        (wait.as_nanos().div_ceil(1_000_000_000) as u32).max(1)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators"): spreads consecutive numbers evenly, and keeps the gate deterministic.
fn scramble(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn follows_queue_and_drain_rate() {
        let mut returns = Returns::default();
        returns.completed(Duration::from_millis(200));
        // 49 queued and the newcomer, 5 at work, 200 ms each: 25 a second, so 2 s.
        assert_eq!(returns.next(Time::ZERO, 49, 5, SECOND), 2);
        let mut idle = Returns::default();
        idle.completed(Duration::from_millis(1));
        assert_eq!(idle.next(Time::ZERO, 0, 8, SECOND), 1, "never below a second");
    }

    #[test]
    fn nothing_completed_yet() {
        assert_eq!(Returns::default().next(Time::ZERO, 10, 1, Duration::from_millis(2500)), 3);
    }

    #[test]
    fn obedient_clients_do_not_return_together() {
        let mut returns = Returns::default();
        returns.completed(Duration::from_millis(10));
        let mut per_second = [0_u32; LONGEST as usize + 1];
        for _ in 0..250 {
            let after = returns.next(Time::ZERO, 10, 1, SECOND);
            per_second[after as usize] += 1;
        }
        // 100 a second drain; half of them are return slots.
        assert!(per_second.iter().all(|&clients| clients <= 51), "{per_second:?}");
    }

    #[test]
    fn slots_that_nobody_took_are_gone() {
        let mut returns = Returns::default();
        returns.completed(SECOND);
        // One slot of 1 s, no queue, and one rejection every 2 s: each may come when the slot is
        // free.
        for second in [0, 2, 4, 6] {
            assert_eq!(returns.next(Time::ZERO + SECOND * second, 0, 1, SECOND), 1);
        }
    }

    #[test]
    fn beyond_the_longest_answer_they_are_spread() {
        let mut returns = Returns::default();
        returns.completed(Duration::from_secs(60));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            seen.insert(returns.next(Time::ZERO, 1_000, 1, SECOND));
        }
        assert_eq!(seen, (15..=30).collect());
    }
}
