//! What goes in and out of the gate: arrivals, verdicts, outcomes, and the two things that must not
//! be lost.

use std::task::Waker;
use std::time::Duration;

use super::lane::Standing;
use super::limits::Class;
use super::time::Time;

/// A request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The lane, by its index in [`Limits::lanes`](super::Limits::lanes).
    pub lane: usize,
    /// How important it is.
    pub class: Class,
    /// Who sent it, as a hash: what waits is shared out between flows.
    pub flow: u64,
    /// After this instant nobody waits for the answer any more.
    pub deadline: Option<Time>,
}

/// How a request that had a slot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The application answered; from the grant to the head of its response.
    Answered(Duration),
    /// The application said, or showed, that it is overloaded: a 503 or 429 of its own, a refused
    /// or reset connection.
    Overloaded,
    /// The application did not answer in time.
    TimedOut,
    /// Nothing is to be learned of the application: the client left, or the answer is a stream.
    Unknown,
}

/// Why a request was turned away: a closed set, and the values of the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum RejectReason {
    /// All places of the lane's queue were taken, or it has none.
    QueueFull,
    /// It waited for `max_wait` and no slot came free.
    MaxWait,
    /// The client would no longer have waited for the answer.
    Deadline,
    /// The queue stands, and it had waited for as long as is then allowed.
    StandingQueue,
    /// Somebody more important, or of a shorter flow, took its place in a full queue.
    Evicted,
    /// The application has been away for longer than requests are held for it.
    UpstreamDown,
    /// tidegate is shutting down and the grace has ended.
    Draining,
}

/// A request that was turned away. It never reached the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: RejectReason,
    /// When to come back: whole seconds, 1 to 30.
    pub retry_after: u32,
}

/// The right to have one request in flight. Give it back with
/// [`Gate::complete`](super::Gate::complete): dropping it is a broken invariant.
#[derive(Debug)]
#[must_use = "a slot must be given back"]
pub struct Slot(Grant);

/// What the gate knows of a slot in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) lane: u32,
    pub(super) class: u8,
    pub(super) at: Time,
    /// It lies outside the limits: the lane was not held to them.
    pub(super) shadow: bool,
    /// The response stays open.
    pub(super) open: bool,
    /// What it was taken to cost, if it had to wait.
    pub(super) charge: Option<Charge>,
}

/// A cost that was charged to a flow in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) flow: u32,
    /// Nanoseconds of a slot.
    pub(super) nanos: u64,
    /// The pool whose slot it was.
    pub(super) standing: Standing,
}

/// A place in a queue. End it with [`Gate::claim`](super::Gate::claim) or
/// [`Gate::abandon`](super::Gate::abandon): dropping it is a broken invariant.
#[derive(Debug)]
#[must_use = "a ticket must be claimed or abandoned"]
pub struct Ticket {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Names a ticket in an [`Action`]; never used twice in a row for the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TicketId(pub(super) u32, pub(super) u32);

/// What becomes of a request on arrival.
#[derive(Debug)]
pub enum Verdict {
    /// Go.
    Admitted(Slot),
    /// Wait, until this deadline at the latest: an [`Action`] tells when
    /// [`Gate::claim`](super::Gate::claim) knows more.
    Queued(Ticket, Time),
    /// Turned away.
    Rejected(Rejection),
}

/// What has become of a ticket.
#[derive(Debug)]
pub enum Claim {
    /// It has a slot; the wait was so long.
    Granted(Slot, Duration),
    /// It was turned away after so long a wait.
    Rejected(Rejection, Duration),
    /// Nothing yet; the waker given will be called.
    Waiting(Ticket),
}

/// What was given up with a ticket.
#[derive(Debug)]
pub enum Abandoned {
    /// A place in the queue.
    Left,
    /// A slot that had been granted and not been fetched: it must be given back.
    WasGranted(Slot),
    /// Nothing: it had been turned away.
    WasRejected,
}

/// What the shell must do.
#[derive(Debug)]
pub struct Action {
    /// The ticket that was resolved.
    pub ticket: TicketId,
    /// Whom to wake; `None` if the ticket was never claimed.
    pub waker: Option<Waker>,
}

// === impl Arrival ===

impl Arrival {
    /// An ordinary request at a lane: no class, no flow, no deadline of its own.
    #[must_use]
    pub const fn at(lane: usize) -> Arrival {
        Arrival { lane, class: Class::DEFAULT, flow: 0, deadline: None }
    }
}

// === impl RejectReason ===

impl RejectReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [RejectReason; 7] = [
        RejectReason::QueueFull,
        RejectReason::MaxWait,
        RejectReason::Deadline,
        RejectReason::StandingQueue,
        RejectReason::Evicted,
        RejectReason::UpstreamDown,
        RejectReason::Draining,
    ];
    /// The label values, in the order of [`RejectReason::ALL`].
    pub const LABELS: [&'static str; 7] = [
        "queue_full",
        "max_wait",
        "deadline",
        "standing_queue",
        "evicted",
        "upstream_down",
        "draining",
    ];

    /// The value of the metric label `reason`.
    #[must_use]
    pub fn label(self) -> &'static str {
        RejectReason::LABELS[self as usize]
    }
}

// === impl Slot, Ticket ===

impl Slot {
    pub(super) fn new(grant: Grant) -> Slot {
        Slot(grant)
    }

    /// The lane that it belongs to.
    #[must_use]
    pub fn lane(&self) -> usize {
        self.0.lane as usize
    }

    pub(super) fn grant_mut(&mut self) -> &mut Grant {
        &mut self.0
    }

    pub(super) fn consumed(self) -> Grant {
        let grant = self.0;
        std::mem::forget(self);
        grant
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        invariant!(std::thread::panicking(), "I5: a slot is given back, never dropped");
    }
}

impl Ticket {
    /// Its name in an [`Action`].
    #[must_use]
    pub fn id(&self) -> TicketId {
        TicketId(self.index, self.generation)
    }

    pub(super) fn consumed(self) {
        std::mem::forget(self);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        invariant!(std::thread::panicking(), "a ticket is claimed or abandoned, never dropped");
    }
}
