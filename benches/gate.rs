//! What a decision costs: `cargo bench --bench gate`.
//!
//! Instructions instead of time, where the machine is noisy: build with
//! `cargo bench --bench gate --no-run`, then run the binary that it names under
//! `valgrind --tool=callgrind --toggle-collect='*Gate*arrive*' BINARY --bench --profile-time 1 crowd`.

#![allow(missing_docs)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::admission::{Admission, Entry};
use tidegate::gate::{
    Arrival, Budget, Claim, Class, Gate, LaneLimits, Limits, Outcome, Slot, Ticket, TicketId, Time,
    Verdict,
};

const WAITING: u64 = 10_000;
const FLOWS: u64 = 64;
const LANES: u64 = 16;
const SLOTS: usize = 16;

fn limits(lanes: usize, max_in_flight: u32) -> Limits {
    let standing_after = Some(Duration::from_secs(5_400));
    let plain = LaneLimits::plain(20_000, Duration::from_secs(3_600));
    let lane = LaneLimits { standing_after, ..plain };
    Limits {
        budget: Budget::Fixed(max_in_flight),
        floor_period: 20,
        hold: Duration::ZERO,
        lanes: vec![lane; lanes],
    }
}

fn admitted(verdict: Verdict) -> Slot {
    match verdict {
        Verdict::Admitted(slot) => slot,
        other => panic!("expected a slot, got {other:?}"),
    }
}

fn uncontended(criterion: &mut Criterion) {
    let mut gate = Gate::new(Time::ZERO, &limits(1, 16));
    let mut now = 0;
    criterion.bench_function("gate: arrive, complete", |bencher| {
        bencher.iter(|| {
            now += 1_000;
            let slot = admitted(gate.arrive(black_box(Time::from_nanos(now)), Arrival::at(0)));
            let outcome = Outcome::Answered(Duration::from_micros(now & 0xfff));
            gate.complete(Time::from_nanos(now + 500), slot, outcome);
        });
    });
    let admission = Admission::new(&limits(1, 16));
    criterion.bench_function("admission: enter, drop (with lock and clock)", |bencher| {
        bencher.iter(|| enter(&admission));
    });
}

fn enter(admission: &Arc<Admission>) {
    match admission.enter(Arrival::at(0)) {
        Entry::Admitted(permit) => drop(black_box(permit)),
        other => panic!("expected a permit, got {other:?}"),
    }
}

/// A gate with a crowd before it: many flows and all classes in several lanes.
struct Crowd {
    gate: Gate,
    now: u64,
    slots: Vec<Slot>,
    tickets: HashMap<TicketId, Ticket, BuildHasherDefault<Fold>>,
}

/// Hashes two numbers in no time: what the bench keeps is not what it measures.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a ticket's name is two numbers");
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Crowd {
    fn new() -> Crowd {
        let gate = Gate::new(Time::ZERO, &limits(LANES as usize, SLOTS as u32));
        let mut crowd = Crowd { gate, now: 0, slots: Vec::new(), tickets: HashMap::default() };
        for _ in 0..SLOTS {
            let slot = admitted(crowd.gate.arrive(Time::ZERO, Arrival::at(0)));
            crowd.slots.push(slot);
        }
        (0..WAITING).for_each(|_| crowd.queue());
        // Through the warm-up of each flow and lane.
        (0..WAITING).for_each(|_| crowd.turn());
        crowd
    }

    fn queue(&mut self) {
        self.now += 1_000;
        let n = (self.now / 1_000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let arrival = Arrival {
            lane: ((n >> 60) % LANES) as usize,
            class: Class::new((n >> 50) as u8 % 8).expect("a class"),
            flow: ((n >> 40) % FLOWS).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            deadline: None,
        };
        match self.gate.arrive(Time::from_nanos(self.now), arrival) {
            Verdict::Queued(ticket, _) => _ = self.tickets.insert(ticket.id(), ticket),
            other => panic!("there are places: {other:?}"),
        }
    }

    /// One request arrives behind 10,000, and a slot goes to the next of them.
    fn turn(&mut self) {
        self.queue();
        let slot = self.slots.swap_remove(self.now as usize / 1_000 % SLOTS);
        let outcome = Outcome::Answered(Duration::from_micros(self.now & 0xfff));
        self.gate.complete(Time::from_nanos(self.now + 500), slot, outcome);
        let action = self.gate.poll_action().expect("somebody waits");
        let ticket = self.tickets.remove(&action.ticket).expect("an action names a ticket");
        match self.gate.claim(ticket, Waker::noop()) {
            Claim::Granted(granted, _) => self.slots.push(granted),
            other => panic!("expected a slot, got {other:?}"),
        }
    }
}

fn crowded(criterion: &mut Criterion) {
    let mut crowd = Crowd::new();
    let name = "gate: arrive, complete, claim in a crowd of 10,000 (16 lanes, 8 classes, 64 flows)";
    criterion.bench_function(name, |bencher| bencher.iter(|| crowd.turn()));
    let mut times: Vec<_> = (0..200_000)
        .map(|_| {
            let began = Instant::now();
            crowd.turn();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    let of = |per_mille: usize| times[times.len() * per_mille / 1_000];
    println!("each of the same: median {:?}, p99 {:?}, p99.9 {:?}", of(500), of(990), of(999));
    // What is left must not be dropped: a slot or ticket that is lost is a bug that ends the
    // process.
    std::mem::forget(crowd);
}

/// Two workers at one gate.
fn contended(criterion: &mut Criterion) {
    let admission = Admission::new(&limits(1, 16));
    let mut group = criterion.benchmark_group("admission");
    group.throughput(Throughput::Elements(2));
    group.bench_function("two threads, each: enter, drop", |bencher| {
        bencher.iter_custom(|rounds| {
            let began = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| (0..rounds).for_each(|_| enter(&admission)));
                }
            });
            began.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, uncontended, crowded, contended);
criterion_main!(benches);
