//! An application that is away: who waits for it, for how long, and what comes after.

use std::time::Duration;

use tidegate::gate::{Arrival, Gate, LaneKind, LaneLimits, Limits, Order, RejectReason, Time};

use crate::gate_world::{Hand, controlled, limits, ms};

const SECOND: Duration = Duration::from_secs(1);
/// As [`limits`] has it.
const HOLD: Duration = Duration::from_secs(60);

/// A second is the longest wait, and a pause holds for so long.
fn held_for(hold: Duration) -> Limits {
    Limits { hold, ..limits(1, &[LaneLimits::plain(100, SECOND)]) }
}

#[test]
fn a_pause_keeps_everybody_and_goes_on_in_order() {
    for order in [Order::Fifo, Order::Adaptive] {
        let mut hand = Hand::new(&limits(1, &[controlled(order)]));
        hand.teach(0, ms(10), 32);
        hand.with(Gate::pause);
        let paused = hand.now;
        for name in ["a", "b", "c", "d"] {
            let until = hand.send(name, Arrival::at(0)).expect("a free slot is not granted");
            assert_eq!(until, paused + HOLD, "{name}: who waits is not held short");
            hand.wait(SECOND);
        }
        hand.wait(10 * SECOND);
        assert_eq!(hand.told(), "");
        hand.with(Gate::resume);
        for done in ["a", "b", "c"] {
            hand.complete(done, ms(10));
        }
        assert_eq!(hand.told(), "a goes, b goes, c goes, d goes", "{order:?}");
        hand.end();
    }
}

#[test]
fn a_queue_stands_again_after_a_pause() {
    let mut hand = Hand::new(&limits(1, &[controlled(Order::Fifo)]));
    hand.teach(0, ms(10), 32);
    hand.with(Gate::pause);
    hand.send("a", Arrival::at(0));
    hand.with(Gate::resume);
    for _ in 0..3 {
        hand.send("b", Arrival::at(0));
        hand.wait(ms(498));
        // Whoever asks again does not begin a new pause.
        hand.with(Gate::resume);
    }
    assert_eq!(hand.told(), "a goes, b max_wait", "the queue has failed somebody");
    let until = hand.send("b", Arrival::at(0)).expect("it waits");
    assert_eq!(until, hand.now + SECOND, "not for long enough yet");
    hand.wait(ms(6));
    let until = hand.send("c", Arrival::at(0)).expect("it waits");
    // Three rounds of 20 ms are more than four targets.
    assert!(until < hand.now + ms(40), "the queue stands: {:?}", until.since(hand.now));
    hand.end();
}

#[test]
fn what_a_pause_leaves_behind_is_served_however_long_that_takes() {
    let mut hand = Hand::new(&held_for(10 * SECOND));
    hand.send("works", Arrival::at(0));
    hand.send("a", Arrival::at(0));
    hand.wait(ms(900));
    hand.with(Gate::pause);
    hand.wait(5 * SECOND);
    hand.send("b", Arrival::at(0));
    let left = |hand: &Hand| hand.gate.snapshot(hand.now).hold_left;
    assert_eq!(left(&hand), 5 * SECOND);
    hand.with(Gate::resume);
    assert_eq!(left(&hand), Duration::ZERO);
    hand.wait(SECOND);
    let until = hand.send("c", Arrival::at(0)).expect("it waits");
    assert_eq!(until, hand.now + 10 * SECOND, "who comes behind them has as long");
    for (done, next) in [("works", "a"), ("a", "b"), ("b", "c")] {
        hand.wait(ms(1_100));
        hand.complete(done, ms(1));
        assert!(hand.told().ends_with(&format!("{next} goes")), "{next}");
    }
    // The queue was empty: from here on it is as ever.
    hand.send("d", Arrival::at(0));
    assert_eq!(hand.gate.next_deadline(), Some(hand.now + SECOND));
    hand.wait(SECOND);
    assert_eq!(hand.told(), "d max_wait");
    hand.complete("c", ms(1));
    hand.end();
}

