//! How long anybody waits: bursts and standing queues, deadlines, shadow, changes in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use tidegate::gate::{
    Arrival, Budget, Claim, Gate, LaneLimits, Order, Outcome, RejectReason, Time, Verdict,
};

use crate::gate_world::{Hand, Source, World, at, class, controlled, limits, ms};

const SECOND: Duration = Duration::from_secs(1);

/// 16 slots of 16 ms: 1,000 a second.
const SLOTS: u32 = 16;
const SERVICE: Duration = ms(16);
/// The target is the median service time, which is known within 10 %.
const TARGET: Duration = ms(18);
/// Overload shows once somebody has waited for `max_wait` in vain, and then what has gathered goes.
const CONTROLLED: u64 = 2_500;

fn burst(from: u64) -> Source {
    Source { from: at(from), until: at(from + 500), ..Source::new(0, 1, 2_400, SERVICE) }
}

#[test]
fn a_burst_passes_whole() {
    for order in [Order::Fifo, Order::Adaptive] {
        let mut world = World::new(&limits(SLOTS, &[controlled(order)]), &[burst(0)]);
        world.run(at(5_000));
        let fates = world.end();
        assert_eq!((fates[0].sent, fates[0].lost()), (1_201, 0), "{order:?}");
        let times: Vec<_> = fates[0].waits.iter().map(|(at, waited)| *at - *waited).collect();
        assert!(times.is_sorted(), "who came first went first");
    }
}

#[test]
fn a_standing_queue_is_held_to_its_target_until_it_was_empty_once() {
    for order in [Order::Fifo, Order::Adaptive, Order::Lifo] {
        let overload = Source { until: at(10_000), ..Source::new(0, 1, 1_500, SERVICE) };
        let lanes = [controlled(order)];
        let mut world = World::new(&limits(SLOTS, &lanes), &[overload, burst(11_000)]);
        world.run(at(1_400));
        let before = world.fates[0].longest_wait(Time::ZERO);
        assert!(order == Order::Lifo || before > ms(300), "bursts are absorbed: {before:?}");
        world.run(at(CONTROLLED));
        world.look_afresh();
        world.run(at(10_000));
        let waited = world.fates[0].longest_wait(Time::ZERO);
        assert!(waited <= TARGET, "{order:?}: {waited:?}");
        assert!(world.fates[0].admitted >= 7_480, "the application is kept busy");
        world.run(at(11_000));
        world.look_afresh();
        let fates = world.end();
        assert_eq!(fates[1].lost(), 0, "{order:?}: it was empty once, a burst passes again");
    }
}

#[test]
fn one_shot_flows_do_not_defeat_the_control() {
    for order in [Order::Fifo, Order::Adaptive] {
        let overload = Source { flow: None, ..Source::new(0, 0, 1_500, SERVICE) };
        let mut world = World::new(&limits(SLOTS, &[controlled(order)]), &[overload]);
        world.run(at(3_000));
        world.look_afresh();
        world.run(at(13_000));
        let waited = world.fates[0].longest_wait(Time::ZERO);
        assert!(waited <= TARGET * 8, "{order:?}: {waited:?}");
        assert!(world.fates[0].admitted >= 9_980, "the application is kept busy");
        world.end();
    }
}

#[test]
fn a_flow_that_comes_and_goes_waits_its_turn_in_a_standing_queue() {
    let greedy = Source::new(0, 1, 2_000, SERVICE);
    let modest = Source::new(0, 2, 20, SERVICE);
    let mut world = World::new(&limits(SLOTS, &[controlled(Order::Fifo)]), &[greedy, modest]);
    world.run(at(13_000));
    let fates = world.end();
    assert_eq!(fates[1].lost(), 0, "it is not what makes the queue stand");
}

