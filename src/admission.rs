//! The asynchronous shell of the gate: wake-ups, timers, and a [`Permit`] whose drop gives the slot
//! back.
//!
//! Everything is decided in [`gate`](crate::gate), under one short lock; wakers are called after
//! it. Knows nothing of HTTP. Enter at [`Admission::enter`]; `shared` has what lies under the
//! timers.

mod shared;
mod sync;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::gate::{Arrival, Rejection, Time};
use shared::{Arrived, Place, Resolved};
use sync::EARLY;

pub use shared::{Admission, Permit};

/// What becomes of a request on arrival.
#[derive(Debug)]
pub enum Entry {
    /// Go.
    Admitted(Permit),
    /// Wait for a slot.
    Queued(Wait),
    /// Turned away.
    Rejected(Rejection),
}

/// A place in the queue, as a future. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Wait {
    place: Place,
    timer: Pin<Box<Sleep>>,
}

// === impl Admission ===

impl Admission {
    /// A request arrives at a lane. Decided at once, without waiting.
    #[must_use]
    pub fn enter(self: &Arc<Admission>, arrival: Arrival) -> Entry {
        match self.arrive(arrival) {
            Arrived::Admitted(permit) => Entry::Admitted(permit),
            Arrived::Rejected(rejection) => Entry::Rejected(rejection),
            Arrived::Queued(place, deadline) => {
                let timer = Box::pin(sleep_until(self.clock().instant(deadline)));
                Entry::Queued(Wait { place, timer })
            }
        }
    }

    /// Turns away whose time is up, and says when that will be for the next; `None`: nobody waits.
    /// Each [`Wait`] sees to this for itself, but for a pause, which may bring its time forward.
    pub fn turn_away_overdue(&self) -> Option<Instant> {
        self.expire().map(|next| self.clock().instant(next))
    }

    /// The gate's time in so long: for the deadline of an [`Arrival`].
    #[must_use]
    pub fn time_in(&self, remaining: Duration) -> Time {
        self.clock().now() + remaining
    }
}

// === impl Wait ===

impl Future for Wait {
    /// A permit or a rejection, and how long the wait was.
    type Output = Resolved;

    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue; a slot that was granted meanwhile goes on to the next.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Poll::Ready(resolved) = self.place.poll(context) {
                return Poll::Ready(resolved);
            }
            ready!(self.timer.as_mut().poll(context));
            let Some(until) = self.place.expire() else { continue };
            // A pause has put it off, or the timer was early.
            let until = self.place.admission().clock().instant(until);
            self.timer.as_mut().reset(until.max(Instant::now() + EARLY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Budget, LaneLimits, Limits, RejectReason};

    fn one_lane(max_in_flight: u32, max_queue: u32) -> Arc<Admission> {
        let lane = LaneLimits::plain(max_queue, Duration::from_secs(1));
        let budget = Budget::Fixed(max_in_flight);
        Admission::new(&Limits { budget, floor_period: 0, hold: Duration::ZERO, lanes: vec![lane] })
    }

    fn admitted(admission: &Arc<Admission>) -> Permit {
        match admission.enter(Arrival::at(0)) {
            Entry::Admitted(permit) => permit,
            other => panic!("expected a permit, got {other:?}"),
        }
    }

    fn queued(admission: &Arc<Admission>) -> Wait {
        match admission.enter(Arrival::at(0)) {
            Entry::Queued(wait) => wait,
            other => panic!("expected a place in the queue, got {other:?}"),
        }
    }

    fn at_rest(admission: &Admission) {
        admission.assert_at_rest();
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_that_is_dropped_goes_to_the_next() {
        let admission = one_lane(1, 2);
        let first = admitted(&admission);
        let (second, third) = (queued(&admission), queued(&admission));
        let second = tokio::spawn(second);
        let third = tokio::spawn(third);
        tokio::task::yield_now().await;
        drop(first);
        let (permit, _) = second.await.unwrap();
        assert!(!third.is_finished());
        drop(permit.unwrap());
        drop(third.await.unwrap().0.unwrap());
        at_rest(&admission);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_max_wait() {
        let admission = one_lane(1, 2);
        let permit = admitted(&admission);
        let (result, waited) = queued(&admission).await;
        assert_eq!(result.unwrap_err().reason, RejectReason::MaxWait);
        assert!(waited >= Duration::from_secs(1) && waited < Duration::from_millis(1_003));
        drop(permit);
        at_rest(&admission);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_a_pause_puts_off_sleeps_meanwhile() {
        let lane = LaneLimits::plain(2, Duration::from_secs(1));
        let (budget, hold) = (Budget::Fixed(1), Duration::from_secs(60));
        let admission =
            Admission::new(&Limits { budget, floor_period: 0, hold, lanes: vec![lane] });
        let permit = admitted(&admission);
        let mut wait = queued(&admission);
        admission.pause();
        let mut polls = 0;
        let (result, waited) = std::future::poll_fn(|context| {
            polls += 1;
            Pin::new(&mut wait).poll(context)
        })
        .await;
        assert_eq!(result.unwrap_err().reason, RejectReason::UpstreamDown);
        assert!(waited >= hold && waited < hold + Duration::from_millis(3), "{waited:?}");
        assert!(polls < 10, "polled {polls} times");
        drop(permit);
        at_rest(&admission);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_dropped_between_grant_and_wake_passes_its_slot_on() {
        let admission = one_lane(1, 2);
        let permit = admitted(&admission);
        let (first, second) = (queued(&admission), tokio::spawn(queued(&admission)));
        tokio::task::yield_now().await;
        drop(permit);
        assert_eq!(admission.snapshot().in_flight, 1, "granted, and not fetched yet");
        drop(first);
        drop(second.await.unwrap().0.unwrap());
        at_rest(&admission);
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_the_queue_frees_the_place() {
        let admission = one_lane(1, 1);
        let permit = admitted(&admission);
        drop(queued(&admission));
        let wait = queued(&admission);
        assert!(
            matches!(admission.enter(Arrival::at(0)), Entry::Rejected(r) if r.reason == RejectReason::QueueFull)
        );
        drop((wait, permit));
        let snapshot = admission.snapshot().lanes[0];
        assert_eq!((snapshot.arrivals, snapshot.admitted, snapshot.abandoned), (4, 1, 2));
        at_rest(&admission);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_turns_everybody_away() {
        let admission = one_lane(1, 40);
        let permit = admitted(&admission);
        let waits: Vec<_> = (0..40).map(|_| tokio::spawn(queued(&admission))).collect();
        tokio::task::yield_now().await;
        admission.drain();
        for wait in waits {
            assert_eq!(wait.await.unwrap().0.unwrap_err().reason, RejectReason::Draining);
        }
        assert!(matches!(admission.enter(Arrival::at(0)), Entry::Rejected(_)));
        drop(permit);
        at_rest(&admission);
    }
}
