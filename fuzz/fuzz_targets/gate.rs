//! Any sequence of operations on a gate: its own audit holds after each, what is granted is within
//! the limit, and at the end nothing is held.

#![no_main]

use std::task::Waker;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tidegate::gate::{
    Abandoned, Arrival, AutoLimits, Budget, Claim, Class, Gate, LaneKind, LaneLimits, Limits,
    Order, Outcome, Slot, Ticket, Time, Verdict,
};

/// The bytes that decide.
struct Dice<'d>(&'d [u8]);

impl Dice<'_> {
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.next().unwrap_or_default() % bound
    }
}

struct World {
    gate: Gate,
    now: Time,
    limits: Limits,
    tickets: Vec<Ticket>,
    slots: Vec<Slot>,
}

fuzz_target!(|data: &[u8]| {
    let mut dice = Dice(data);
    let limits = limits(&mut dice, None);
    let mut world = World {
        gate: Gate::new(Time::ZERO, &limits),
        now: Time::ZERO,
        limits,
        tickets: Vec::new(),
        slots: Vec::new(),
    };
    let mut steps = 0;
    while let Some(operation) = dice.next() {
        world.step(operation, &mut dice);
        world.gate.audit();
        steps += 1;
        // A snapshot costs more than all the rest.
        if steps % 16 == 0 {
            world.check();
        }
    }
    world.check();
    world.end();
});

fn limits(dice: &mut Dice<'_>, before: Option<&Limits>) -> Limits {
    let lanes = before.map_or(1 + dice.below(3), |limits| limits.lanes.len() as u8);
    let lane = |index: u8, dice: &mut Dice<'_>| {
        let kind = match before.map(|limits| limits.lanes[usize::from(index)].kind) {
            Some(kind) => kind,
            None if dice.below(4) == 0 => LaneKind::Beside,
            None => LaneKind::Budget,
        };
        let capped = kind == LaneKind::Beside || dice.below(3) == 0;
        LaneLimits {
            kind,
            max_in_flight: capped.then(|| u32::from(dice.below(5))),
            reserved: u32::from(dice.below(8).saturating_sub(5)),
            max_queue: u32::from(dice.below(12)),
            max_wait: Duration::from_millis(u64::from(dice.below(40)) * 10),
            order: [Order::Fifo, Order::Lifo, Order::Adaptive][usize::from(dice.below(3))],
            standing_after: (dice.below(2) == 0)
                .then(|| Duration::from_millis(u64::from(dice.below(30)))),
            enforce: dice.below(6) != 0,
        }
    };
    let lanes = (0..lanes).map(|index| lane(index, dice)).collect();
    let budget = if dice.below(3) == 0 {
        let (min, max) = (u32::from(dice.below(5)), u32::from(dice.below(12)));
        Budget::Auto(AutoLimits { min, max, max_latency: None })
    } else {
        Budget::Fixed(u32::from(dice.below(6)))
    };
    let hold = Duration::from_millis(u64::from(dice.below(60)));
    Limits { budget, floor_period: [0, 8, 20][usize::from(dice.below(3))], hold, lanes }
}

impl World {
    fn step(&mut self, operation: u8, dice: &mut Dice<'_>) {
        match operation % 16 {
            0..=5 => self.arrive(dice),
            6..=8 => self.complete(dice),
            9 => self.claim(dice),
            10 => self.abandon(dice),
            11 if !self.slots.is_empty() && dice.below(3) == 0 => {
                let at = usize::from(dice.below(255)) % self.slots.len();
                self.gate.stay_open(self.now, &mut self.slots[at]);
            }
            11 | 12 => {
                self.now = self.now + Duration::from_micros(u64::from(dice.below(255)) * 200);
                self.gate.expire(self.now);
            }
            13 => {
                if let Some(deadline) = self.gate.next_deadline() {
                    self.now = self.now.max(deadline);
                    self.gate.expire(self.now);
                }
            }
            14 if dice.below(2) == 0 => self.gate.pause(self.now),
            14 => self.gate.resume(self.now),
            _ => match dice.below(8) {
                0 => self.gate.drain(self.now),
                _ => {
                    self.limits = limits(dice, Some(&self.limits));
                    self.gate.reconfigure(self.now, &self.limits);
                }
            },
        }
        while self.gate.poll_action().is_some() {}
    }

    fn arrive(&mut self, dice: &mut Dice<'_>) {
        let lane = usize::from(dice.below(self.limits.lanes.len() as u8));
        let hurry = dice.below(4) == 0;
        let arrival = Arrival {
            lane,
            class: Class::new(dice.below(8)).expect("at most 7"),
            flow: u64::from(dice.below(4)),
            deadline: hurry.then(|| self.now + Duration::from_millis(u64::from(dice.below(100)))),
        };
        match self.gate.arrive(self.now, arrival) {
            Verdict::Admitted(slot) => self.slots.push(slot),
            Verdict::Queued(ticket, until) => {
                assert!(until >= self.now);
                self.tickets.push(ticket);
            }
            Verdict::Rejected(_) => {}
        }
    }

    fn complete(&mut self, dice: &mut Dice<'_>) {
        if self.slots.is_empty() {
            return;
        }
        let slot = self.slots.swap_remove(usize::from(dice.below(255)) % self.slots.len());
        let outcome = match dice.below(8) {
            0 => Outcome::Overloaded,
            1 => Outcome::TimedOut,
            2 => Outcome::Unknown,
            _ => Outcome::Answered(Duration::from_micros(u64::from(dice.below(255)) * 100)),
        };
        self.gate.complete(self.now, slot, outcome);
    }

    fn claim(&mut self, dice: &mut Dice<'_>) {
        if self.tickets.is_empty() {
            return;
        }
        let ticket = self.tickets.swap_remove(usize::from(dice.below(255)) % self.tickets.len());
        match self.gate.claim(ticket, Waker::noop()) {
            Claim::Granted(slot, _) => self.slots.push(slot),
            Claim::Rejected(..) => {}
            Claim::Waiting(ticket) => self.tickets.push(ticket),
        }
    }

    fn abandon(&mut self, dice: &mut Dice<'_>) {
        if self.tickets.is_empty() {
            return;
        }
        let ticket = self.tickets.swap_remove(usize::from(dice.below(255)) % self.tickets.len());
        if let Abandoned::WasGranted(slot) = self.gate.abandon(self.now, ticket) {
            self.gate.complete(self.now, slot, Outcome::Unknown);
        }
    }

    /// I3: everything that arrived is somewhere.
    fn check(&mut self) {
        for lane in self.gate.snapshot(self.now).lanes {
            let ended: u64 = lane.rejected.iter().sum();
            let known = lane.admitted + ended + lane.abandoned + u64::from(lane.queue_depth);
            assert_eq!(lane.arrivals, known, "what arrived is somewhere");
        }
    }

    fn end(mut self) {
        while let Some(ticket) = self.tickets.pop() {
            if let Abandoned::WasGranted(slot) = self.gate.abandon(self.now, ticket) {
                self.gate.complete(self.now, slot, Outcome::Unknown);
            }
        }
        while let Some(slot) = self.slots.pop() {
            self.gate.complete(self.now, slot, Outcome::Unknown);
        }
        while self.gate.poll_action().is_some() {}
        self.gate.assert_at_rest();
    }
}
