//! What can be seen of a gate from outside, at one instant.

use std::time::Duration;

use super::RejectReason;
use super::limits::Class;

/// What a gate holds, at one instant: its numbers add up.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The budget now.
    pub max_in_flight: u32,
    /// Slots of the budget in use.
    pub in_flight: u32,
    /// Those of them that responses hold which stay open.
    pub open: u32,
    /// Requests turned away by class, over all lanes.
    pub rejected_class: [u64; Class::COUNT],
    /// Nothing is granted at present.
    pub paused: bool,
    /// For how long more a pause keeps who waits; then it turns everybody away.
    pub hold_left: Duration,
    /// What stands behind a budget that finds itself.
    pub auto: Option<AutoSnapshot>,
    /// One for each lane.
    pub lanes: Vec<LaneSnapshot>,
}

/// Why a budget that finds itself is what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AutoSnapshot {
    /// The latest step.
    pub decision: AutoDecision,
    /// How often each step was taken, in the order of [`AutoDecision::ALL`].
    pub decisions: [u64; AutoDecision::ALL.len()],
    /// What the application completed a second when it was last measured under load; 0: never yet.
    pub throughput: f64,
    /// Mean service time when it was last measured under load.
    pub latency: Duration,
    /// Mean service time of the same mix of requests without congestion; zero: not known.
    pub baseline: Duration,
    /// The part of a rise of the limit that throughput followed, 0 (nothing) to 1 (all of it).
    pub elasticity: f64,
}

/// What a budget that finds itself did last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(usize)]
pub enum AutoDecision {
    /// The limit stays: there was no saturation to learn from, or the evidence is thin.
    #[default]
    Hold,
    /// Up: more in flight brought more throughput.
    Grow,
    /// Down: fewer in flight bring the same throughput.
    Shrink,
    /// Down: the application failed, timed out, or was slower than allowed.
    BackOff,
}

/// What a lane holds and has done, at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LaneSnapshot {
    /// Requests that came, whatever became of them.
    pub arrivals: u64,
    /// Requests that got a slot.
    pub admitted: u64,
    /// Requests whose client left the queue.
    pub abandoned: u64,
    /// Requests turned away, in the order of [`RejectReason::ALL`].
    pub rejected: [u64; RejectReason::ALL.len()],
    /// Requests let through that would have been turned away, in the same order.
    pub shadow_rejected: [u64; RejectReason::ALL.len()],
    /// Requests that wait.
    pub queue_depth: u32,
    /// Places in the queue.
    pub max_queue: u32,
    /// The longest wait.
    pub max_wait: Duration,
    /// Slots in use.
    pub in_flight: u32,
    /// The most slots that the lane may use.
    pub max_in_flight: u32,
    /// Time integral of `queue_depth`.
    pub queued_time: Duration,
    /// Time integral of `in_flight`.
    pub in_flight_time: Duration,
    /// Mean time from grant to completion of late; zero while nothing has completed.
    pub mean_hold: Duration,
    /// Median service time of late; `None` while too little is known.
    pub service_p50: Option<Duration>,
    /// 90th percentile of the service time of late; `None` while too little is known.
    pub service_p90: Option<Duration>,
}

// === impl AutoDecision ===

impl AutoDecision {
    /// All of them, in the order of their numbers.
    pub const ALL: [AutoDecision; 4] =
        [AutoDecision::Hold, AutoDecision::Grow, AutoDecision::Shrink, AutoDecision::BackOff];
    /// The label values, in the order of [`AutoDecision::ALL`].
    pub const LABELS: [&'static str; 4] = ["hold", "grow", "shrink", "back_off"];

    /// The value of the metric label `decision`.
    #[must_use]
    pub fn label(self) -> &'static str {
        AutoDecision::LABELS[self as usize]
    }
}
