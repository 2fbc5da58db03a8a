//! A gate before an application that is nothing but service times, under virtual time: what the
//! tests of fairness and of standing queues share. And a gate in the hand, for single steps.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::task::Waker;
use std::time::Duration;

use tidegate::gate::{
    Abandoned, Arrival, Budget, Claim, Class, Gate, LaneLimits, Limits, Order, Outcome,
    RejectReason, Slot, Ticket, TicketId, Time, Verdict,
};

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn at(millis: u64) -> Time {
    Time::ZERO + ms(millis)
}

pub fn class(number: u8) -> Class {
    Class::new(number).expect("a class")
}

pub fn limits(budget: u32, lanes: &[LaneLimits]) -> Limits {
    let hold = Duration::from_secs(60);
    Limits { budget: Budget::Fixed(budget), floor_period: 0, hold, lanes: lanes.to_vec() }
}

/// A lane in which nobody waits for more than a second, and whose queue stands after 1.5.
pub fn controlled(order: Order) -> LaneLimits {
    let standing_after = Some(ms(1_500));
    LaneLimits { order, standing_after, ..LaneLimits::plain(1_024, Duration::from_secs(1)) }
}

/// Somebody who sends.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub lane: usize,
    pub class: u8,
    /// `None`: each request is a flow of its own.
    pub flow: Option<u64>,
    pub from: Time,
    pub until: Time,
    /// From one request to the next.
    pub every: Duration,
    /// What the application takes for each.
    pub service: Duration,
}

impl Source {
    /// So many requests a second for a lane, for ever.
    pub fn new(lane: usize, flow: u64, rate: u64, service: Duration) -> Source {
        let every = Duration::from_nanos(1_000_000_000 / rate);
        let (from, until) = (Time::ZERO, Time::NEVER);
        Source { lane, class: 3, flow: Some(flow), from, until, every, service }
    }
}

/// What became of a source's requests.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    pub sent: u64,
    pub admitted: u64,
    /// Seconds of the application.
    pub served: Duration,
    pub rejected: [u64; RejectReason::ALL.len()],
    /// When each that was admitted got its slot, and how long it had waited.
    pub waits: Vec<(Time, Duration)>,
}

impl Fate {
    pub fn lost(&self) -> u64 {
        self.rejected.iter().sum()
    }

    pub fn longest_wait(&self, from: Time) -> Duration {
        let after = self.waits.iter().filter(|(granted, _)| *granted >= from);
        after.map(|(_, waited)| *waited).max().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Complete(usize),
    Arrive(usize),
}

pub struct World {
    pub now: Time,
    pub gate: Gate,
    pub fates: Vec<Fate>,
    sources: Vec<Source>,
    agenda: BinaryHeap<Reverse<(Time, u64, What)>>,
    entries: u64,
    tickets: HashMap<TicketId, (Ticket, usize)>,
    slots: Vec<Option<(Slot, Duration)>>,
}

impl World {
    pub fn new(limits: &Limits, sources: &[Source]) -> World {
        let mut world = World {
            now: Time::ZERO,
            gate: Gate::new(Time::ZERO, limits),
            fates: vec![Fate::default(); sources.len()],
            sources: sources.to_vec(),
            agenda: BinaryHeap::new(),
            entries: 0,
            tickets: HashMap::new(),
            slots: Vec::new(),
        };
        for (index, source) in sources.iter().enumerate() {
            // Nobody keeps step with anybody.
            let offset = source.every * (index as u32 % 16) / 16;
            world.enter(source.from + offset, What::Arrive(index));
        }
        world
    }

    fn enter(&mut self, time: Time, what: What) {
        self.entries += 1;
        self.agenda.push(Reverse((time, self.entries, what)));
    }

    pub fn run(&mut self, until: Time) {
        while let Some(Reverse((time, _, what))) = self.agenda.peek().copied() {
            let due = self.gate.next_deadline().filter(|due| *due <= time.min(until));
            if let Some(due) = due {
                self.now = self.now.max(due);
                self.gate.expire(due);
                let next = self.gate.next_deadline();
                assert!(next.is_none_or(|next| next > due), "whose time is up is turned away");
                self.act();
                continue;
            }
            if time > until {
                break;
            }
            self.agenda.pop();
            self.now = time;
            match what {
                What::Arrive(source) => self.arrive(source),
                What::Complete(slot) => {
                    let (slot, service) = self.slots[slot].take().expect("completes once");
                    self.gate.complete(time, slot, Outcome::Answered(service));
                }
            }
            self.act();
        }
        self.now = until;
        self.gate.audit();
    }

