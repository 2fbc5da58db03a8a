//! Clients that send a few requests at once, as browsers do: nobody is held back for that, and
//! nobody has more of the application in the long run.

use std::time::Duration;

use tidegate::gate::{Arrival, LaneLimits, Order, Time};

use crate::gate_world::{Hand, Source, World, at, controlled, limits, ms};

fn from(flow: u64) -> Arrival {
    Arrival { flow, ..Arrival::at(0) }
}

/// For a second clients come and send `each` requests a millisecond apart: 1,200 a second in all,
/// for 10 slots of 10 ms. How long the requests of a client wait at most: the first, the second, ...
fn burst(each: u64, told_apart: bool) -> Vec<Duration> {
    let client = |client: u64| {
        let from = Time::ZERO + Duration::from_micros(client * each * 1_000_000 / 1_200);
        let flow = if told_apart { client } else { 0 };
        let source = Source::new(0, flow, 1_000, ms(10));
        Source { from, until: from + ms(each), ..source }
    };
    let clients: Vec<_> = (0..1_200 / each).map(client).collect();
    let lane = LaneLimits::plain(1_000, Duration::from_secs(60));
    let mut world = World::new(&limits(10, &[lane]), &clients);
    world.run(at(10_000));
    let fates = world.end();
    assert!(fates.iter().all(|fate| fate.lost() == 0 && fate.admitted == each));
    let longest = |nth: u64| fates.iter().map(|fate| fate.waits[nth as usize].1).max();
    (0..each).map(|nth| longest(nth).unwrap_or_default()).collect()
}

#[test]
fn the_second_request_of_a_client_does_not_wait_until_a_burst_has_passed() {
    for each in [1, 2, 3, 6] {
        let one_line = burst(each, false).into_iter().max().unwrap_or_default();
        assert!(one_line > ms(190), "there is a burst: {one_line:?}");
        for (nth, waited) in burst(each, true).into_iter().enumerate() {
            assert!(waited <= one_line + ms(10), "{each}, {nth}: {waited:?} and not {one_line:?}");
        }
    }
}

#[test]
fn a_head_start_is_given_once() {
    for order in [Order::Fifo, Order::Lifo] {
        let lane = LaneLimits { order, ..LaneLimits::plain(1_000, Duration::from_secs(100)) };
        let mut hand = Hand::new(&limits(1, &[lane]));
        hand.teach(0, ms(10), 32);
        hand.send("greedy", from(1));
        (0..300).for_each(|_| _ = hand.send("greedy", from(1)));
        (0..200).for_each(|_| _ = hand.send("modest", from(2)));
        hand.told();
        let (mut done, mut ahead) = ("greedy", 0_i32);
        for _ in 0..400 {
            hand.wait(ms(10));
            hand.complete(done, ms(10));
            done = if hand.told() == "greedy goes" { "greedy" } else { "modest" };
            ahead += if done == "greedy" { 1 } else { -1 };
            assert!((0..=9).contains(&ahead), "{order:?}: {ahead} ahead");
        }
        hand.end();
    }
}

#[test]
fn who_sends_without_end_has_one_share_beside_those_who_send_in_bursts() {
    // 10 slots of 10 ms: 1,000 a second. One client asks for three times that; nine others for a
    // tenth and half of one, six at a time.
    let mut sources = vec![Source::new(0, 0, 3_000, ms(10))];
    for flow in 1..10 {
        // Six who speak with one voice.
        sources.extend([Source::new(0, flow, 25, ms(10)); 6]);
    }
    for order in [Order::Fifo, Order::Adaptive] {
        let mut world = World::new(&limits(10, &[controlled(order)]), &sources);
        world.run(at(3_000));
        world.look_afresh();
        world.run(at(23_000));
        let all: u64 = world.fates.iter().map(|fate| fate.admitted).sum();
        let greedy = world.fates[0].admitted;
        assert!(all >= 19_980, "{order:?}: the application is kept busy: {all}");
        assert!(greedy * 10 <= all * 105 / 100, "{order:?}: {greedy} of {all}");
        assert!(world.fates[0].longest_wait(Time::ZERO) < ms(100));
        world.end();
    }
}
