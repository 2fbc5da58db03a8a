//! What [`shared`](super::shared) stands on: a lock, a clock, and the size of a batch. The model
//! checker has its own of each (`tests/loom.rs`).

use std::time::Duration;

pub(super) use std::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::gate::{Gate, Time, broken};

/// Wakers are collected in groups of so many under the lock and called outside it.
pub(super) const WAKE_BATCH: usize = 16;

/// tokio's clock, which tests can stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

/// Takes the lock.
pub(super) fn lock(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    // Somebody panicked in the middle of a change: what the gate holds now is a guess.
    gate.lock().unwrap_or_else(|_| broken("the gate does not panic"))
}

// === impl Clock ===

impl Clock {
    /// Starts at zero.
    pub(super) fn new() -> Clock {
        Clock(Instant::now())
    }

    pub(super) fn now(&self) -> Time {
        Time::ZERO + self.0.elapsed()
    }

    /// The instant that the gate calls by this time.
    pub(super) fn instant(&self, time: Time) -> Instant {
        self.0 + time.since(Time::ZERO)
    }
}

/// Should a timer be early, it runs once more after so long and not in a tight loop.
pub(super) const EARLY: Duration = Duration::from_millis(1);
