//! An application that is away: who waits is kept for it, for a while.
//!
//! A pause grants nothing to lanes in which requests wait. It keeps them for `hold`, and turns
//! everybody away once it has lasted longer. When it ends, more may wait than can be served within
//! `max_wait`, and what they have waited for was not capacity: a lane therefore *recovers* until
//! its queue was empty once, for `hold` at most. Only from then on `max_wait` counts, and a queue
//! may stand. `max_wait` and `hold` together bound every wait, however often the application comes
//! and goes.
//!
//! Lanes in which nobody waits (`max_queue` or `max_wait` is nothing) go on: such a request is to
//! fail at once where the application does, and probes live there.

use std::time::Duration;

use super::Gate;
use super::lane::Lane;
use super::time::Time;
use super::types::RejectReason;
use super::waiters::State;

impl Gate {
    /// From now on nothing is granted to lanes in which requests wait: who comes waits, within the
    /// bounds of the queue, which does not stand meanwhile. After [`hold`](super::Limits::hold)
    /// everybody is turned away, until the gate is resumed. For an application that is known to be
    /// away.
    pub fn pause(&mut self, now: Time) {
        self.advance(now);
        if self.paused.is_none() {
            self.paused = Some(self.now);
            self.rebound();
            // Where nothing is held, a pause ends all waits.
            self.advance(self.now);
        }
    }

    /// Ends a [`Gate::pause`]. Who waits goes on in order.
    pub fn resume(&mut self, now: Time) {
        self.advance(now);
        if self.paused.take().is_some() {
            self.resumed = self.now;
            self.lanes.iter_mut().for_each(|lane| lane.resume(self.now, self.hold));
            self.rebound();
        }
        self.dispatch();
    }

    /// When a pause that goes on turns everybody away; `None`: there is none.
    pub(super) fn held_until(&self) -> Option<Time> {
        self.paused.map(|since| since + self.hold)
    }

    /// Whether a lane's requests wait for the end of a pause.
    pub(super) fn is_held(&self, lane: &Lane) -> bool {
        self.paused.is_some() && lane.limits.waits()
    }

    /// Until when somebody may wait who came to a lane at `arrived`, for `patience`; and why not
    /// longer.
    pub(super) fn longest_wait(
        &self,
        lane: u32,
        arrived: Time,
        patience: Duration,
    ) -> (Time, RejectReason) {
        let longest = arrived + patience + self.hold;
        match self.held_until() {
            Some(until) => (until.min(longest), RejectReason::UpstreamDown),
            None => {
                let from = arrived.max(self.lanes[lane as usize].recovered);
                ((from + patience).min(longest), RejectReason::MaxWait)
            }
        }
    }

    /// Changes how long a pause may keep somebody waiting, also of those whom it does.
    pub(super) fn set_hold(&mut self, hold: Duration) {
        if std::mem::replace(&mut self.hold, hold) == hold {
            return;
        }
        if self.paused.is_some() {
            self.rebound();
            self.advance(self.now);
        }
    }

    /// Bounds every wait anew: a pause has begun or ended. O(n log n), once for each of these.
    fn rebound(&mut self) {
        for index in 0..self.waiters.places() {
            let waiter = self.waiters.get(index);
            if waiter.state != State::Waiting {
                continue;
            }
            let latest = (waiter.latest, RejectReason::Deadline);
            let own = self.longest_wait(waiter.lane, waiter.arrived, waiter.patience);
            let (until, overdue) = if latest.0 < own.0 { latest } else { own };
            self.waiters.get_mut(index).overdue = overdue;
            self.deadlines.change(index, until);
        }
    }
}
