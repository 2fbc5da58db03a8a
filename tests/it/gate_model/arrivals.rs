//! What becomes of an arrival: a slot, a place in the queue, or a rejection.

use std::slice::Iter;
use std::time::Duration;

use tidegate::gate::{LaneKind, LaneSnapshot, RejectReason, Snapshot, TicketId, Time};

use super::follow::Saw;
use super::tracker::{Event, Held, SWEEP, Tracker, Waiter, cap};

type Events<'a> = Iter<'a, Event>;

#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    pub lane: usize,
    pub class: usize,
    pub flow: usize,
    pub deadline: Time,
}

// === impl Tracker ===

impl Tracker {
    pub fn arrive(&mut self, new: Newcomer, saw: Saw, events: &mut Events, seen: &Snapshot) {
        let Newcomer { lane, class, deadline, .. } = new;
        let limits = *self.lane(lane);
        self.lanes[lane].arrivals += 1;
        let expected = if self.draining {
            Err(RejectReason::Draining)
        } else if !limits.enforce {
            self.shadow(lane, deadline, &seen.lanes[lane]);
            Ok(true)
        } else if deadline <= self.now {
            Err(RejectReason::Deadline)
        } else if !self.is_held(lane) && self.free()[lane] {
            Ok(false)
        } else if limits.max_queue == 0 {
            Err(RejectReason::QueueFull)
        } else if limits.max_wait.is_zero() {
            Err(RejectReason::MaxWait)
        } else if self.paused.is_some_and(|since| since + self.limits.hold <= self.now) {
            Err(RejectReason::UpstreamDown)
        } else {
            return self.queue(new, saw, events);
        };
        match expected {
            Ok(shadow) => {
                assert_eq!(saw, Saw::Admitted, "{new:?}");
                self.take(lane, shadow);
            }
            Err(reason) => {
                assert_eq!(saw, Saw::Rejected(reason), "{new:?}");
                self.reject(lane, class, reason);
            }
        }
    }

    fn queue(&mut self, new: Newcomer, saw: Saw, events: &mut Events) {
        let Newcomer { lane, class, .. } = new;
        self.sweep(new, events);
        if !self.sure {
            return self.queue_unsure(new, saw, events);
        }
        let (until, overdue) = self.bound(new);
        if until <= self.now || self.hopeless(new) {
            assert_eq!(saw, Saw::Rejected(RejectReason::Deadline), "{new:?}");
            return self.reject(lane, class, RejectReason::Deadline);
        }
        if self.queued(lane) >= self.lane(lane).max_queue as usize && !self.make_room(new, events) {
            assert_eq!(saw, Saw::Rejected(RejectReason::QueueFull), "{new:?}");
            self.fail(lane, class);
            return self.reject(lane, class, RejectReason::QueueFull);
        }
        let Saw::Queued(id, bound) = saw else { panic!("{new:?} waits, and not {saw:?}") };
        assert_eq!(bound, until, "{new:?} may wait for so long");
        self.join(self.waiter(new, id, until, overdue));
    }

    fn waiter(&self, new: Newcomer, id: TicketId, until: Time, overdue: RejectReason) -> Waiter {
        let Newcomer { lane, class, flow, deadline } = new;
        let (arrived, patience) = (self.now, self.lane(lane).max_wait);
        let latest = self.latest(lane, deadline);
        Waiter { id, lane, class, flow, arrived, deadline, latest, patience, until, overdue }
    }

    fn latest(&self, lane: usize, deadline: Time) -> Time {
        if deadline == Time::NEVER { deadline } else { deadline - self.p90(lane) }
    }

    /// It is not known which queues stand: what hangs on that is taken as it comes.
    fn queue_unsure(&mut self, new: Newcomer, saw: Saw, events: &mut Events) {
        for event in events {
            let reason = event.reason.unwrap_or(RejectReason::Evicted);
            let known = matches!(reason, RejectReason::StandingQueue | RejectReason::Evicted);
            assert!(known, "{event:?}");
            self.refused(event, reason);
        }
        match saw {
            Saw::Admitted => panic!("no slot is free"),
            Saw::Rejected(reason) => self.reject(new.lane, new.class, reason),
            Saw::Queued(id, until) => self.join_unsure(new, id, until),
        }
    }

    pub fn join_unsure(&mut self, new: Newcomer, id: TicketId, until: Time) {
        let Newcomer { lane, deadline, .. } = new;
        let (longest, reason) = self.longest(lane, self.now, self.lane(lane).max_wait);
        assert!(until <= longest && until <= deadline);
        let overdue = if until == longest {
            reason
        } else if until == self.latest(lane, deadline) {
            RejectReason::Deadline
        } else {
            RejectReason::StandingQueue
        };
        self.join(self.waiter(new, id, until, overdue));
    }

