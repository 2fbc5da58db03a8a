//! The gate behind its lock, and the values that must give back what they hold.
//!
//! What is decided here is who wakes whom: every waker that the gate hands out is called, after the
//! lock; what was granted and not fetched goes on to the next. Knows neither timers nor a runtime,
//! and takes its lock from `sync`, so that `tests/loom.rs` can try every interleaving.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::sync::{Clock, Mutex, MutexGuard, WAKE_BATCH, lock};
use crate::gate::{
    Abandoned, Arrival, Claim, Gate, Limits, Outcome, Rejection, Slot, Snapshot, Ticket, Time,
    Verdict,
};

/// The gate of one upstream, shared by all workers.
#[derive(Debug)]
pub struct Admission {
    clock: Clock,
    gate: Mutex<Gate>,
}

/// A place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    /// `None` once the wait has ended.
    ticket: Option<Ticket>,
}

/// What a wait ends in: a permit or a rejection, and how long it was.
pub(super) type Resolved = (Result<Permit, Rejection>, Duration);

/// A slot of the gate. Dropping it gives the slot back, and perhaps on to somebody who waits.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    /// `None` only while it is dropped.
    slot: Option<Slot>,
    outcome: Outcome,
}

/// What becomes of a request on arrival.
#[derive(Debug)]
pub(super) enum Arrived {
    Admitted(Permit),
    /// Until this time at the latest.
    Queued(Place, Time),
    Rejected(Rejection),
}

// === impl Admission ===

impl Admission {
    /// An empty gate with these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Admission> {
        let gate = Mutex::new(Gate::new(Time::ZERO, limits));
        Arc::new(Admission { clock: Clock::new(), gate })
    }

    /// A request arrives at a lane.
    pub(super) fn arrive(self: &Arc<Admission>, arrival: Arrival) -> Arrived {
        match self.with(|gate, now| gate.arrive(now, arrival)) {
            Verdict::Admitted(slot) => Arrived::Admitted(self.permit(slot)),
            Verdict::Rejected(rejection) => Arrived::Rejected(rejection),
            Verdict::Queued(ticket, deadline) => {
                let place = Place { admission: Arc::clone(self), ticket: Some(ticket) };
                Arrived::Queued(place, deadline)
            }
        }
    }

    /// Changes the limits in place; see [`Gate::reconfigure`].
    pub fn reconfigure(&self, limits: &Limits) {
        self.with(|gate, now| gate.reconfigure(now, limits));
    }

    /// Grants nothing from now on: the application is away; see [`Gate::pause`].
    pub fn pause(&self) {
        self.with(Gate::pause);
    }

    /// The application is back; see [`Gate::resume`].
    pub fn resume(&self) {
        self.with(Gate::resume);
    }

    /// Turns away everybody who waits, and all who come; see [`Gate::drain`].
    pub fn drain(&self) {
        self.with(Gate::drain);
    }

    /// What the gate holds now, taken at one instant.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.gate).snapshot(self.clock.now())
    }

    /// Time has passed: turns away whose time is up. Says when there is something to do next.
    pub(super) fn expire(&self) -> Option<Time> {
        self.with(|gate, now| {
            gate.expire(now);
            gate.next_deadline()
        })
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    fn permit(self: &Arc<Admission>, slot: Slot) -> Permit {
        Permit { admission: Arc::clone(self), slot: Some(slot), outcome: Outcome::Unknown }
    }

    /// One operation on the gate, and what follows from it.
    fn with<R>(&self, operation: impl FnOnce(&mut Gate, Time) -> R) -> R {
        let now = self.clock.now();
        let mut gate = lock(&self.gate);
        let result = operation(&mut gate, now);
        self.act(gate);
        result
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
            gate = lock(&self.gate);
        }
    }
}

// === impl Place ===

impl Place {
    /// What has become of it. Whoever asked last is woken.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Resolved> {
        let ticket = self.ticket.take().expect("a wait is not polled after it ended");
        let claim = lock(&self.admission.gate).claim(ticket, context.waker());
        match claim {
            Claim::Granted(slot, waited) => Poll::Ready((Ok(self.admission.permit(slot)), waited)),
            Claim::Rejected(rejection, waited) => Poll::Ready((Err(rejection), waited)),
            Claim::Waiting(ticket) => {
                self.ticket = Some(ticket);
                Poll::Pending
            }
        }
    }

    /// Time has passed: turns away whose time is up. Says until when this place waits; `None`: it
    /// does not wait any more.
    pub(super) fn expire(&self) -> Option<Time> {
        let ticket = self.ticket.as_ref()?;
        self.admission.with(|gate, now| {
            gate.expire(now);
            gate.waits_until(ticket)
        })
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        self.admission.with(|gate, now| {
            if let Abandoned::WasGranted(slot) = gate.abandon(now, ticket) {
                gate.complete(now, slot, Outcome::Unknown);
            }
        });
    }
}

// === impl Permit ===

impl Permit {
    /// Says how the request went, for the gate to learn from; the last word counts. Until then
    /// nothing is known.
    pub fn note(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// The response has begun and stays open; see [`Gate::stay_open`].
    pub fn stay_open(&mut self) {
        let slot = self.slot.as_mut().expect("a permit has its slot until it is dropped");
        self.admission.with(|gate, now| gate.stay_open(now, slot));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let slot = self.slot.take().expect("a permit has its slot until it is dropped");
        let outcome = self.outcome;
        self.admission.with(|gate, now| gate.complete(now, slot, outcome));
    }
}

#[cfg(test)]
impl Admission {
    /// Nothing waits, nothing is in flight, and every place is free.
    pub(super) fn assert_at_rest(&self) {
        lock(&self.gate).assert_at_rest();
    }
}
