//! What a decision costs: `cargo bench --bench gate`.

#![allow(missing_docs)]

use std::hint::black_box;
use std::task::Waker;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::admission::{Admission, Entry};
use tidegate::gate::{
    Arrival, Budget, Claim, Gate, LaneLimits, Limits, Outcome, Slot, Time, Verdict,
};

fn limits(lanes: usize, max_in_flight: u32) -> Limits {
    let lane = LaneLimits::plain(20_000, Duration::from_secs(3_600));
    let budget = Budget::Fixed(max_in_flight);
    Limits { budget, floor_period: 0, lanes: vec![lane; lanes] }
}

fn admitted(verdict: Verdict) -> Slot {
    match verdict {
        Verdict::Admitted(slot) => slot,
        other => panic!("expected a slot, got {other:?}"),
    }
}

fn uncontended(criterion: &mut Criterion) {
    let mut gate = Gate::new(Time::ZERO, &limits(1, 16));
    criterion.bench_function("gate: arrive, complete", |bencher| {
        bencher.iter(|| {
            let slot = admitted(gate.arrive(black_box(Time::ZERO), Arrival::at(0)));
            gate.complete(Time::ZERO, slot, Outcome::Unknown);
        });
    });
    let admission = Admission::new(&limits(1, 16));
    criterion.bench_function("admission: enter, drop (with lock and clock)", |bencher| {
        bencher.iter(|| match admission.enter(Arrival::at(0)) {
            Entry::Admitted(permit) => drop(black_box(permit)),
            other => panic!("expected a permit, got {other:?}"),
        });
    });
}

/// One request arrives behind 10,000, and the slot goes to the first of them.
fn crowded(criterion: &mut Criterion) {
    let mut gate = Gate::new(Time::ZERO, &limits(64, 1));
    let mut slot = Some(admitted(gate.arrive(Time::ZERO, Arrival::at(0))));
    let mut tickets = std::collections::HashMap::new();
    let mut now = 0;
    let queue = |gate: &mut Gate, tickets: &mut std::collections::HashMap<_, _>, now: u64| {
        let Verdict::Queued(ticket, _) =
            gate.arrive(Time::from_nanos(now), Arrival::at(now as usize % 64))
        else {
            panic!("there are places");
        };
        tickets.insert(ticket.id(), ticket);
    };
    for _ in 0..10_000 {
        now += 1;
        queue(&mut gate, &mut tickets, now);
    }
    criterion.bench_function(
        "gate: arrive, complete, claim behind 10,000 in 64 lanes",
        |bencher| {
            bencher.iter(|| {
                now += 1;
                queue(&mut gate, &mut tickets, now);
                gate.complete(
                    Time::from_nanos(now),
                    slot.take().expect("one slot goes round"),
                    Outcome::Unknown,
                );
                let action = gate.poll_action().expect("somebody waits");
                let ticket = tickets.remove(&action.ticket).expect("an action names a ticket");
                match gate.claim(ticket, Waker::noop()) {
                    Claim::Granted(granted, _) => slot = Some(granted),
                    other => panic!("expected a slot, got {other:?}"),
                }
            });
        },
    );
    // What is left must not be dropped: a slot or ticket that is lost is a bug that ends the
    // process.
    std::mem::forget((slot, tickets));
}

criterion_group!(benches, uncontended, crowded);
criterion_main!(benches);