#[test]
fn a_queue_that_never_empties_recovers_for_as_long_as_hold() {
    let standing = LaneLimits { standing_after: Some(ms(300)), ..LaneLimits::plain(9, SECOND) };
    let hold = 3 * SECOND;
    let mut hand = Hand::new(&Limits { hold, ..limits(1, &[standing]) });
    hand.send("works", Arrival::at(0));
    hand.with(Gate::pause);
    hand.send("a", Arrival::at(0));
    hand.with(Gate::resume);
    let recovered = hand.now + hold;
    hand.wait(2 * SECOND);
    let until = hand.send("b", Arrival::at(0)).expect("it waits");
    assert_eq!(until, recovered + SECOND, "max_wait from then on");
    hand.wait(SECOND);
    let until = hand.send("c", Arrival::at(0)).expect("it waits");
    assert_eq!(until, hand.now + SECOND, "as ever");
    hand.wait(SECOND);
    assert_eq!(hand.told(), "works goes, a max_wait, b max_wait, c max_wait");
    hand.complete("works", ms(1));
    hand.end();
}

#[test]
fn each_lane_recovers_for_itself() {
    let stream = LaneLimits {
        kind: LaneKind::Beside,
        max_in_flight: Some(1),
        ..LaneLimits::plain(9, SECOND)
    };
    let mut hand = Hand::new(&limits(1, &[LaneLimits::plain(9, SECOND), stream]));
    hand.send("stream", Arrival::at(1));
    hand.with(Gate::pause);
    hand.send("next stream", Arrival::at(1));
    hand.send("a", Arrival::at(0));
    hand.wait(2 * SECOND);
    hand.with(Gate::resume);
    assert_eq!(hand.told(), "stream goes, a goes");
    hand.send("b", Arrival::at(0));
    assert_eq!(hand.gate.next_deadline(), Some(hand.now + SECOND), "nobody is left over there");
    hand.wait(SECOND);
    assert_eq!(hand.told(), "b max_wait");
    hand.complete("a", ms(1));
    hand.complete("stream", ms(1));
    assert_eq!(hand.told(), "next stream goes");
    hand.end();
}

#[test]
fn after_hold_everybody_is_turned_away_until_it_is_back() {
    let mut hand = Hand::new(&held_for(3 * SECOND));
    hand.with(Gate::pause);
    hand.send("a", Arrival::at(0));
    hand.wait(ms(2_900));
    let until = hand.send("b", Arrival::at(0)).expect("it waits");
    assert_eq!(until.since(hand.now), ms(100), "the pause is bounded, and not each wait");
    hand.wait(ms(100));
    assert_eq!(hand.told(), "a upstream_down, b upstream_down");
    hand.send("c", Arrival::at(0));
    assert_eq!(hand.told(), "c upstream_down", "at once");
    hand.with(Gate::pause);
    hand.send("d", Arrival::at(0));
    assert_eq!(hand.told(), "d upstream_down", "it is the same pause");
    hand.with(Gate::resume);
    hand.send("e", Arrival::at(0));
    assert_eq!(hand.told(), "e goes");
    let rejected = hand.gate.snapshot(hand.now).lanes[0].rejected;
    assert_eq!(rejected[RejectReason::UpstreamDown as usize], 4);
    hand.end();
}

#[test]
fn however_often_it_comes_and_goes_a_wait_is_bounded() {
    let mut hand = Hand::new(&held_for(3 * SECOND));
    hand.send("works", Arrival::at(0));
    hand.send("a", Arrival::at(0));
    let arrived = hand.now;
    for _ in 0..20 {
        hand.wait(ms(300));
        hand.with(Gate::pause);
        hand.wait(ms(200));
        hand.with(Gate::resume);
    }
    assert_eq!(hand.told(), "works goes, a upstream_down");
    assert!(hand.now.since(arrived) > 4 * SECOND);
    hand.send("b", Arrival::at(0));
    let arrived = hand.now;
    hand.wait(ms(900));
    hand.with(Gate::pause);
    hand.wait(ms(2_900));
    hand.with(Gate::resume);
    assert_eq!(hand.gate.next_deadline(), Some(arrived + 4 * SECOND), "max_wait and hold");
    hand.wait(ms(100));
    hand.with(Gate::pause);
    assert_eq!(hand.gate.next_deadline(), Some(arrived + 4 * SECOND));
    hand.wait(ms(100));
    assert_eq!(hand.told(), "b upstream_down");
    hand.end();
}

