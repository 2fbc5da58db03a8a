//! What is counted while a run runs: for each measured window, and for each bin of time.

use super::histogram::Histogram;
use crate::gate::RejectReason;

/// One bin of the series, in nanoseconds: a quarter of a second.
pub const BIN: u64 = 250_000_000;

/// Counts of one group of clients in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupTally {
    /// Calls made in the window.
    pub calls: u64,
    /// Of those, the ones that were answered in time, at any attempt.
    pub answered: u64,
    /// Of those, the ones whose client left of its own will.
    pub left: u64,
    /// Attempts made in the window, the first of each call included.
    pub attempts: u64,
    /// Attempts answered in time in the window.
    pub served: u64,
    /// Attempts that ended in the window with an error of the application.
    pub errors: u64,
    /// Attempts that ended in the window because the client waited no longer.
    pub timeouts: u64,
    /// Attempts turned away in the window, in the order of [`RejectReason::ALL`].
    pub rejected: [u64; RejectReason::ALL.len()],
    /// Slots granted in the window.
    pub grants: u64,
    /// The application's work for attempts answered in time, in server-nanoseconds at full speed.
    pub useful: f64,
    /// Its work for attempts whose client had left.
    pub wasted: f64,
    /// Its work that the calls ask for.
    pub asked: f64,
    /// Attempt to answer, as the client sees it.
    pub latency: Histogram,
    /// Attempt to slot.
    pub wait: Histogram,
    /// Attempt to rejection.
    pub refusal: Histogram,
    /// Attempt to rejection, of those that could not be answered in time whatever had come first.
    pub hopeless: Histogram,
}

/// Counts of one client in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientTally {
    /// The application's work that its calls ask for, in nanoseconds.
    pub asked: f64,
    /// The work that was done for it, answered in time.
    pub served: f64,
    /// Its calls.
    pub calls: u32,
    /// Those that were answered.
    pub answered: u32,
}

/// Counts of one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// One for each group.
    pub groups: Vec<GroupTally>,
    /// One for each client, group after group.
    pub clients: Vec<ClientTally>,
    /// Somebody was turned away for lack of space while a lower class waited, or the lower class
    /// got the slot.
    pub inversions: u64,
    /// The sum of the limits at the ends of bins, and how many.
    pub limits: (f64, u32),
}

/// What happened in one bin of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// Calls made.
    pub calls: u32,
    /// Attempts made.
    pub attempts: u32,
    /// Attempts answered in time.
    pub served: u32,
    /// Attempts turned away.
    pub rejected: u32,
    /// Attempts whose client waited no longer.
    pub timeouts: u32,
    /// Who waited at its end.
    pub queued: u32,
    /// Slots in use at its end; without a gate, who was inside.
    pub in_flight: u32,
    /// The limit at its end; 0 without a gate.
    pub limit: u32,
}

/// What a run has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// One for each window.
    pub windows: Vec<Tally>,
    /// One after another, [`BIN`] long.
    pub series: Vec<Bin>,
    /// Attempts of the whole run.
    pub attempts: u64,
    /// Promises of the gate that were seen broken from outside; its own checks end the process.
    pub violations: u64,
}

// === impl GroupTally ===

impl GroupTally {
    pub(super) fn add(&mut self, other: &GroupTally) {
        self.calls += other.calls;
        self.answered += other.answered;
        self.left += other.left;
        self.attempts += other.attempts;
        self.served += other.served;
        self.errors += other.errors;
        self.timeouts += other.timeouts;
        for (count, more) in self.rejected.iter_mut().zip(other.rejected) {
            *count += more;
        }
        self.grants += other.grants;
        self.useful += other.useful;
        self.wasted += other.wasted;
        self.asked += other.asked;
        self.latency.add(&other.latency);
        self.wait.add(&other.wait);
        self.refusal.add(&other.refusal);
        self.hopeless.add(&other.hopeless);
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(groups: usize, clients: usize) -> Tally {
        Tally {
            groups: vec![GroupTally::default(); groups],
            clients: vec![ClientTally::default(); clients],
            ..Tally::default()
        }
    }

    /// All groups together.
    #[must_use]
    pub fn total(&self) -> GroupTally {
        let mut total = GroupTally::default();
        self.groups.iter().for_each(|group| total.add(group));
        total
    }
}
