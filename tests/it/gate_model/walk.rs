//! A random walk: what is done to a gate, and what a shell would hold of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::task::Waker;
use std::time::Duration;

use tidegate::gate::{
    Abandoned, Arrival, AutoLimits, Budget, Claim, Class, Gate, LaneKind, LaneLimits, Limits,
    Order, Outcome, Slot, Ticket, Time, Verdict,
};

use super::arrivals::Newcomer;
use super::follow::{Did, Saw};
use super::tracker::{Event, FLOWS, Held, Seen, Tracker};
use crate::random::Random;

/// More than that are not held at once: shadow lanes have no bound.
const SLOTS: usize = 48;

pub struct Walk {
    random: Random,
    now: Time,
    pub gate: Gate,
    tracker: Tracker,
    limits: Limits,
    tickets: Vec<Ticket>,
    slots: Vec<(Slot, Held)>,
    /// What was resolved in this operation.
    events: Vec<Event>,
    /// So many operations are not looked at one by one.
    unseen: u64,
    /// How many in a hundred operations are arrivals.
    pressure: u64,
    foggy: bool,
    outputs: DefaultHasher,
}

fn millis(random: &mut Random, below: u64) -> Duration {
    Duration::from_micros(random.below(below * 1_000))
}

fn some_lane(random: &mut Random, kind: LaneKind) -> LaneLimits {
    LaneLimits {
        kind,
        max_in_flight: match kind {
            LaneKind::Beside => Some(random.below(5) as u32),
            LaneKind::Budget => random.chance(30).then(|| random.below(6) as u32),
        },
        reserved: if random.chance(30) { random.below(4) as u32 } else { 0 },
        max_queue: match random.below(10) {
            0 => 0,
            1..7 => 1 + random.below(8) as u32,
            _ => 10 + random.below(30) as u32,
        },
        max_wait: match random.below(20) {
            0 => Duration::ZERO,
            1..10 => millis(random, 40),
            _ => Duration::from_millis(300),
        },
        order: [Order::Fifo, Order::Lifo, Order::Adaptive][random.below(3) as usize],
        standing_after: random.chance(60).then(|| millis(random, 30)),
        enforce: random.chance(88),
    }
}

fn some_budget(random: &mut Random, auto: bool) -> Budget {
    if !auto {
        return Budget::Fixed(random.below(9) as u32);
    }
    // Whoever asks for what cannot be gets what comes closest.
    let min = random.below(4) as u32;
    let max = (min + random.below(11) as u32).saturating_sub(1);
    let max_latency = random.chance(30).then(|| millis(random, 30));
    Budget::Auto(AutoLimits { min, max, max_latency })
}

fn some_period(random: &mut Random) -> u32 {
    [0, 8, 9, 20][random.below(4) as usize]
}

fn some_hold(random: &mut Random) -> Duration {
    Duration::from_micros(1) + millis(random, 60)
}

/// A flow's name. In half of the walks all of them want the same place.
fn flow_id(flow: usize, seed: u64) -> u64 {
    if seed.is_multiple_of(2) { flow as u64 * 256 } else { Random::new(flow as u64).next() }
}

impl Walk {
    pub fn new(seed: u64) -> Walk {
        let mut random = Random::new(seed);
        let lanes = (0..1 + random.below(5)).map(|_| {
            let kind = if random.chance(20) { LaneKind::Beside } else { LaneKind::Budget };
            some_lane(&mut random, kind)
        });
        let lanes = lanes.collect();
        let budget = some_budget(&mut random, seed.is_multiple_of(7));
        let (floor_period, hold) = (some_period(&mut random), some_hold(&mut random));
        let limits = Limits { budget, floor_period, hold, lanes };
        let gate = Gate::new(Time::ZERO, &limits);
        let tracker = Tracker::new(&limits, &gate.snapshot(Time::ZERO));
        Walk {
            random,
            now: Time::ZERO,
            gate,
            tracker,
            limits,
            tickets: Vec::new(),
            slots: Vec::new(),
            events: Vec::new(),
            unseen: 0,
            pressure: 50,
            foggy: seed.is_multiple_of(5),
            outputs: DefaultHasher::new(),
        }
    }

    pub fn step(&mut self, seed: u64) {
        if self.random.chance(60) {
            self.now = self.now + millis(&mut self.random, 2);
        }
        if self.random.below(400) == 0 {
            self.pressure = 20 + self.random.below(60);
        }
        if self.foggy && self.unseen == 0 && self.random.chance(3) {
            return self.walk_unseen(seed);
        }
        let did = self.operate(seed);
        self.look(&did);
    }

