//! What an operation must have done: the tracker follows the gate event by event, and stops where
//! the gate did something else.

use std::slice::Iter;
use std::time::Duration;

use tidegate::gate::{
    Class, LaneKind, LaneSnapshot, Limits, RejectReason, Snapshot, TicketId, Time,
};

use super::tracker::{Event, Held, SWEEP, Tracker, Waiter, cap};

/// What was done to the gate.
#[derive(Debug)]
pub enum Did {
    Arrive { lane: usize, class: usize, flow: usize, deadline: Option<Time>, saw: Saw },
    Complete(Held),
    Abandon { id: TicketId, left: bool },
    Expire,
    Reconfigure(Limits),
    Pause,
    Resume,
    Drain,
}

/// What the gate said to an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Saw {
    Admitted,
    Queued(TicketId, Time),
    Rejected(RejectReason),
}

type Events<'a> = Iter<'a, Event>;

impl Tracker {
    pub fn follow(&mut self, now: Time, did: &Did, events: &[Event], seen: &Snapshot) {
        self.now = self.now.max(now);
        let mut events = events.iter();
        if let Did::Abandon { id, left } = did {
            self.abandoned(*id, *left);
        }
        self.expire(&mut events);
        self.limit = seen.max_in_flight;
        match did {
            Did::Arrive { lane, class, flow, deadline, saw } => {
                self.learn(seen);
                let deadline = deadline.unwrap_or(Time::NEVER);
                let newcomer = Newcomer { lane: *lane, class: *class, flow: *flow, deadline };
                self.arrive(newcomer, *saw, &mut events, seen);
            }
            Did::Complete(held) => {
                self.give_back(*held);
                self.learn(seen);
                self.dispatch(&mut events);
            }
            Did::Reconfigure(limits) => {
                self.set_limits(limits);
                self.let_through(&mut events);
                self.dispatch(&mut events);
            }
            Did::Resume => {
                if std::mem::take(&mut self.paused) {
                    self.resumed = self.now;
                }
                self.dispatch(&mut events);
            }
            Did::Pause => self.paused = true,
            Did::Drain => {
                self.draining = true;
                self.all_drained(&mut events);
            }
            Did::Abandon { .. } | Did::Expire => {}
        }
        assert_eq!(events.next(), None, "nothing else happens");
    }

    /// Service times are the gate's to learn.
    pub fn learn(&mut self, seen: &Snapshot) {
        for (mine, lane) in self.lanes.iter_mut().zip(&seen.lanes) {
            mine.mean_hold = lane.mean_hold;
            (mine.service_p50, mine.service_p90) = (lane.service_p50, lane.service_p90);
        }
    }

    /// Whoever is out of time at this very moment is turned away and not `left`.
    fn abandoned(&mut self, id: TicketId, left: bool) {
        let waiter = self.leave(id);
        assert_eq!(left, waiter.until > self.now, "{waiter:?}");
        if left {
            self.lanes[waiter.lane].abandoned += 1;
        } else {
            self.reject(waiter.lane, waiter.class, waiter.overdue);
        }
    }

    /// I7: first of all, exactly those are turned away whose time is up.
    fn expire(&mut self, events: &mut Events) {
        let overdue = self.waiting.iter().filter(|w| w.until <= self.now).count();
        for _ in 0..overdue {
            let event = events.next().expect("I7: whose time is up is turned away");
            let waiter = self.find(event.id);
            assert!(waiter.until <= self.now, "only whose time is up: {waiter:?}");
            self.refused(event, waiter.overdue);
        }
    }

    fn refused(&mut self, event: &Event, reason: RejectReason) {
        let waiter = self.leave(event.id);
        assert!(!event.granted, "{reason:?} was due, not a grant: {waiter:?}");
        assert_eq!(event.reason.unwrap_or(reason), reason, "{waiter:?}");
        self.reject(waiter.lane, waiter.class, reason);
    }