#[test]
fn a_client_s_own_deadline_holds_in_a_pause_too() {
    let mut hand = Hand::new(&held_for(10 * SECOND));
    hand.send("works", Arrival::at(0));
    let due = |at: Time| Arrival { deadline: Some(at), ..Arrival::at(0) };
    hand.send("early", due(hand.now + ms(2_000)));
    hand.send("late", due(hand.now + ms(4_000)));
    hand.with(Gate::pause);
    hand.send("newcomer", due(hand.now + ms(2_500)));
    hand.wait(ms(2_500));
    assert_eq!(hand.told(), "works goes, early deadline, newcomer deadline");
    hand.with(Gate::resume);
    hand.wait(ms(1_400));
    assert_eq!(hand.told(), "");
    hand.wait(ms(100));
    assert_eq!(hand.told(), "late deadline");
    hand.end();
}

#[test]
fn a_pause_may_hold_nobody_and_be_changed_on_the_way() {
    let mut hand = Hand::new(&held_for(Duration::ZERO));
    hand.send("works", Arrival::at(0));
    hand.send("a", Arrival::at(0));
    hand.with(Gate::pause);
    hand.send("b", Arrival::at(0));
    assert_eq!(hand.told(), "works goes, a upstream_down, b upstream_down");
    hand.with(|gate, now| gate.reconfigure(now, &held_for(5 * SECOND)));
    hand.send("c", Arrival::at(0));
    hand.wait(4 * SECOND);
    assert_eq!(hand.told(), "");
    hand.with(|gate, now| gate.reconfigure(now, &held_for(2 * SECOND)));
    assert_eq!(hand.told(), "c upstream_down", "it has lasted longer already");
    hand.end();
}

#[test]
fn where_nobody_waits_a_pause_holds_nobody() {
    let probe = LaneLimits {
        kind: LaneKind::Beside,
        max_in_flight: Some(2),
        ..LaneLimits::plain(0, Duration::ZERO)
    };
    let lanes = [LaneLimits::plain(9, SECOND), probe, LaneLimits::plain(0, SECOND)];
    let mut hand = Hand::new(&limits(2, &lanes));
    hand.with(Gate::pause);
    for (name, lane) in [("waits", 0), ("probe", 1), ("impatient", 2)] {
        hand.send(name, Arrival::at(lane));
    }
    assert_eq!(hand.told(), "probe goes, impatient goes");
    hand.send("other", Arrival::at(2));
    hand.send("next", Arrival::at(2));
    assert_eq!(hand.told(), "other goes, next queue_full");
    hand.with(Gate::resume);
    hand.complete("other", ms(1));
    assert_eq!(hand.told(), "waits goes");
    hand.end();
}

#[test]
fn a_pause_does_not_make_the_application_look_slow() {
    let mut hand = Hand::new(&held_for(60 * SECOND));
    hand.teach(0, ms(10), 32);
    let mean = |hand: &Hand| hand.gate.snapshot(hand.now).lanes[0].mean_hold;
    let before = mean(&hand);
    hand.send("works", Arrival::at(0));
    hand.with(Gate::pause);
    hand.wait(30 * SECOND);
    hand.with(Gate::resume);
    hand.wait(ms(10));
    hand.complete("works", ms(10));
    assert!(mean(&hand) < before + ms(2), "{:?}", mean(&hand));
    hand.end();
}