#[test]
fn whoever_waits_is_woken_once_it_is_decided() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut gate = Gate::new(Time::ZERO, &limits(1, &[LaneLimits::plain(9, SECOND)]));
    let Verdict::Admitted(slot) = gate.arrive(at(0), Arrival::at(0)) else { panic!("a slot") };
    let counts = [(); 2].map(|()| Arc::new(Count(AtomicUsize::new(0))));
    let tickets = counts.each_ref().map(|count| {
        let Verdict::Queued(ticket, _) = gate.arrive(at(0), Arrival::at(0)) else {
            panic!("waits")
        };
        // Who is polled again brings the waker that counts.
        let Claim::Waiting(ticket) = gate.claim(ticket, Waker::noop()) else { panic!("waits") };
        let waker = Waker::from(Arc::clone(count));
        let Claim::Waiting(ticket) = gate.claim(ticket, &waker) else { panic!("waits") };
        ticket
    });
    assert!(gate.poll_action().is_none());
    gate.complete(at(1), slot, Outcome::Unknown);
    gate.expire(at(5_000));
    let woken = tickets.map(|ticket| {
        let action = gate.poll_action().expect("both are decided");
        assert_eq!(action.ticket, ticket.id());
        action.waker.expect("whoever claimed left a waker").wake();
        gate.claim(ticket, Waker::noop())
    });
    assert!(counts.iter().all(|count| count.0.load(Ordering::Relaxed) == 1));
    let [Claim::Granted(slot, waited), Claim::Rejected(why, _)] = woken else {
        panic!("one slot: {woken:?}")
    };
    assert_eq!((waited, why.reason), (ms(1), RejectReason::MaxWait));
    gate.complete(at(5_000), slot, Outcome::Unknown);
    gate.assert_at_rest();
}

// === deadlines ===

fn due(deadline: Time) -> Arrival {
    Arrival { deadline: Some(deadline), ..Arrival::at(0) }
}

/// A lane of one slot, whose requests take 100 ms, with one at work.
fn busy(max_queue: u32) -> Hand {
    let mut hand = Hand::new(&limits(1, &[LaneLimits::plain(max_queue, 10 * SECOND)]));
    hand.teach(0, ms(100), 32);
    hand.send("works", Arrival::at(0));
    hand.told();
    hand
}

#[test]
fn hopeless_deadlines_are_refused_on_arrival() {
    let mut hand = busy(100);
    hand.send("over", due(hand.now));
    assert_eq!(hand.told(), "over deadline");
    hand.send("short", due(hand.now + ms(90)));
    assert_eq!(hand.told(), "short deadline", "not even its own service fits");
    (0..5).for_each(|_| _ = hand.send("waits", Arrival::at(0)));
    hand.send("sixth", due(hand.now + ms(600)));
    assert_eq!(hand.told(), "sixth deadline", "five ahead take 500 ms, and one is at work");
    assert!(hand.send("patient", due(hand.now + ms(900))).is_some());
    let first = Arrival { class: class(7), ..due(hand.now + ms(300)) };
    assert!(hand.send("important", first).is_some(), "it has nobody ahead");
    hand.end();
}

#[test]
fn a_deadline_ends_the_wait_while_there_is_time_for_an_answer() {
    let mut hand = busy(100);
    let until = hand.send("waits", due(hand.now + ms(500))).expect("it waits");
    let slack = (hand.now + ms(500)).since(until);
    assert!(slack >= ms(95) && slack <= ms(125), "the 90th percentile is left: {slack:?}");
    hand.wait(ms(370));
    assert_eq!(hand.told(), "");
    hand.wait(ms(35));
    assert_eq!(hand.told(), "waits deadline");
    hand.end();
}

#[test]
fn a_deadline_is_looked_at_again_at_the_grant() {
    let lane = LaneLimits::plain(100, 10 * SECOND);
    let mut hand = Hand::new(&limits(16, &[lane]));
    hand.teach(0, ms(10), 32);
    (0..16).for_each(|_| _ = hand.send("works", Arrival::at(0)));
    // There is time for two requests of 10 ms and more.
    let deadline = hand.now + ms(250);
    hand.with(|gate, now| gate.set_limit(now, 1));
    hand.send("late", due(deadline));
    hand.send("next", Arrival::at(0));
    hand.told();
    hand.wait(ms(200));
    // They took 200 ms this time: nine of ten are not done in the 50 ms that are left.
    (0..16).for_each(|_| hand.complete("works", ms(200)));
    assert_eq!(hand.told(), "late deadline, next goes");
    hand.end();
}

// === shadow, changes in place ===