    fn arrive(&mut self, index: usize) {
        let source = self.sources[index];
        if self.now >= source.until {
            return;
        }
        let flow = source.flow.unwrap_or(self.entries.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let class = class(source.class);
        self.enter(self.now + source.every, What::Arrive(index));
        self.fates[index].sent += 1;
        let arrival = Arrival { lane: source.lane, class, flow, deadline: None };
        match self.gate.arrive(self.now, arrival) {
            Verdict::Admitted(slot) => self.serve(index, slot, Duration::ZERO),
            Verdict::Queued(ticket, _) => _ = self.tickets.insert(ticket.id(), (ticket, index)),
            Verdict::Rejected(why) => self.fates[index].rejected[why.reason as usize] += 1,
        }
    }

    fn serve(&mut self, index: usize, slot: Slot, waited: Duration) {
        let service = self.sources[index].service;
        let fate = &mut self.fates[index];
        fate.admitted += 1;
        fate.served += service;
        fate.waits.push((self.now, waited));
        self.slots.push(Some((slot, service)));
        self.enter(self.now + service, What::Complete(self.slots.len() - 1));
    }

    fn act(&mut self) {
        while let Some(action) = self.gate.poll_action() {
            let (ticket, index) = self.tickets.remove(&action.ticket).expect("a known ticket");
            match self.gate.claim(ticket, Waker::noop()) {
                Claim::Granted(slot, waited) => self.serve(index, slot, waited),
                Claim::Rejected(why, _) => self.fates[index].rejected[why.reason as usize] += 1,
                Claim::Waiting(_) => panic!("an action comes with a resolution"),
            }
        }
    }

    /// Forgets what was seen up to now: a test looks at what comes after a start.
    pub fn look_afresh(&mut self) {
        self.fates.fill(Fate::default());
    }

    /// Nobody sends any more; everything ends, and nothing is held.
    pub fn end(mut self) -> Vec<Fate> {
        for source in &mut self.sources {
            source.until = self.now;
        }
        let end = self.now + Duration::from_secs(100_000);
        self.run(end);
        self.gate.assert_at_rest();
        self.fates
    }
}

/// Jain's fairness index: 1 where all have the same, 1/n where one has all.
pub fn jain(shares: impl Iterator<Item = f64> + Clone) -> f64 {
    let (sum, count) = (shares.clone().sum::<f64>(), shares.clone().count() as f64);
    sum * sum / (count * shares.map(|share| share * share).sum::<f64>())
}

/// A gate in the hand: requests have names, and what becomes of them is read as a line of text.
pub struct Hand {
    pub gate: Gate,
    pub now: Time,
    tickets: Vec<(&'static str, Ticket)>,
    slots: Vec<(&'static str, Slot)>,
    told: Vec<String>,
}

impl Hand {
    pub fn new(limits: &Limits) -> Hand {
        let gate = Gate::new(Time::ZERO, limits);
        Hand { gate, now: Time::ZERO, tickets: vec![], slots: vec![], told: vec![] }
    }

    pub fn send(&mut self, name: &'static str, arrival: Arrival) -> Option<Time> {
        let verdict = self.gate.arrive(self.now, arrival);
        self.act();
        match verdict {
            Verdict::Admitted(slot) => {
                self.told.push(format!("{name} goes"));
                self.slots.push((name, slot));
            }
            Verdict::Rejected(why) => self.told.push(format!("{name} {}", why.reason.label())),
            Verdict::Queued(ticket, until) => {
                self.tickets.push((name, ticket));
                return Some(until);
            }
        }
        None
    }

    /// Who has this name is done, after so long a time in the application.
    pub fn complete(&mut self, name: &str, service: Duration) {
        let at = self.slots.iter().position(|(n, _)| *n == name).expect("has a slot");
        let (_, slot) = self.slots.swap_remove(at);
        self.gate.complete(self.now, slot, Outcome::Answered(service));
        self.act();
    }

    pub fn abandon(&mut self, name: &str) {
        let at = self.tickets.iter().position(|(n, _)| *n == name).expect("has a ticket");
        let (_, ticket) = self.tickets.swap_remove(at);
        match self.gate.abandon(self.now, ticket) {
            Abandoned::WasGranted(slot) => self.gate.complete(self.now, slot, Outcome::Unknown),
            Abandoned::Left | Abandoned::WasRejected => {}
        }
        self.act();
    }

    /// Does something else to the gate.
    pub fn with(&mut self, does: impl FnOnce(&mut Gate, Time)) {
        does(&mut self.gate, self.now);
        self.act();
    }

    pub fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.gate.expire(self.now);
        self.act();
    }

    /// What has become known since this was asked last.
    pub fn told(&mut self) -> String {
        self.gate.audit();
        std::mem::take(&mut self.told).join(", ")
    }

    /// So many requests that take `service` each, so that the gate knows how long they take.
    pub fn teach(&mut self, lane: usize, service: Duration, count: u32) {
        for _ in 0..count {
            self.send("pupil", Arrival::at(lane));
            self.now = self.now + service;
            self.complete("pupil", service);
        }
        self.told.clear();
    }

    fn act(&mut self) {
        while let Some(action) = self.gate.poll_action() {
            let at = self.tickets.iter().position(|(_, t)| t.id() == action.ticket);
            let (name, ticket) = self.tickets.swap_remove(at.expect("a known ticket"));
            match self.gate.claim(ticket, Waker::noop()) {
                Claim::Granted(slot, _) => {
                    self.told.push(format!("{name} goes"));
                    self.slots.push((name, slot));
                }
                Claim::Rejected(why, _) => {
                    self.told.push(format!("{name} {}", why.reason.label()));
                }
                Claim::Waiting(_) => panic!("an action comes with a resolution"),
            }
        }
    }

    /// Everything ends, and nothing is held.
    pub fn end(mut self) {
        self.with(Gate::drain);
        for (_, slot) in self.slots.drain(..) {
            self.gate.complete(self.now, slot, Outcome::Unknown);
        }
        self.gate.assert_at_rest();
    }
}
