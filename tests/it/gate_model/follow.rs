//! What an operation must have done: the tracker follows the gate event by event, and stops where
//! the gate did something else.

use std::slice::Iter;
use std::time::Duration;

use tidegate::gate::{Budget, Class, LaneKind, Limits, RejectReason, Snapshot, TicketId, Time};

use super::arrivals::Newcomer;
use super::tracker::{Event, Held, SWEEP, Tracker, Waiter};

/// What was done to the gate.
#[derive(Debug)]
pub enum Did {
    Arrive {
        lane: usize,
        class: usize,
        flow: usize,
        deadline: Option<Time>,
        saw: Saw,
    },
    Complete(Held),
    /// As the slot was before.
    StayOpen(Held),
    Abandon {
        id: TicketId,
        left: bool,
    },
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
        let before = std::mem::replace(&mut self.limit, seen.max_in_flight);
        match did {
            Did::Arrive { lane, class, flow, deadline, saw } => {
                self.learn(seen);
                let deadline = deadline.unwrap_or(Time::NEVER);
                let newcomer = Newcomer { lane: *lane, class: *class, flow: *flow, deadline };
                self.arrive(newcomer, *saw, &mut events, seen);
            }
            Did::Complete(held) => {
                self.give_back(*held);
                if held.open && matches!(self.limits.budget, Budget::Auto(_)) {
                    // It teaches nothing: the limit is one less, unless its bound had kept it.
                    assert!((self.limit..=self.limit + 1).contains(&before), "{before} {seen:?}");
                }
                self.learn(seen);
                self.dispatch(&mut events);
            }
            Did::StayOpen(held) => {
                self.open(*held);
                self.check_on_top(*held, before);
                let waiting = self.waiting.len();
                self.dispatch(&mut events);
                self.seen.on_top += (waiting - self.waiting.len()) as u64;
            }
            Did::Reconfigure(limits) => {
                self.set_hold(limits.hold);
                self.expire(&mut events);
                self.set_limits(limits);
                self.let_through(&mut events);
                self.dispatch(&mut events);
            }
            Did::Resume => {
                self.resume();
                self.dispatch(&mut events);
            }
            Did::Pause => {
                self.pause();
                self.expire(&mut events);
            }
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
        self.fail(waiter.lane, waiter.class);
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

    pub fn refused(&mut self, event: &Event, reason: RejectReason) {
        let waiter = self.leave(event.id);
        assert!(!event.granted, "{reason:?} was due, not a grant: {waiter:?}");
        assert_eq!(event.reason.unwrap_or(reason), reason, "{waiter:?}");
        self.fail(waiter.lane, waiter.class);
        self.reject(waiter.lane, waiter.class, reason);
    }

    fn granted(&mut self, event: &Event, shadow: bool) -> Waiter {
        let waiter = self.leave(event.id);
        assert!(event.granted, "a grant was due: {waiter:?} {event:?}");
        assert!(waiter.until > self.now, "I7: granted at or after its bound");
        let waited = self.now.since(waiter.arrived);
        assert_eq!(event.waited.unwrap_or(waited), waited);
        self.take(waiter.lane, shadow);
        self.busy[waiter.lane][waiter.class].served += u32::from(!shadow);
        waiter
    }

    /// A limit that finds itself makes room, within its bounds; a number stays.
    fn check_on_top(&self, held: Held, before: u32) {
        let counts = self.inside(held.lane) && !held.shadow && !held.open;
        let expected = match self.limits.budget {
            Budget::Auto(auto) if counts => (before + 1).min(auto.max.max(auto.min).max(1)),
            _ => before,
        };
        assert_eq!(self.limit, expected, "{held:?}");
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
            assert!(free[waiter.lane] && self.paused.is_none(), "I1: no slot for {waiter:?}");
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

    pub fn is_stale(&self, waiter: &Waiter, allowance: Option<Duration>) -> bool {
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

    // === what happened unseen ===

    /// After operations whose effects were not looked at one by one.
    pub fn catch_up(&mut self, events: &[Event], seen: &Snapshot) {
        self.limit = seen.max_in_flight;
        for event in events {
            let waiter = self.leave(event.id);
            let granted = waiter.arrived + event.waited.unwrap_or_default();
            assert!(!event.granted || granted < waiter.until, "I7: granted after its bound");
            if event.granted {
                self.slots.push(Held::new(waiter.lane, false));
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
