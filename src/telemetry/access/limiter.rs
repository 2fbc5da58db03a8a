//! Thins out a flood of like lines: the first few of a second in full, the rest as counts.
//!
//! Pure: time is an argument and what to write is the answer. A window of one second begins with
//! the first event after the last window; at most [`FULL`] of its events are written in full. What
//! was held back is counted by route and cause and comes out when the window is over, by whichever
//! comes first of the next event and [`Limiter::due`] from a clock.

use std::time::{Duration, Instant};

/// Events of a window that are written in full.
pub(super) const FULL: u32 = 5;
/// How long a window lasts.
const WINDOW: Duration = Duration::from_secs(1);
/// Pairs of route and cause counted apart in a window; those beyond share one count.
const MAX_PAIRS: usize = 64;

/// The flood control of one kind of line.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    /// The start of the window; none between windows.
    since: Option<Instant>,
    written: u32,
    held: Vec<Summary>,
}

/// What was held back in a window for one route and cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Empty where more pairs occurred than are counted apart.
    pub(super) route: String,
    /// Empty likewise.
    pub(super) cause: &'static str,
    /// At least 1.
    pub(super) count: u64,
}

impl Limiter {
    /// Whether an event is to be written in full now; if not, it is counted. [`due`](Limiter::due)
    /// goes first, with the same time.
    pub(super) fn admit(&mut self, now: Instant, route: &str, cause: &'static str) -> bool {
        debug_assert!(!self.is_over(now), "the last window was closed");
        self.since.get_or_insert(now);
        if self.written < FULL {
            self.written += 1;
            return true;
        }
        let same = |held: &&mut Summary| held.cause == cause && held.route == route;
        if let Some(held) = self.held.iter_mut().find(same) {
            held.count += 1;
        } else if self.held.len() < MAX_PAIRS {
            self.held.push(Summary { route: route.to_owned(), cause, count: 1 });
        } else if let Some(rest) = self.held.get_mut(MAX_PAIRS) {
            rest.count += 1;
        } else {
            self.held.push(Summary { route: String::new(), cause: "", count: 1 });
        }
        false
    }

    /// Closes the window if its second is over, and gives what it held back.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Summary> {
        if self.is_over(now) { self.close() } else { Vec::new() }
    }

    /// Closes the window whatever the time, and gives what it held back.
    pub(super) fn close(&mut self) -> Vec<Summary> {
        self.since = None;
        self.written = 0;
        std::mem::take(&mut self.held)
    }

    /// A clock that another thread read a moment earlier is in the window.
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limiter with a clock that only the test moves.
    struct Bench {
        limiter: Limiter,
        start: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            // Later than any time a test goes back to.
            Bench { limiter: Limiter::default(), start: Instant::now() + WINDOW * 10 }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn event(&mut self, millis: u64, route: &str, cause: &'static str) -> (Vec<Summary>, bool) {
            let now = self.at(millis);
            (self.limiter.due(now), self.limiter.admit(now, route, cause))
        }
    }

    fn summary(route: &str, cause: &'static str, count: u64) -> Summary {
        Summary { route: route.to_owned(), cause, count }
    }

    #[test]
    fn the_first_five_are_written_and_the_rest_summed_up_a_second_later() {
        let mut bench = Bench::new();
        for millis in 0..5 {
            assert_eq!(bench.event(millis, "a", "queue_full"), (vec![], true));
        }
        for millis in 5..1000 {
            assert_eq!(bench.event(millis, "a", "queue_full"), (vec![], false));
        }
        let held = vec![summary("a", "queue_full", 995)];
        assert_eq!(bench.event(1000, "a", "queue_full"), (held, true), "the next window");
    }

    #[test]
    fn a_flood_that_stops_is_summed_up_by_the_clock_once() {
        let mut bench = Bench::new();
        for _ in 0..8 {
            bench.event(0, "a", "max_wait");
        }
        assert_eq!(bench.limiter.due(bench.at(999)), vec![]);
        assert_eq!(bench.limiter.due(bench.at(1000)), vec![summary("a", "max_wait", 3)]);
        assert_eq!(bench.limiter.due(bench.at(5000)), vec![]);
        assert_eq!(bench.event(5001, "a", "max_wait"), (vec![], true));
    }

    #[test]
    fn few_events_are_never_held_back() {
        let mut bench = Bench::new();
        for n in 0..100 {
            assert_eq!(bench.event(n * 200, "a", "evicted"), (vec![], true));
        }
        assert_eq!(bench.limiter.close(), vec![]);
    }

    #[test]
    fn routes_and_causes_are_counted_apart_and_share_the_five() {
        let mut bench = Bench::new();
        for _ in 0..FULL {
            assert!(bench.event(0, "a", "queue_full").1);
        }
        for (route, cause, times) in
            [("a", "queue_full", 2), ("b", "queue_full", 3), ("a", "max_wait", 4)]
        {
            for _ in 0..times {
                assert!(!bench.event(1, route, cause).1);
            }
        }
        let held = vec![
            summary("a", "queue_full", 2),
            summary("b", "queue_full", 3),
            summary("a", "max_wait", 4),
        ];
        assert_eq!(bench.limiter.close(), held);
    }

    #[test]
    fn the_pairs_counted_apart_are_bounded_and_no_event_is_forgotten() {
        let mut bench = Bench::new();
        for route in 0..1000 {
            bench.event(0, &route.to_string(), "queue_full");
        }
        let held = bench.limiter.due(bench.at(1000));
        assert_eq!(held.len(), MAX_PAIRS + 1);
        assert_eq!(held.iter().map(|held| held.count).sum::<u64>(), 1000 - u64::from(FULL));
        assert_eq!(held[MAX_PAIRS], summary("", "", 1000 - u64::from(FULL) - MAX_PAIRS as u64));
    }

    #[test]
    fn a_clock_that_is_a_little_behind_stays_in_the_window() {
        let mut bench = Bench::new();
        for _ in 0..FULL {
            bench.event(100, "a", "deadline");
        }
        assert_eq!(bench.event(50, "a", "deadline"), (vec![], false));
        assert_eq!(bench.limiter.due(bench.at(1100)), vec![summary("a", "deadline", 1)]);
    }

    /// Whatever the times, every event is written or summed up, and a window writes five at most.
    #[test]
    fn nothing_is_lost_for_any_spacing() {
        for step in [0, 1, 7, 99, 100, 199, 200, 201, 333, 999, 1000, 1001, 3000] {
            let mut bench = Bench::new();
            let (mut written, mut counted) = (0, 0);
            for n in 0..500 {
                let (held, full) = bench.event(n * step, "a", "queue_full");
                counted += held.iter().map(|held| held.count).sum::<u64>();
                written += u64::from(full);
            }
            counted += bench.limiter.close().iter().map(|held| held.count).sum::<u64>();
            assert_eq!(written + counted, 500, "step {step}");
            let windows = 500 * step / 1000 + 1;
            assert!(written <= u64::from(FULL) * windows, "step {step}: {written}");
        }
    }
}