    fn operate(&mut self, seed: u64) -> Did {
        if self.slots.len() >= SLOTS {
            return self.complete();
        }
        if self.random.chance(self.pressure) {
            return self.arrive(seed);
        }
        match self.random.below(100) {
            0..76 if !self.slots.is_empty() => self.complete(),
            76..78 if !self.slots.is_empty() => self.stay_open(),
            78..88 if !self.tickets.is_empty() => self.abandon(),
            88..91 if self.unseen == 0 => self.reconfigure(),
            // When what a pause left behind is done cannot be told where it is not seen.
            91 if !self.foggy => {
                self.gate.pause(self.now);
                Did::Pause
            }
            92..95 => {
                self.gate.resume(self.now);
                Did::Resume
            }
            95..97 => self.claim_early(),
            _ => {
                self.gate.expire(self.now);
                Did::Expire
            }
        }
    }

    /// A few operations in a row: what was resolved stays unannounced, or unclaimed.
    fn walk_unseen(&mut self, seed: u64) {
        self.unseen = 1 + self.random.below(6);
        while self.unseen > 0 {
            let did = self.operate(seed);
            self.tracker.now = self.now;
            match did {
                Did::Arrive { lane, class, flow, deadline, saw } => {
                    let deadline = deadline.unwrap_or(Time::NEVER);
                    let newcomer = Newcomer { lane, class, flow, deadline };
                    match saw {
                        Saw::Admitted => {
                            let shadow = !self.limits.lanes[lane].enforce;
                            self.tracker.slots.push(Held::new(lane, shadow));
                        }
                        Saw::Queued(id, until) => self.tracker.join_unsure(newcomer, id, until),
                        Saw::Rejected(_) => {}
                    }
                }
                Did::Complete(held) => self.tracker.give_back(held),
                Did::StayOpen(held) => self.tracker.open(held),
                Did::Abandon { id, .. } => _ = self.tracker.leave(id),
                _ => {}
            }
            self.tracker.learn(&self.gate.snapshot(self.now));
            self.now = self.now + millis(&mut self.random, 2);
            self.unseen -= 1;
        }
        self.gate.expire(self.now);
        self.tracker.now = self.now;
        self.drain_actions();
        let seen = self.gate.snapshot(self.now);
        self.tracker.catch_up(&self.events, &seen);
        self.tracker.compare(&seen, self.gate.next_deadline());
        self.events.clear();
    }

    fn look(&mut self, did: &Did) {
        self.drain_actions();
        let seen = self.gate.snapshot(self.now);
        self.tracker.follow(self.now, did, &self.events, &seen);
        self.tracker.compare(&seen, self.gate.next_deadline());
        self.events.clear();
    }

    fn arrive(&mut self, seed: u64) -> Did {
        let random = &mut self.random;
        let lane = random.below(self.limits.lanes.len() as u64) as usize;
        // Some are more frequent than others.
        let class = random.below(8).min(random.below(8)) as usize;
        let flow = random.below(FLOWS as u64).min(random.below(FLOWS as u64)) as usize;
        let deadline = match random.below(20) {
            0 => Some(self.now - millis(random, 2)),
            1..6 => Some(self.now + millis(random, 90)),
            _ => None,
        };
        let named = Class::new(class as u8).expect("a class");
        let arrival = Arrival { lane, class: named, flow: flow_id(flow, seed), deadline };
        let saw = match self.gate.arrive(self.now, arrival) {
            Verdict::Admitted(slot) => {
                let shadow = !self.limits.lanes[lane].enforce;
                self.slots.push((slot, Held::new(lane, shadow)));
                Saw::Admitted
            }
            Verdict::Rejected(rejection) => {
                assert!((1..=30).contains(&rejection.retry_after));
                Saw::Rejected(rejection.reason)
            }
            Verdict::Queued(ticket, until) => {
                let id = ticket.id();
                // Sometimes a shell claims at once, sometimes only when it is woken.
                let ticket = if self.random.chance(70) {
                    match self.gate.claim(ticket, Waker::noop()) {
                        Claim::Waiting(ticket) => ticket,
                        other => panic!("claimed {other:?} from a ticket that waits"),
                    }
                } else {
                    ticket
                };
                self.tickets.push(ticket);
                Saw::Queued(id, until)
            }
        };
        saw.hash(&mut self.outputs);
        Did::Arrive { lane, class, flow, deadline, saw }
    }

    fn complete(&mut self) -> Did {
        let at = self.random.below(self.slots.len() as u64) as usize;
        let (slot, held) = self.slots.swap_remove(at);
        let outcome = match self.random.below(20) {
            0 => Outcome::Overloaded,
            1 => Outcome::TimedOut,
            2..5 => Outcome::Unknown,
            _ => Outcome::Answered(millis(&mut self.random, 1 + 30 * (held.lane as u64 % 3))),
        };
        self.gate.complete(self.now, slot, outcome);
        Did::Complete(held)
    }

    fn stay_open(&mut self) -> Did {
        let at = self.random.below(self.slots.len() as u64) as usize;
        let (slot, held) = &mut self.slots[at];
        let before = *held;
        let inside = self.limits.lanes[held.lane].kind == LaneKind::Budget;
        held.open = inside && !held.shadow;
        self.gate.stay_open(self.now, slot);
        Did::StayOpen(before)
    }

