//! The asynchronous shell of the gate: wake-ups, timers, and a [`Permit`] whose drop gives the slot
//! back.
//!
//! Everything is decided in [`gate`](crate::gate), under one short lock; wakers are called after
//! it. Knows nothing of HTTP. Enter at [`Admission::enter`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::gate::{
    Abandoned, Arrival, Claim, Gate, Limits, Outcome, Rejection, Slot, Snapshot, Ticket, Time,
    Verdict, broken,
};

/// Wakers are collected in groups of so many under the lock and called outside it.
const WAKE_BATCH: usize = 16;

/// The gate of one upstream, shared by all workers.
#[derive(Debug)]
pub struct Admission {
    origin: Instant,
    gate: Mutex<Gate>,
}

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
    admission: Arc<Admission>,
    /// `None` once the wait has ended.
    ticket: Option<Ticket>,
    timer: Pin<Box<Sleep>>,
}

/// A slot of the gate. Dropping it gives the slot back, and perhaps on to somebody who waits.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    /// `None` only while it is dropped.
    slot: Option<Slot>,
    outcome: Outcome,
}

// === impl Admission ===

impl Admission {
    /// An empty gate with these limits. Its clock is tokio's, which tests can stop.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Admission> {
        let gate = Mutex::new(Gate::new(Time::ZERO, limits));
        Arc::new(Admission { origin: Instant::now(), gate })
    }

    /// A request arrives at a lane. Decided at once, without waiting.
    #[must_use]
    pub fn enter(self: &Arc<Admission>, arrival: Arrival) -> Entry {
        let now = self.now();
        let mut gate = self.lock();
        let verdict = gate.arrive(now, arrival);
        self.act(gate);
        match verdict {
            Verdict::Admitted(slot) => Entry::Admitted(self.permit(slot)),
            Verdict::Rejected(rejection) => Entry::Rejected(rejection),
            Verdict::Queued(ticket, deadline) => Entry::Queued(Wait {
                admission: Arc::clone(self),
                ticket: Some(ticket),
                timer: Box::pin(sleep_until(self.instant(deadline))),
            }),
        }
    }

    /// The gate's time in so long: for the deadline of an [`Arrival`].
    #[must_use]
    pub fn time_in(&self, remaining: Duration) -> Time {
        self.now() + remaining
    }

    /// Changes the limits in place; see [`Gate::reconfigure`].
    pub fn reconfigure(&self, limits: &Limits) {
        let now = self.now();
        let mut gate = self.lock();
        gate.reconfigure(now, limits);
        self.act(gate);
    }

    /// Turns away everybody who waits, and all who come; see [`Gate::drain`].
    pub fn drain(&self) {
        let now = self.now();
        let mut gate = self.lock();
        gate.drain(now);
        self.act(gate);
    }

    /// What the gate holds now, taken at one instant.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot(self.now())
    }

    fn permit(self: &Arc<Admission>, slot: Slot) -> Permit {
        Permit { admission: Arc::clone(self), slot: Some(slot), outcome: Outcome::Unknown }
    }

    fn expire(&self) {
        let now = self.now();
        let mut gate = self.lock();
        gate.expire(now);
        self.act(gate);
    }

    fn complete(&self, slot: Slot, outcome: Outcome) {
        let now = self.now();
        let mut gate = self.lock();
        gate.complete(now, slot, outcome);
        self.act(gate);
    }

    /// Does what the gate asks for, and gives up the lock on the way.
    fn act<'a>(&'a self, mut gate: MutexGuard<'a, Gate>) {
        while let Some(first) = gate.poll_action() {
            let mut batch = [const { None }; WAKE_BATCH];
            batch[0] = first.waker;
            for place in &mut batch[1..] {
                *place = gate.poll_action().and_then(|action| action.waker);
            }
            drop(gate);
            batch.into_iter().flatten().for_each(Waker::wake);
            gate = self.lock();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        // Somebody panicked in the middle of a change: what the gate holds now is a guess.
        self.gate.lock().unwrap_or_else(|_| broken("the gate does not panic"))
    }

    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    fn instant(&self, time: Time) -> Instant {
        self.origin + time.since(Time::ZERO)
    }
}

// === impl Wait ===

impl Future for Wait {
    /// A permit or a rejection, and how long the wait was.
    type Output = (Result<Permit, Rejection>, Duration);

    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue; a slot that was granted meanwhile goes on to the next.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let ticket = self.ticket.take().expect("a wait is not polled after it ended");
            let claim = self.admission.lock().claim(ticket, context.waker());
            match claim {
                Claim::Granted(slot, waited) => {
                    return Poll::Ready((Ok(self.admission.permit(slot)), waited));
                }
                Claim::Rejected(rejection, waited) => {
                    return Poll::Ready((Err(rejection), waited));
                }
                Claim::Waiting(ticket) => self.ticket = Some(ticket),
            }
            ready!(self.timer.as_mut().poll(context));
            self.admission.expire();
            // Should the timer be early, it runs once more and not in a tight loop.
            let again = Instant::now() + Duration::from_millis(1);
            self.timer.as_mut().reset(again);
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let now = self.admission.now();
        let mut gate = self.admission.lock();
        if let Abandoned::WasGranted(slot) = gate.abandon(now, ticket) {
            gate.complete(now, slot, Outcome::Unknown);
        }
        self.admission.act(gate);
    }
}

// === impl Permit ===

impl Permit {
    /// Says how the request went, for the gate to learn from; the last word counts. Until then
    /// nothing is known.
    pub fn note(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let slot = self.slot.take().expect("a permit has its slot until it is dropped");
        self.admission.complete(slot, self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Budget, LaneLimits, RejectReason};

    fn one_lane(max_in_flight: u32, max_queue: u32) -> Arc<Admission> {
        let lane = LaneLimits::plain(max_queue, Duration::from_secs(1));
        let budget = Budget::Fixed(max_in_flight);
        Admission::new(&Limits { budget, floor_period: 0, lanes: vec![lane] })
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
        admission.lock().assert_at_rest();
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
