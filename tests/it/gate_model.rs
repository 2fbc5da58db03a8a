//! The gate against a naive model: random walks in which every answer and every count must agree.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use tidegate::gate::{
    Abandoned, Arrival, Budget, Claim, Gate, LaneKind, LaneLimits, Limits, Outcome, RejectReason,
    Slot, Ticket, TicketId, Time, Verdict,
};

use crate::random::{Random, seeds};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Granted,
    Rejected(RejectReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Reserved,
    Shared,
    Beside,
}

struct ModelLane {
    limits: LaneLimits,
    in_flight: u32,
    queue: VecDeque<(u64, Time)>,
    arrivals: u64,
    admitted: u64,
    abandoned: u64,
    rejected: [u64; RejectReason::ALL.len()],
}

/// Everything in plain lists, every question answered by a scan.
struct Model {
    limit: u32,
    lanes: Vec<ModelLane>,
    turns: Vec<(usize, Turn)>,
    draining: bool,
    fates: Vec<Fate>,
}

impl ModelLane {
    fn reserved(&self) -> u32 {
        match self.limits.kind {
            LaneKind::Budget => {
                self.limits.reserved.min(self.limits.max_in_flight.unwrap_or(u32::MAX))
            }
            LaneKind::Beside => 0,
        }
    }
    fn capped(&self) -> bool {
        self.limits.max_in_flight.is_some_and(|cap| self.in_flight >= cap)
    }
    fn turn(&self) -> Turn {
        match self.limits.kind {
            LaneKind::Beside => Turn::Beside,
            LaneKind::Budget if self.in_flight < self.reserved() => Turn::Reserved,
            LaneKind::Budget => Turn::Shared,
        }
    }
}

fn fixed(limits: &Limits) -> u32 {
    match limits.budget {
        Budget::Fixed(limit) => limit,
        Budget::Auto(_) => unreachable!("the model has fixed budgets"),
    }
}

impl Model {
    fn new(limits: &Limits) -> Model {
        let lanes = limits.lanes.iter().map(|&limits| ModelLane {
            limits,
            in_flight: 0,
            queue: VecDeque::new(),
            arrivals: 0,
            admitted: 0,
            abandoned: 0,
            rejected: [0; RejectReason::ALL.len()],
        });
        let (limit, lanes) = (fixed(limits), lanes.collect());
        Model { limit, lanes, turns: Vec::new(), draining: false, fates: Vec::new() }
    }

    fn in_flight(&self) -> u32 {
        let budget = self.lanes.iter().filter(|lane| lane.limits.kind == LaneKind::Budget);
        budget.map(|lane| lane.in_flight).sum()
    }

    fn allowed(&self, lane: usize) -> bool {
        if self.lanes[lane].capped() {
            return false;
        }
        let set_aside: u32 = self.lanes.iter().map(ModelLane::reserved).sum();
        let shared: u32 = self
            .lanes
            .iter()
            .filter(|lane| lane.limits.kind == LaneKind::Budget)
            .map(|lane| lane.in_flight.saturating_sub(lane.reserved()))
            .sum();
        match self.lanes[lane].turn() {
            Turn::Beside => true,
            Turn::Reserved => self.in_flight() < self.limit,
            Turn::Shared => {
                self.in_flight() < self.limit && shared < self.limit.saturating_sub(set_aside)
            }
        }
    }

    /// Keeps the order of turns: a lane that changes its list goes to the end of the new one.
    fn refile(&mut self, lane: usize, to_the_end: bool) {
        let here = &self.lanes[lane];
        let ready = !here.queue.is_empty() && !here.capped();
        let belongs = ready.then(|| here.turn());
        let stands = self.turns.iter().find(|(l, _)| *l == lane).map(|(_, turn)| *turn);
        if to_the_end || belongs != stands {
            self.turns.retain(|(l, _)| *l != lane);
            self.turns.extend(belongs.map(|turn| (lane, turn)));
        }
    }