    fn abandon(&mut self) -> Did {
        let at = self.random.below(self.tickets.len() as u64) as usize;
        let ticket = self.tickets.swap_remove(at);
        let (id, lane) = (ticket.id(), self.tracker.find(ticket.id()).lane);
        let left = match self.gate.abandon(self.now, ticket) {
            Abandoned::Left => true,
            Abandoned::WasRejected => false,
            Abandoned::WasGranted(slot) => {
                assert!(self.unseen > 0, "who was granted a slot was told");
                let held = Held::new(lane, false);
                self.tracker.slots.push(held);
                self.slots.push((slot, held));
                false
            }
        };
        Did::Abandon { id, left }
    }

    fn reconfigure(&mut self) -> Did {
        if self.random.chance(40)
            && let Budget::Fixed(limit) = &mut self.limits.budget
        {
            *limit = self.random.below(9) as u32;
            self.gate.set_limit(self.now, *limit);
            return Did::Reconfigure(self.limits.clone());
        }
        let auto = matches!(self.limits.budget, Budget::Auto(_));
        self.limits.budget = some_budget(&mut self.random, auto);
        if self.random.chance(20) {
            self.limits.floor_period = some_period(&mut self.random);
        }
        if self.random.chance(20) {
            self.limits.hold = some_hold(&mut self.random);
        }
        for lane in &mut self.limits.lanes {
            if self.random.chance(40) {
                *lane = some_lane(&mut self.random, lane.kind);
            }
        }
        if self.limits.lanes.len() < 6 && self.random.chance(2) {
            self.limits.lanes.push(some_lane(&mut self.random, LaneKind::Budget));
        }
        self.gate.reconfigure(self.now, &self.limits);
        Did::Reconfigure(self.limits.clone())
    }

    /// A shell may ask at any time.
    fn claim_early(&mut self) -> Did {
        if self.unseen == 0
            && let Some(ticket) = self.tickets.pop()
        {
            match self.gate.claim(ticket, Waker::noop()) {
                Claim::Waiting(ticket) => self.tickets.insert(0, ticket),
                other => panic!("{other:?} was not announced"),
            }
        }
        self.gate.expire(self.now);
        Did::Expire
    }

    /// Fetches what was resolved, in order; some clients have left in between.
    fn drain_actions(&mut self) {
        while let Some(action) = self.gate.poll_action() {
            let at = self.tickets.iter().position(|ticket| ticket.id() == action.ticket);
            let ticket = self.tickets.swap_remove(at.expect("an action names a ticket"));
            let event = self.resolve(ticket);
            event.hash(&mut self.outputs);
            self.events.push(event);
        }
    }

    fn resolve(&mut self, ticket: Ticket) -> Event {
        let id = ticket.id();
        let lane = self.tracker.find(id).lane;
        let shadow = !self.limits.lanes[lane].enforce;
        let mut event = Event { id, granted: true, reason: None, waited: None };
        if self.unseen == 0 && !self.foggy && self.random.chance(10) {
            match self.gate.abandon(self.now, ticket) {
                Abandoned::WasGranted(slot) => self.slots.push((slot, Held::new(lane, shadow))),
                Abandoned::WasRejected => event.granted = false,
                Abandoned::Left => panic!("who is announced is resolved"),
            }
            return event;
        }
        match self.gate.claim(ticket, Waker::noop()) {
            Claim::Granted(slot, waited) => {
                self.slots.push((slot, Held::new(lane, shadow)));
                event.waited = Some(waited);
            }
            Claim::Rejected(rejection, waited) => {
                (event.granted, event.reason) = (false, Some(rejection.reason));
                event.waited = Some(waited);
            }
            Claim::Waiting(_) => panic!("an action comes with a resolution"),
        }
        event
    }

    /// Ends the walk: everybody is served or turned away, and nothing is held.
    pub fn finish(mut self, by_draining: bool) -> (u64, Seen) {
        if by_draining {
            self.gate.drain(self.now);
            self.look(&Did::Drain);
            assert!(self.tickets.is_empty(), "a drain leaves nobody behind");
        }
        self.gate.resume(self.now);
        self.look(&Did::Resume);
        // Limits go up, so that nobody waits for a slot that cannot come.
        self.limits.budget = Budget::Fixed(8);
        for lane in &mut self.limits.lanes {
            (lane.max_in_flight, lane.reserved) = (Some(4), 0);
        }
        self.gate.reconfigure(self.now, &self.limits);
        self.look(&Did::Reconfigure(self.limits.clone()));
        while !self.slots.is_empty() {
            let did = self.complete();
            self.look(&did);
        }
        assert!(self.tickets.is_empty(), "I4: nobody waits where nothing is in flight");
        self.gate.assert_at_rest();
        let mut seen = self.tracker.seen;
        for lane in &self.tracker.lanes {
            let (rejected, shadow_rejected) = (lane.rejected, lane.shadow_rejected);
            seen.add(&Seen { rejected, shadow_rejected, ..Seen::default() });
        }
        (self.outputs.finish(), seen)
    }
}