    fn sweep(&mut self, new: Newcomer, events: &mut Events) {
        let Newcomer { lane, class, flow, .. } = new;
        let Some(allowance) = self.allowance(lane, class, flow) else { return };
        if !self.sure {
            return;
        }
        let stale = self.flow(lane, class, flow).take(SWEEP);
        let stale: Vec<_> =
            stale.take_while(|w| w.arrived + allowance <= self.now).map(|w| w.id).collect();
        for id in stale {
            let event = events.next().expect("who has waited for too long is turned away");
            assert_eq!(event.id, id, "oldest first");
            self.refused(event, RejectReason::StandingQueue);
        }
    }

    fn bound(&self, new: Newcomer) -> (Time, RejectReason) {
        self.bound_with(new, self.allowance(new.lane, new.class, new.flow))
    }

    fn bound_with(&self, new: Newcomer, allowance: Option<Duration>) -> (Time, RejectReason) {
        let latest = self.latest(new.lane, new.deadline);
        let standing = allowance.map_or(Time::NEVER, |allowance| self.now + allowance);
        let longest = self.longest(new.lane, self.now, self.lane(new.lane).max_wait);
        let bounds =
            [longest, (standing, RejectReason::StandingQueue), (latest, RejectReason::Deadline)];
        bounds.into_iter().min_by_key(|(bound, _)| *bound).unwrap_or(longest)
    }

    /// As documented: the work ahead, at the rate at which the lane drains, leaves no time.
    fn hopeless(&self, new: Newcomer) -> bool {
        let Newcomer { lane, class, flow, deadline } = new;
        let slots = self.in_flight()[lane];
        if deadline == Time::NEVER || slots == 0 || self.newest_first(lane, class) {
            return false;
        }
        let above = self.waiting.iter().filter(|w| w.lane == lane && w.class > class).count();
        let flows = self.flows(lane, class);
        let active = flows.iter().filter(|len| **len > 0).count().max(1);
        let same = flows.iter().sum::<usize>().min((flows[flow] + 1) * active);
        let wait = self.lanes[lane].mean_hold * (above + same + 1) as u32 / slots;
        deadline - self.p90(lane) <= self.now + wait
    }

    /// I6: the lowest class below the newcomer's that has more than its floor protects gives up a
    /// place; else, within its own class, the longest flow does.
    fn make_room(&mut self, new: Newcomer, events: &mut Events) -> bool {
        let Newcomer { lane, class, flow, .. } = new;
        let protected = self.lane(lane).max_queue.checked_div(self.limits.floor_period);
        let protected = protected.unwrap_or(0) as usize;
        let size = |class| self.flows(lane, class).iter().sum::<usize>();
        let lower = (0..class).find(|lower| size(*lower) > protected);
        let flows = self.flows(lane, lower.unwrap_or(class));
        let longest = flows.into_iter().max().unwrap_or(0);
        let newest_first = lower.is_none() && self.newest_first(lane, class);
        if lower.is_none() && (longest == 0 || !newest_first && longest <= flows[flow] + 1) {
            return false;
        }
        let event = events.next().expect("I6: somebody makes room");
        let victim = self.find(event.id);
        assert_eq!((victim.lane, victim.class), (lane, lower.unwrap_or(class)), "I6: {new:?}");
        assert_eq!(flows[victim.flow], longest, "the longest flow pays");
        let same: Vec<_> = self.flow(lane, victim.class, victim.flow).map(|w| w.id).collect();
        let pays = if newest_first { same.first() } else { same.last() };
        assert_eq!(pays, Some(&victim.id));
        self.refused(event, RejectReason::Evicted);
        self.seen.evicted_lower += u64::from(lower.is_some());
        self.seen.evicted_own += u64::from(lower.is_none());
        true
    }

    /// What a lane that is not held to its limits counts: never more than one reason.
    fn shadow(&mut self, lane: usize, deadline: Time, seen: &LaneSnapshot) {
        let here = *self.lane(lane);
        let of = |slot: &&Held| slot.lane == lane;
        let inside = |slot: &&Held| self.lane(slot.lane).kind == LaneKind::Budget;
        let beyond = |used: usize, most: u32| (used as u32 + 1).saturating_sub(most);
        let mut over = beyond(self.slots.iter().filter(of).count(), cap(&here));
        let mut slots = cap(&here);
        if here.kind == LaneKind::Budget {
            over = over.max(beyond(self.slots.iter().filter(inside).count(), self.limit));
            slots = slots.min(self.limit);
        }
        let wait = self.lanes[lane].mean_hold * over.max(1) / slots.max(1);
        let reason = if deadline <= self.now {
            Some(RejectReason::Deadline)
        } else if over == 0 {
            None
        } else if over > here.max_queue {
            Some(RejectReason::QueueFull)
        } else if here.max_wait.is_zero() || wait > here.max_wait {
            Some(RejectReason::MaxWait)
        } else if deadline != Time::NEVER && deadline - self.p90(lane) <= self.now + wait {
            Some(RejectReason::Deadline)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.lanes[lane].shadow_rejected[reason as usize] += 1;
        }
        assert_eq!(self.lanes[lane].shadow_rejected, seen.shadow_rejected, "{reason:?}");
    }
}
