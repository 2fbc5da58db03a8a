//! How late a worker's loop is: a worker that is short of CPU must not blame the application.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A lag that is never more than noise.
const NOISE: Duration = Duration::from_millis(5);

/// The lag of one worker, as it last measured it.
#[derive(Debug)]
pub(super) struct Lag {
    origin: Instant,
    /// Microseconds of the latest measurement.
    last: AtomicU64,
    /// Microseconds from `origin` to when the next one is due.
    due: AtomicU64,
}

// === impl Lag ===

impl Lag {
    /// A worker that has not measured yet.
    pub(super) fn new() -> Lag {
        Lag { origin: Instant::now(), last: AtomicU64::new(0), due: AtomicU64::new(u64::MAX) }
    }

    /// The worker's loop was so late, and looks at itself again at `due`.
    pub(super) fn measured(&self, lag: Duration, due: Instant) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.last.store(micros(lag), Ordering::Relaxed);
        self.due.store(micros(due - self.origin), Ordering::Relaxed);
    }

    /// Whether a service time that was measured now says more about the worker than about the
    /// application.
    pub(super) fn spoils(&self, service_time: Duration) -> bool {
        let last = Duration::from_micros(self.last.load(Ordering::Relaxed));
        // The measurement that is due now is late itself.
        let due = Duration::from_micros(self.due.load(Ordering::Relaxed));
        let overdue = self.origin.elapsed().saturating_sub(due);
        last.max(overdue) > NOISE.max(service_time / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PULSE: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn a_quarter_of_the_service_time_is_too_much_and_five_milliseconds_are_not() {
        let lag = Lag::new();
        let ms = Duration::from_millis;
        assert!(!lag.spoils(ms(1)), "nothing measured yet");
        lag.measured(ms(5), Instant::now() + PULSE);
        assert!(!lag.spoils(ms(1)));
        lag.measured(ms(6), Instant::now() + PULSE);
        assert!(lag.spoils(ms(20)) && !lag.spoils(ms(24)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_measurement_that_does_not_come_is_a_lag() {
        let lag = Lag::new();
        lag.measured(Duration::ZERO, Instant::now() + PULSE);
        tokio::time::advance(PULSE + Duration::from_millis(30)).await;
        assert!(lag.spoils(Duration::from_millis(100)));
        assert!(!lag.spoils(Duration::from_millis(120)));
    }
}