    fn dispatch(&mut self) {
        loop {
            let next = [Turn::Beside, Turn::Reserved, Turn::Shared].into_iter().find_map(|turn| {
                let first = self.turns.iter().find(|(_, t)| *t == turn)?;
                self.allowed(first.0).then_some(first.0)
            });
            let Some(lane) = next else { return };
            let (id, _) = self.lanes[lane].queue.pop_front().expect("a lane in turn has a waiter");
            self.refile(lane, false);
            self.lanes[lane].in_flight += 1;
            self.lanes[lane].admitted += 1;
            self.fates[id as usize] = Fate::Granted;
            self.refile(lane, true);
        }
    }

    fn reject_where(&mut self, reason: RejectReason, gone: impl Fn(Time) -> bool) {
        for lane in 0..self.lanes.len() {
            let here = &mut self.lanes[lane];
            for (id, _) in here.queue.iter().filter(|(_, deadline)| gone(*deadline)) {
                self.fates[*id as usize] = Fate::Rejected(reason);
                here.rejected[reason as usize] += 1;
            }
            here.queue.retain(|(_, deadline)| !gone(*deadline));
            self.refile(lane, false);
        }
    }

    fn expire(&mut self, now: Time) {
        self.reject_where(RejectReason::MaxWait, |deadline| deadline <= now);
    }

    fn arrive(&mut self, now: Time, lane: usize) -> Fate {
        self.expire(now);
        let allowed = self.allowed(lane);
        let here = &mut self.lanes[lane];
        here.arrivals += 1;
        let fate = if self.draining {
            Fate::Rejected(RejectReason::Draining)
        } else if here.queue.is_empty() && allowed {
            here.in_flight += 1;
            here.admitted += 1;
            Fate::Granted
        } else if here.queue.len() >= here.limits.max_queue as usize {
            Fate::Rejected(RejectReason::QueueFull)
        } else if here.limits.max_wait.is_zero() {
            Fate::Rejected(RejectReason::MaxWait)
        } else {
            here.queue.push_back((self.fates.len() as u64, now + here.limits.max_wait));
            Fate::Waiting
        };
        if let Fate::Rejected(reason) = fate {
            here.rejected[reason as usize] += 1;
        }
        self.fates.push(fate);
        self.refile(lane, false);
        fate
    }

    fn complete(&mut self, now: Time, lane: usize) {
        self.expire(now);
        self.lanes[lane].in_flight -= 1;
        self.refile(lane, false);
        self.dispatch();
    }

    fn abandon(&mut self, now: Time, lane: usize, id: u64) {
        self.expire(now);
        let before = self.lanes[lane].queue.len();
        self.lanes[lane].queue.retain(|(waiter, _)| *waiter != id);
        if self.lanes[lane].queue.len() < before {
            self.lanes[lane].abandoned += 1;
        }
        self.refile(lane, false);
    }

    fn reconfigure(&mut self, now: Time, limits: &Limits) {
        self.expire(now);
        self.limit = fixed(limits);
        for (lane, lane_limits) in limits.lanes.iter().enumerate() {
            self.lanes[lane].limits = *lane_limits;
            self.refile(lane, false);
        }
        self.dispatch();
    }
}

/// The gate, the model, and what a shell would hold.
struct Walk {
    random: Random,
    now: Time,
    gate: Gate,
    model: Model,
    limits: Limits,
    tickets: Vec<(u64, usize, Ticket)>,
    slots: Vec<Slot>,
}

