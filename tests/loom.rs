//! The shell of the gate under every interleaving of its threads: no wake-up is lost, and no slot is
//! given back twice or never.
//!
//! ```text
//! RUSTFLAGS="--cfg tidegate_loom" CARGO_TARGET_DIR=target/loom cargo test --release --test loom
//! ```
//!
//! `src/admission/shared.rs` is built here a second time, with loom's lock instead of the standard
//! one. A lost wake-up shows as a deadlock; a slot that is lost or given back twice breaks an
//! invariant of the gate, at the latest in [`at_rest`].
#![cfg(tidegate_loom)]
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::thread;
use tidegate::gate::{self, Arrival, AutoLimits, Budget, LaneLimits, Limits, RejectReason};

#[allow(dead_code, unreachable_pub)]
#[path = "../src/admission/shared.rs"]
mod shared;

use shared::{Admission, Arrived, Permit, Place};

/// What `shared` stands on, as loom has it.
mod sync {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    pub(crate) use loom::sync::{Mutex, MutexGuard};

    use crate::gate::{Gate, Time};

    /// The smallest, so that the lock is given up between any two wake-ups.
    pub(crate) const WAKE_BATCH: usize = 1;

    /// Stands still until it is moved.
    #[derive(Debug)]
    pub(crate) struct Clock(AtomicU64);

    pub(crate) fn lock(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
        gate.lock().expect("the gate does not panic")
    }

    impl Clock {
        pub(crate) fn new() -> Clock {
            Clock(AtomicU64::new(0))
        }

        pub(crate) fn now(&self) -> Time {
            Time::from_nanos(self.0.load(Ordering::SeqCst))
        }

        pub(crate) fn pass(&self, time: Duration) {
            self.0.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
        }
    }
}

const MAX_WAIT: Duration = Duration::from_secs(1);

fn limits(max_in_flight: u32) -> Limits {
    let lane = LaneLimits::plain(8, MAX_WAIT);
    Limits {
        budget: Budget::Fixed(max_in_flight),
        floor_period: 0,
        hold: Duration::ZERO,
        lanes: vec![lane],
    }
}

/// Tries every interleaving with at most three preemptions: the bound under which loom's authors
/// find most bugs, and few minutes.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

fn admitted(admission: &Arc<Admission>) -> Permit {
    match admission.arrive(Arrival::at(0)) {
        Arrived::Admitted(permit) => permit,
        other => panic!("expected a permit, got {other:?}"),
    }
}

fn queued(admission: &Arc<Admission>) -> Place {
    match admission.arrive(Arrival::at(0)) {
        Arrived::Queued(place, _) => place,
        other => panic!("expected a place in the queue, got {other:?}"),
    }
}

/// Waits for a place to be resolved, asleep unless woken.
fn resolve(mut place: Place) -> Result<Permit, RejectReason> {
    let (result, _) = block_on(std::future::poll_fn(|context| place.poll(context)));
    result.map_err(|rejection| rejection.reason)
}

/// Everything has come back, and has been counted once.
fn at_rest(admission: &Admission) {
    let snapshot = admission.snapshot();
    let lane = &snapshot.lanes[0];
    assert_eq!((snapshot.in_flight, lane.in_flight, lane.queue_depth), (0, 0, 0));
    let rejected: u64 = lane.rejected.iter().sum();
    assert_eq!(lane.arrivals, lane.admitted + lane.abandoned + rejected);
    admission.assert_at_rest();
}

#[test]
fn a_release_wakes_who_waits() {
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let place = queued(&admission);
        let release = thread::spawn(move || drop(permit));
        drop(resolve(place).unwrap());
        release.join().unwrap();
        at_rest(&admission);
    });
}

#[test]
fn a_release_wakes_whoever_asked_last() {
    struct Nobody;
    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let mut place = queued(&admission);
        let release = thread::spawn(move || drop(permit));
        // The future is polled by one task, and then moves into another.
        let nobody = Waker::from(Arc::new(Nobody));
        match place.poll(&mut Context::from_waker(&nobody)) {
            Poll::Ready((permit, _)) => drop(permit.unwrap()),
            Poll::Pending => drop(resolve(place).unwrap()),
        }
        release.join().unwrap();
        at_rest(&admission);
    });
}

