//! Busy or overloaded: a queue stands only where it fails somebody.

use std::time::Duration;

use tidegate::gate::{Arrival, AutoLimits, Budget, Gate, LaneLimits, Limits, Order, Time};

use crate::gate_world::{Fate, Hand, Source, World, at, controlled, limits, ms};

const SECOND: Duration = Duration::from_secs(1);

/// `a` is at work and `b` waits; from now on one waits at any time, for two rounds, and is served.
fn relay(hand: &mut Hand, round: Duration, rounds: usize) {
    hand.told();
    for (done, next) in [("a", "c"), ("b", "a"), ("c", "b")].into_iter().cycle().take(rounds) {
        let until = hand.send(next, Arrival::at(0)).expect("it waits");
        assert_eq!(until, hand.now + SECOND, "for as long as anybody may");
        hand.wait(round);
        hand.complete(done, round);
    }
    assert_eq!(hand.told().matches("goes").count(), rounds);
}

#[test]
fn a_queue_that_fails_nobody_does_not_stand_however_long_it_is_busy() {
    for order in [Order::Fifo, Order::Adaptive] {
        let mut hand = Hand::new(&limits(1, &[controlled(order)]));
        hand.teach(0, ms(400), 32);
        for name in ["a", "b"] {
            hand.send(name, Arrival::at(0));
        }
        relay(&mut hand, ms(400), 1_000);
        hand.end();
    }
}

#[test]
fn three_quarters_of_what_a_few_slow_slots_can_do_is_no_overload() {
    // Four slots of 400 ms: 10 a second. 7.5 a second come, from 30 who keep no step.
    let standing_after = Some(ms(300));
    let lane = LaneLimits { max_wait: 2 * SECOND, standing_after, ..controlled(Order::Adaptive) };
    let source = |index: u64| {
        let from = at(index * index * 7_919 % 4_000);
        Source { every: ms(3_600 + 27 * index), from, ..Source::new(0, index, 1, ms(400)) }
    };
    let sources: Vec<_> = (0..30).map(source).collect();
    let mut world = World::new(&limits(4, &[lane]), &sources);
    world.run(at(600_000));
    let fates = world.end();
    let longest = fates.iter().map(|fate| fate.longest_wait(Time::ZERO)).max();
    assert!(longest > Some(ms(400)), "somebody waits for more than four targets: {longest:?}");
    assert_eq!(fates.iter().map(Fate::lost).sum::<u64>(), 0, "nobody for long: {longest:?}");
    assert!(fates.iter().map(|fate| fate.sent).sum::<u64>() > 4_400);
}

#[test]
fn clients_that_lose_patience_just_before_max_wait_make_a_queue_stand() {
    let mut hand = Hand::new(&limits(1, &[controlled(Order::Fifo)]));
    hand.teach(0, ms(10), 32);
    hand.send("works", Arrival::at(0));
    for name in ["a", "b"] {
        hand.send(name, Arrival::at(0));
        hand.wait(ms(495));
    }
    // Each leaves after 990 ms, and somebody else comes.
    for name in ["a", "b"] {
        hand.abandon(name);
        let until = hand.send(name, Arrival::at(0)).expect("it waits");
        assert_eq!(until, hand.now + SECOND, "not for long enough yet");
        hand.wait(ms(495));
    }
    assert_eq!(hand.told(), "works goes");
    hand.send("c", Arrival::at(0));
    assert_eq!(hand.told(), "a standing_queue, b standing_queue");
    hand.end();
}

#[test]
fn who_leaves_in_a_pause_says_nothing_about_the_load() {
    let mut hand = Hand::new(&limits(1, &[controlled(Order::Fifo)]));
    hand.teach(0, ms(300), 32);
    hand.with(Gate::pause);
    for name in ["gone", "a", "b"] {
        hand.send(name, Arrival::at(0));
        hand.wait(ms(250));
    }
    hand.abandon("gone");
    hand.with(Gate::resume);
    // The queue is empty once.
    hand.complete("a", ms(300));
    hand.send("a", Arrival::at(0));
    hand.complete("b", ms(300));
    hand.send("b", Arrival::at(0));
    relay(&mut hand, ms(300), 10);
    hand.end();
}

#[test]
fn slots_kept_for_who_does_not_come_do_not_hide_that_the_others_are_taken() {
    let auto = AutoLimits { min: 1, max: 64, max_latency: None };
    for reserved in [0, 3] {
        let lanes = [LaneLimits { reserved, ..controlled(Order::Fifo) }, controlled(Order::Fifo)];
        let limits = Limits { budget: Budget::Auto(auto), ..limits(8, &lanes) };
        // An application that works on any number at once: whoever saw it full would give it more.
        let mut world = World::new(&limits, &[Source::new(1, 0, 2_000, ms(20))]);
        world.run(at(10_000));
        let limit = world.gate.snapshot(world.now).max_in_flight;
        assert!(limit > 32, "{limit} with {reserved} reserved");
        world.end();
    }
}