fn some_lane(random: &mut Random, kind: LaneKind) -> LaneLimits {
    LaneLimits {
        kind,
        max_in_flight: match kind {
            LaneKind::Beside => Some(random.below(5) as u32),
            LaneKind::Budget => random.chance(40).then(|| random.below(5) as u32),
        },
        reserved: if random.chance(30) { random.below(4) as u32 } else { 0 },
        ..LaneLimits::plain(
            random.below(9) as u32,
            Duration::from_micros(if random.chance(5) { 0 } else { random.below(300) }),
        )
    }
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut random = Random::new(seed);
        let lanes = (0..1 + random.below(5)).map(|_| {
            let kind = if random.chance(20) { LaneKind::Beside } else { LaneKind::Budget };
            some_lane(&mut random, kind)
        });
        let lanes: Vec<_> = lanes.collect();
        let budget = Budget::Fixed(random.below(9) as u32);
        let limits = Limits { budget, floor_period: 0, lanes };
        let (gate, model) = (Gate::new(Time::ZERO, &limits), Model::new(&limits));
        let (tickets, slots) = (Vec::new(), Vec::new());
        Walk { random, now: Time::ZERO, gate, model, limits, tickets, slots }
    }

    fn step(&mut self) {
        if self.random.chance(70) {
            self.now = self.now + Duration::from_nanos(self.random.below(60_000));
        }
        match self.random.below(100) {
            0..48 => self.arrive(),
            48..80 => self.complete(),
            80..88 => self.abandon(),
            88..96 => {
                self.gate.expire(self.now);
                self.model.expire(self.now);
            }
            96..99 => self.reconfigure(),
            _ => self.claim_anything(),
        }
        if self.random.chance(60) {
            self.drain_actions();
        }
    }

    fn arrive(&mut self) {
        let lane = self.random.below(self.limits.lanes.len() as u64) as usize;
        let expected = self.model.arrive(self.now, lane);
        let id = self.model.fates.len() as u64 - 1;
        match (self.gate.arrive(self.now, Arrival::at(lane)), expected) {
            (Verdict::Admitted(slot), Fate::Granted) => self.slots.push(slot),
            (Verdict::Queued(ticket, _), Fate::Waiting) => {
                // Sometimes a shell claims at once, sometimes only when it is woken.
                if self.random.chance(70) {
                    match self.gate.claim(ticket, Waker::noop()) {
                        Claim::Waiting(ticket) => self.tickets.push((id, lane, ticket)),
                        other => panic!("claimed {other:?} from a ticket that waits"),
                    }
                } else {
                    self.tickets.push((id, lane, ticket));
                }
            }
            (Verdict::Rejected(rejection), Fate::Rejected(reason)) => {
                assert_eq!(rejection.reason, reason);
                assert!((1..=30).contains(&rejection.retry_after));
            }
            (verdict, expected) => panic!("the gate said {verdict:?}, the model {expected:?}"),
        }
    }

    fn complete(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        let at = self.random.below(self.slots.len() as u64) as usize;
        let slot = self.slots.swap_remove(at);
        self.model.complete(self.now, slot.lane());
        self.gate.complete(self.now, slot, Outcome::Unknown);
    }

    fn abandon(&mut self) {
        if self.tickets.is_empty() {
            return;
        }
        let at = self.random.below(self.tickets.len() as u64) as usize;
        let (id, lane, ticket) = self.tickets.swap_remove(at);
        self.model.abandon(self.now, lane, id);
        match (self.gate.abandon(self.now, ticket), self.model.fates[id as usize]) {
            (Abandoned::Left, Fate::Waiting) | (Abandoned::WasRejected, Fate::Rejected(_)) => {}
            (Abandoned::WasGranted(slot), Fate::Granted) => {
                self.model.complete(self.now, lane);
                self.gate.complete(self.now, slot, Outcome::Unknown);
            }
            (abandoned, fate) => panic!("the gate said {abandoned:?}, the model {fate:?}"),
        }
    }

    fn reconfigure(&mut self) {
        self.limits.budget = Budget::Fixed(self.random.below(9) as u32);
        for lane in 0..self.limits.lanes.len() {
            if self.random.chance(50) {
                let kind = self.limits.lanes[lane].kind;
                self.limits.lanes[lane] = some_lane(&mut self.random, kind);
            }
        }
        self.model.reconfigure(self.now, &self.limits);
        self.gate.reconfigure(self.now, &self.limits);
    }

    fn claim_anything(&mut self) {
        if !self.tickets.is_empty() {
            let at = self.random.below(self.tickets.len() as u64) as usize;
            self.claim(at);
        }
    }

    fn claim(&mut self, at: usize) {
        let (id, lane, ticket) = self.tickets.swap_remove(at);
        match (self.gate.claim(ticket, Waker::noop()), self.model.fates[id as usize]) {
            (Claim::Waiting(ticket), Fate::Waiting) => self.tickets.push((id, lane, ticket)),
            (Claim::Granted(slot, _), Fate::Granted) => self.slots.push(slot),
            (Claim::Rejected(rejection, _), Fate::Rejected(reason)) => {
                assert_eq!(rejection.reason, reason);
            }
            (claim, fate) => panic!("the gate said {claim:?}, the model {fate:?}"),
        }
    }

    fn drain_actions(&mut self) {
        while let Some(action) = self.gate.poll_action() {
            let named = |ticket: &Ticket| -> TicketId { ticket.id() };
            let at = self.tickets.iter().position(|(_, _, t)| named(t) == action.ticket);
            let at = at.expect("an action names a ticket that somebody holds");
            let before = self.tickets.len();
            self.claim(at);
            assert_eq!(self.tickets.len(), before - 1, "an action comes with a resolution");
        }
    }

    fn compare(&self) {
        let snapshot = self.gate.snapshot(self.now);
        assert_eq!(snapshot.in_flight, self.model.in_flight());
        for (lane, model) in snapshot.lanes.iter().zip(&self.model.lanes) {
            assert_eq!(lane.queue_depth as usize, model.queue.len());
            assert_eq!(lane.in_flight, model.in_flight);
            assert_eq!(lane.rejected, model.rejected);
            let counts = (lane.arrivals, lane.admitted, lane.abandoned);
            assert_eq!(counts, (model.arrivals, model.admitted, model.abandoned));
        }
        let deadlines = self.model.lanes.iter().flat_map(|lane| &lane.queue);
        assert_eq!(self.gate.next_deadline(), deadlines.map(|(_, deadline)| *deadline).min());
    }

    fn finish(mut self, by_draining: bool) {
        if by_draining {
            self.gate.drain(self.now);
            self.model.expire(self.now);
            self.model.draining = true;
            self.model.reject_where(RejectReason::Draining, |_| true);
            self.compare();
        }
        // Limits go up, so that nobody waits for a slot that cannot come.
        self.limits.budget = Budget::Fixed(8);
        for lane in &mut self.limits.lanes {
            (lane.max_in_flight, lane.reserved) = (Some(4), 0);
        }
        self.model.reconfigure(self.now, &self.limits);
        self.gate.reconfigure(self.now, &self.limits);
        while !self.slots.is_empty() || !self.tickets.is_empty() {
            self.drain_actions();
            self.complete();
            while !self.tickets.is_empty() && self.slots.is_empty() {
                self.claim(self.tickets.len() - 1);
            }
        }
        self.compare();
        self.gate.assert_at_rest();
        for lane in self.gate.snapshot(self.now).lanes {
            let ends = lane.admitted + lane.abandoned + lane.rejected.iter().sum::<u64>();
            assert_eq!(lane.arrivals, ends, "at rest every arrival has ended");
        }
    }
}

#[test]
fn a_million_operations_agree_with_the_model() {
    for seed in seeds(1..=100) {
        println!("TIDEGATE_SEED={seed}");
        let mut walk = Walk::new(seed);
        for operation in 0..10_000 {
            walk.step();
            walk.compare();
            if operation % 1_024 == 0 {
                walk.gate.audit();
            }
        }
        walk.finish(seed % 2 == 0);
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = |seed| {
        let mut walk = Walk::new(seed);
        (0..5_000).for_each(|_| walk.step());
        let snapshot = walk.gate.snapshot(walk.now);
        walk.finish(false);
        snapshot
    };
    for seed in seeds(1..=20) {
        println!("TIDEGATE_SEED={seed}");
        assert_eq!(run(seed), run(seed));
    }
}