#[test]
fn a_slot_granted_to_who_leaves_goes_on_to_the_next() {
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let (first, second) = (queued(&admission), queued(&admission));
        let release = thread::spawn(move || drop(permit));
        let leave = thread::spawn(move || drop(first));
        drop(resolve(second).unwrap());
        release.join().unwrap();
        leave.join().unwrap();
        at_rest(&admission);
    });
}

#[test]
fn two_releases_wake_two_waiters() {
    model(|| {
        let admission = Admission::new(&limits(2));
        let (one, two) = (admitted(&admission), admitted(&admission));
        let (first, second) = (queued(&admission), queued(&admission));
        let release_one = thread::spawn(move || drop(one));
        let release_two = thread::spawn(move || drop(two));
        let waiter = thread::spawn(move || drop(resolve(first).unwrap()));
        drop(resolve(second).unwrap());
        for thread in [release_one, release_two, waiter] {
            thread.join().unwrap();
        }
        at_rest(&admission);
    });
}

#[test]
fn a_grant_and_an_expiry_resolve_a_wait_once() {
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let place = queued(&admission);
        let release = thread::spawn(move || drop(permit));
        let timer = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || {
                admission.clock().pass(MAX_WAIT);
                admission.expire();
            })
        };
        match resolve(place) {
            Ok(permit) => drop(permit),
            Err(reason) => assert_eq!(reason, RejectReason::MaxWait),
        }
        release.join().unwrap();
        timer.join().unwrap();
        at_rest(&admission);
    });
}

#[test]
fn a_leaver_and_an_expiry_count_once() {
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let place = queued(&admission);
        let leave = thread::spawn(move || drop(place));
        let timer = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || {
                admission.clock().pass(MAX_WAIT);
                admission.expire();
            })
        };
        drop(permit);
        leave.join().unwrap();
        timer.join().unwrap();
        at_rest(&admission);
    });
}

#[test]
fn a_higher_limit_and_a_release_wake_both_waiters() {
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let (first, second) = (queued(&admission), queued(&admission));
        let release = thread::spawn(move || drop(permit));
        let reconfigure = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || admission.reconfigure(&limits(2)))
        };
        // Both hold a slot at once: each needs a wake-up of its own.
        let first = resolve(first).unwrap();
        let second = resolve(second).unwrap();
        drop((first, second));
        release.join().unwrap();
        reconfigure.join().unwrap();
        at_rest(&admission);
    });
}

#[test]
fn a_response_that_stays_open_wakes_who_waits() {
    model(|| {
        let found = |max| {
            let auto = AutoLimits { min: 1, max, max_latency: None };
            Limits { budget: Budget::Auto(auto), ..limits(1) }
        };
        let admission = Admission::new(&found(1));
        // One is what it has found; it may go to two.
        admission.reconfigure(&found(2));
        let mut permit = admitted(&admission);
        let (first, second) = (queued(&admission), queued(&admission));
        let opens = thread::spawn(move || {
            permit.stay_open();
            permit
        });
        let first = resolve(first).unwrap();
        let release = thread::spawn(move || drop(first));
        drop(resolve(second).unwrap());
        release.join().unwrap();
        drop(opens.join().unwrap());
        at_rest(&admission);
    });
}

#[test]
fn a_drain_and_a_grant_resolve_each_wait_once() {
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let (first, second) = (queued(&admission), queued(&admission));
        let release = thread::spawn(move || drop(permit));
        let drain = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || admission.drain())
        };
        for place in [first, second] {
            match resolve(place) {
                Ok(permit) => drop(permit),
                Err(reason) => assert_eq!(reason, RejectReason::Draining),
            }
        }
        release.join().unwrap();
        drain.join().unwrap();
        at_rest(&admission);
    });
}

#[test]
fn one_operation_wakes_everybody_whom_it_resolves() {
    model(|| {
        let admission = Admission::new(&limits(1));
        let permit = admitted(&admission);
        let (first, second) = (queued(&admission), queued(&admission));
        let drain = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || admission.drain())
        };
        let waiter = thread::spawn(move || resolve(first).unwrap_err());
        // Nothing else happens that could make up for a wake-up that was left out.
        assert_eq!(resolve(second).unwrap_err(), RejectReason::Draining);
        assert_eq!(waiter.join().unwrap(), RejectReason::Draining);
        drain.join().unwrap();
        drop(permit);
        at_rest(&admission);
    });
}