    fn granted(&mut self, event: &Event, shadow: bool) -> Waiter {
        let waiter = self.leave(event.id);
        assert!(event.granted, "a grant was due: {waiter:?} {event:?}");
        assert!(waiter.until > self.now, "I7: granted at or after its bound");
        let waited = self.now.since(waiter.arrived);
        assert_eq!(event.waited.unwrap_or(waited), waited);
        self.take(waiter.lane, shadow);
        waiter
    }

    fn all_drained(&mut self, events: &mut Events) {
        while !self.waiting.is_empty() {
            let event = events.next().expect("a drain turns everybody away");
            self.refused(event, RejectReason::Draining);
        }
    }

    fn let_through(&mut self, events: &mut Events) {
        for lane in 0..self.limits.lanes.len() {
            if self.lane(lane).enforce {
                continue;
            }
            for _ in 0..self.queued(lane) {
                let event = events.next().expect("who waits in shadow is let through");
                let waiter = self.find(event.id);
                assert_eq!(waiter.lane, lane);
                let higher = |w: &&Waiter| w.lane == lane && w.class > waiter.class;
                assert_eq!(self.waiting.iter().find(higher).map(|w| w.class), None);
                self.granted(event, true);
            }
        }
    }

    // === grants ===

    fn dispatch(&mut self, events: &mut Events) {
        // Of which flow so many were turned away just now.
        let (mut flow, mut swept) = ((0, 0, 0), 0);
        for event in events {
            let waiter = self.find(event.id);
            let free = self.free();
            assert!(free[waiter.lane] && !self.paused, "I1: no slot for {waiter:?}");
            let same = std::mem::replace(&mut flow, (waiter.lane, waiter.class, waiter.flow));
            swept = if same == flow { swept } else { 0 };
            if event.granted {
                self.check_turn(&waiter, &free);
                self.check_order(&waiter, swept);
                assert!(!self.too_late(&waiter), "granted too late for an answer: {waiter:?}");
                self.count_grant(&waiter, &free);
                self.granted(event, false);
                continue;
            }
            let allowance = self.allowance(waiter.lane, waiter.class, waiter.flow);
            let stale = self.is_stale(&waiter, allowance);
            swept += 1;
            let reason = event.reason.unwrap_or(match stale {
                true => RejectReason::StandingQueue,
                false => RejectReason::Deadline,
            });
            match reason {
                RejectReason::StandingQueue => {
                    let oldest = self.flow(waiter.lane, waiter.class, waiter.flow).next();
                    assert_eq!(oldest.map(|w| w.id), Some(waiter.id), "oldest first");
                    assert!(stale || !self.sure, "it might have waited on: {waiter:?}");
                }
                RejectReason::Deadline => assert!(self.too_late(&waiter), "{waiter:?}"),
                other => panic!("{other:?} where a slot is free"),
            }
            self.refused(event, reason);
        }
    }

    fn is_stale(&self, waiter: &Waiter, allowance: Option<Duration>) -> bool {
        allowance.is_some_and(|allowance| waiter.arrived + allowance <= self.now)
    }

    /// I6 and I7: the highest class that can use the slot, unless a floor presses.
    fn check_turn(&mut self, waiter: &Waiter, free: &[bool]) {
        let beside = self.admissible(free, LaneKind::Beside);
        let kind = self.lane(waiter.lane).kind;
        let mask = if beside == 0 { self.admissible(free, LaneKind::Budget) } else { beside };
        assert!(beside == 0 || kind == LaneKind::Beside, "lanes beside the budget come first");
        if waiter.class == mask.ilog2() as usize {
            return;
        }
        let floor = self.floors[waiter.class];
        let period = u64::from(self.limits.floor_period);
        assert!(kind == LaneKind::Budget && period > 0, "I6: {mask:b} could use {waiter:?}");
        let pressing = floor.changed || floor.since + Class::COUNT as u64 >= period;
        assert!(pressing, "I6: no floor presses: {floor:?} {mask:b} {waiter:?}");
        self.seen.by_floor += 1;
    }