#[test]
fn shadow_lets_everybody_through_and_counts_whom_it_would_not_have() {
    let lane = LaneLimits { enforce: false, ..LaneLimits::plain(2, ms(500)) };
    let mut hand = Hand::new(&limits(1, &[lane, LaneLimits::plain(2, SECOND)]));
    hand.with(Gate::pause);
    for name in ["a", "b", "c", "d", "e"] {
        hand.send(name, Arrival::at(0));
    }
    assert_eq!(hand.told(), "a goes, b goes, c goes, d goes, e goes");
    hand.send("over", due(hand.now));
    assert_eq!(hand.told(), "over goes");
    let shadow = |hand: &Hand| hand.gate.snapshot(hand.now).lanes[0].shadow_rejected;
    let counted = |hand: &Hand, reason: RejectReason| shadow(hand)[reason as usize];
    assert_eq!(counted(&hand, RejectReason::QueueFull), 2, "one at work, two would wait");
    assert_eq!(counted(&hand, RejectReason::Deadline), 1);
    assert_eq!(hand.gate.snapshot(hand.now).in_flight, 0, "they stand beside the budget");
    hand.with(Gate::resume);
    hand.send("real", Arrival::at(1));
    assert_eq!(hand.told(), "real goes", "and take nothing from lanes that are held to theirs");
    // It is held to its limits from now on; then no longer.
    let held = LaneLimits { enforce: true, ..lane };
    let other = LaneLimits::plain(2, SECOND);
    hand.with(|gate, now| gate.reconfigure(now, &limits(1, &[held, other])));
    hand.send("waits", Arrival::at(0));
    assert_eq!(hand.told(), "");
    hand.with(|gate, now| gate.reconfigure(now, &limits(1, &[lane, other])));
    assert_eq!(hand.told(), "waits goes");
    hand.end();
}

#[test]
fn a_change_of_limits_fails_nobody() {
    let mut hand = Hand::new(&limits(2, &[LaneLimits::plain(4, SECOND)]));
    for name in ["a", "b", "c", "d", "e", "f"] {
        hand.send(name, Arrival::at(0));
    }
    hand.told();
    let small = limits(1, &[LaneLimits::plain(1, ms(10))]);
    hand.with(|gate, now| gate.reconfigure(now, &small));
    hand.wait(ms(100));
    hand.complete("a", ms(1));
    assert_eq!(hand.told(), "", "one in flight is all that there may be");
    hand.send("g", Arrival::at(0));
    assert_eq!(hand.told(), "g queue_full", "the surplus has left before anybody joins");
    for (done, next) in [("b", "c"), ("c", "d"), ("d", "e")] {
        hand.complete(done, ms(1));
        assert_eq!(hand.told(), format!("{next} goes"));
    }
    hand.send("h", Arrival::at(0));
    assert_eq!(hand.told(), "h queue_full");
    hand.complete("e", ms(1));
    assert!(hand.send("i", Arrival::at(0)).is_some());
    hand.wait(ms(10));
    assert_eq!(hand.told(), "f goes, i max_wait", "who comes now has the new bound");
    let large = limits(4, &[LaneLimits::plain(4, SECOND)]);
    hand.with(|gate, now| gate.reconfigure(now, &large));
    assert_eq!(hand.gate.snapshot(hand.now).max_in_flight, 4);
    hand.end();
}

#[test]
fn a_higher_limit_is_used_at_once() {
    let mut hand = Hand::new(&limits(0, &[LaneLimits::plain(4, SECOND)]));
    for name in ["a", "b", "c"] {
        hand.send(name, Arrival::at(0));
    }
    assert_eq!(hand.told(), "");
    hand.with(|gate, now| gate.set_limit(now, 2));
    assert_eq!(hand.told(), "a goes, b goes");
    hand.abandon("c");
    assert_eq!(hand.gate.snapshot(hand.now).lanes[0].abandoned, 1);
    let wider = tidegate::gate::Limits {
        budget: Budget::Fixed(3),
        ..limits(3, &[LaneLimits::plain(4, SECOND); 2])
    };
    hand.with(|gate, now| gate.reconfigure(now, &wider));
    hand.send("d", Arrival::at(1));
    assert_eq!(hand.told(), "d goes", "a lane may be added");
    hand.end();
}