    fn count_grant(&mut self, waiter: &Waiter, free: &[bool]) {
        self.seen.granted += 1;
        if self.lane(waiter.lane).kind == LaneKind::Beside {
            return;
        }
        let others = (0..free.len()).filter(|lane| *lane != waiter.lane && self.queued(*lane) > 0);
        self.seen.reserved +=
            u64::from(others.clone().count() > 0 && !others.clone().any(|lane| free[lane]));
        let mask = self.admissible(free, LaneKind::Budget);
        let period = u64::from(self.limits.floor_period);
        for (class, floor) in self.floors.iter_mut().enumerate() {
            floor.since += 1;
            floor.passed += u64::from(mask & (1 << class) != 0);
            if class == waiter.class {
                *floor = Default::default();
            }
            // A class whose lanes were at their caps may be overdue when they no longer are, and
            // each other such class comes first once.
            let most = period + Class::COUNT as u64 - 1;
            assert!(period == 0 || floor.passed < most, "I7: class {class} starves: {floor:?}");
        }
    }

    fn check_order(&mut self, waiter: &Waiter, swept: usize) {
        let Waiter { lane, class, flow, .. } = *waiter;
        if !self.sure {
            return;
        }
        let newest_first = self.newest_first(lane, class);
        let same: Vec<_> = self.flow(lane, class, flow).map(|w| w.id).collect();
        let first = if newest_first { same.last() } else { same.first() };
        assert_eq!(first, Some(&waiter.id), "the order within a flow");
        let stale = self.is_stale(waiter, self.allowance(lane, class, flow));
        assert!(!stale || swept >= SWEEP, "granted beyond its allowance: {waiter:?}");
        self.seen.newest_first += u64::from(newest_first && same.len() > 1);
        self.seen.standing += u64::from(self.stands(lane, class));
    }

    // === arrivals ===

    fn arrive(&mut self, new: Newcomer, saw: Saw, events: &mut Events, seen: &Snapshot) {
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
        } else if !self.paused && self.free()[lane] {
            Ok(false)
        } else if limits.max_queue == 0 {
            Err(RejectReason::QueueFull)
        } else if limits.max_wait.is_zero() {
            Err(RejectReason::MaxWait)
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
        let Newcomer { lane, class, flow, deadline } = new;
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
            return self.reject(lane, class, RejectReason::QueueFull);
        }
        let Saw::Queued(id, bound) = saw else { panic!("{new:?} waits, and not {saw:?}") };
        assert_eq!(bound, until, "{new:?} may wait for so long");
        let arrived = self.now;
        self.join(Waiter { id, lane, class, flow, arrived, deadline, until, overdue });
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
        let Newcomer { lane, class, flow, deadline } = new;
        let longest = self.now + self.lane(lane).max_wait;
        assert!(until <= longest && until <= deadline);
        let overdue = if until == longest {
            RejectReason::MaxWait
        } else if until == deadline - self.p90(lane) {
            RejectReason::Deadline
        } else {
            RejectReason::StandingQueue
        };
        let arrived = self.now;
        self.join(Waiter { id, lane, class, flow, arrived, deadline, until, overdue });
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
        let latest = match new.deadline {
            Time::NEVER => Time::NEVER,
            deadline => deadline - self.p90(new.lane),
        };
        let standing = allowance.map_or(Time::NEVER, |allowance| self.now + allowance);
        let longest = (self.now + self.lane(new.lane).max_wait, RejectReason::MaxWait);
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

    // === what happened unseen ===

    /// After operations whose effects were not looked at one by one.
    pub fn catch_up(&mut self, events: &[Event], seen: &Snapshot) {
        self.limit = seen.max_in_flight;
        for event in events {
            let waiter = self.leave(event.id);
            let granted = waiter.arrived + event.waited.unwrap_or_default();
            assert!(!event.granted || granted < waiter.until, "I7: granted after its bound");
            if event.granted {
                self.slots.push(Held { lane: waiter.lane, shadow: false });
            }
        }
        self.lanes.clone_from(&seen.lanes);
        self.rejected_class = seen.rejected_class;
        self.sure = self.waiting.is_empty();
        self.floors.iter_mut().for_each(|floor| {
            (floor.passed, floor.changed) = (0, true);
        });
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    pub lane: usize,
    pub class: usize,
    pub flow: usize,
    pub deadline: Time,
}
