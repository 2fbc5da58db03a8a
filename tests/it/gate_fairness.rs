//! Who gets the application: flows, lanes, classes and their floors, places in a full queue.

use std::time::Duration;

use tidegate::gate::{Arrival, LaneKind, LaneLimits, Limits, Order};

use crate::gate_world::{Hand, Source, World, at, class, jain, limits, ms};

const SECOND: Duration = Duration::from_secs(1);

fn plain() -> LaneLimits {
    LaneLimits::plain(1_000, SECOND)
}

fn from(class_number: u8, flow: u64) -> Arrival {
    Arrival { class: class(class_number), flow, ..Arrival::at(0) }
}

#[test]
fn one_greedy_flow_takes_nothing_from_modest_ones() {
    // 10 slots of 10 ms: 1,000 a second. Flow 0 asks for twice that, flow 9 for half its share.
    let rate = |flow| match flow {
        0 => 2_000,
        9 => 50,
        _ => 150,
    };
    let sources: Vec<_> = (0..10).map(|flow| Source::new(0, flow, rate(flow), ms(10))).collect();
    for order in [Order::Fifo, Order::Adaptive, Order::Lifo] {
        let lane = LaneLimits { order, ..plain() };
        let mut world = World::new(&limits(10, &[lane]), &sources);
        world.run(at(2_000));
        world.look_afresh();
        world.run(at(12_000));
        let fates = world.fates.clone();
        let shares = fates[..9].iter().map(|fate| fate.admitted as f64);
        assert!(jain(shares.clone()) >= 0.99, "{order:?}: {:?}", shares.collect::<Vec<_>>());
        let admitted: u64 = fates.iter().map(|fate| fate.admitted).sum();
        assert!(admitted >= 9_990, "{order:?}: the application is kept busy: {admitted}");
        let modest = &fates[9];
        assert!(modest.lost() * 100 < modest.sent, "{order:?}: lost {}", modest.lost());
        world.end();
    }
}

#[test]
fn many_clients_under_one_name_have_one_share() {
    let mut sources: Vec<_> = (0..1_000).map(|_| Source::new(0, 77, 2, ms(10))).collect();
    sources.extend((0..4).map(|flow| Source::new(0, flow, 400, ms(10))));
    let mut world = World::new(&limits(10, &[plain()]), &sources);
    world.run(at(10_000));
    let crowd: u64 = world.fates[..1_000].iter().map(|fate| fate.admitted).sum();
    let all: u64 = world.fates.iter().map(|fate| fate.admitted).sum();
    assert!(crowd * 5 <= all * 105 / 100, "{crowd} of {all}");
    world.end();
}

#[test]
fn flows_share_seconds_and_not_requests() {
    let costs = [ms(5), ms(50), ms(10)];
    let flow = |flow: usize| {
        Source::new(0, flow as u64, 8_000 / costs[flow].as_millis() as u64, costs[flow])
    };
    let sources: Vec<_> = (0..3).map(flow).collect();
    let mut world = World::new(&limits(12, &[plain()]), &sources);
    world.run(at(1_000));
    world.look_afresh();
    world.run(at(11_000));
    let served = world.fates.iter().map(|fate| fate.served.as_secs_f64());
    assert!(jain(served.clone()) >= 0.99, "{:?}", served.collect::<Vec<_>>());
    world.end();
}

#[test]
fn lanes_share_seconds_and_not_requests() {
    let sources = [Source::new(0, 1, 2_000, ms(5)), Source::new(1, 1, 200, ms(50))];
    let mut world = World::new(&limits(8, &[plain(), plain()]), &sources);
    world.run(at(1_000));
    world.look_afresh();
    world.run(at(11_000));
    let served = world.fates.iter().map(|fate| fate.served.as_secs_f64());
    assert!(jain(served.clone()) >= 0.99, "{:?}", served.collect::<Vec<_>>());
    world.end();
}

/// Two lanes share what a third one leaves; one of them comes late.
fn late_comer_beside(third: LaneLimits, service: Duration, budget: u32) {
    let late = Source { from: at(60_000), ..Source::new(1, 1, 400, ms(10)) };
    let sources = [
        Source::new(0, 1, 400, ms(10)),
        late,
        Source::new(2, 1, 20_000 / service.as_millis() as u64, service),
    ];
    let mut world = World::new(&limits(budget, &[plain(), plain(), third]), &sources);
    world.run(at(60_000));
    world.look_afresh();
    world.run(at(70_000));
    let served = world.fates[..2].iter().map(|fate| fate.served.as_secs_f64());
    assert!(jain(served.clone()) >= 0.99, "{:?}", served.collect::<Vec<_>>());
    world.end();
}

#[test]
fn streams_beside_the_budget_are_no_measure_for_it() {
    let streams = LaneLimits { kind: LaneKind::Beside, max_in_flight: Some(4), ..plain() };
    late_comer_beside(streams, ms(5_000), 2);
}

#[test]
fn a_reservation_is_no_measure_for_the_others() {
    let reserving = LaneLimits { reserved: 8, max_in_flight: Some(8), ..plain() };
    late_comer_beside(reserving, ms(100), 10);
}

#[test]
fn what_a_reservation_gave_is_no_debt_beyond_it() {
    // Lane 0 has 8 slots to itself. It has a part in the other 2, and not the larger one: as soon
    // as any of its requests is done, what it has beyond its reservation is free again.
    let reserving = LaneLimits { reserved: 8, ..plain() };
    let sources = [Source::new(0, 1, 2_000, ms(10)), Source::new(1, 1, 2_000, ms(10))];
    let mut world = World::new(&limits(10, &[reserving, plain()]), &sources);
    world.run(at(10_000));
    let share = world.fates[1].served.as_secs_f64();
    assert!((10.0..19.0).contains(&share), "of 2 slots for 10 s: {share}");
    world.end();
}

#[test]
fn a_debt_is_paid_off_while_nobody_waits() {
    let mut hand = Hand::new(&limits(1, &[LaneLimits::plain(100, Duration::from_secs(100))]));
    hand.teach(0, ms(10), 20);
    hand.send("first", from(3, 9));
    hand.send("dear", from(3, 1));
    hand.complete("first", ms(10));
    // It was taken to cost 10 ms and takes 10 s; the other flow is far ahead of it for now.
    hand.wait(ms(10_000));
    hand.send("a", from(3, 1));
    hand.send("b", from(3, 2));
    hand.told();
    hand.complete("dear", ms(10_000));
    assert_eq!(hand.told(), "b goes");
    hand.abandon("a");
    hand.complete("b", ms(10));
    hand.wait(ms(20_000));
    hand.send("holds", from(3, 9));
    hand.send("c", from(3, 1));
    hand.send("d", from(3, 2));
    hand.told();
    hand.complete("holds", ms(10));
    assert_eq!(hand.told(), "c goes", "after 20 s without a queue both are level");
    hand.end();
}

#[test]
fn a_lane_pays_for_what_its_requests_really_took() {
    let mut hand = Hand::new(&limits(1, &[LaneLimits::plain(100, Duration::from_secs(100)); 2]));
    (0..2).for_each(|lane| hand.teach(lane, ms(10), 20));
    hand.send("first", Arrival::at(1));
    hand.send("dear", Arrival::at(0));
    hand.send("waits", Arrival::at(0));
    (0..5).for_each(|_| _ = hand.send("cheap", Arrival::at(1)));
    hand.told();
    hand.complete("first", ms(10));
    assert_eq!(hand.told(), "dear goes");
    hand.wait(ms(45));
    hand.complete("dear", ms(45));
    for _ in 0..4 {
        assert_eq!(hand.told(), "cheap goes", "45 ms are worth four of 10 ms, and half of one");
        hand.wait(ms(10));
        hand.complete("cheap", ms(10));
    }
    assert_eq!(hand.told(), "cheap goes");
    hand.wait(ms(10));
    hand.complete("cheap", ms(10));
    assert_eq!(hand.told(), "waits goes");
    hand.end();
}

#[test]
fn a_lane_has_paid_off_its_debt_after_a_time_in_which_nobody_waits() {
    let mut hand = Hand::new(&limits(2, &[LaneLimits::plain(100, Duration::from_secs(1_000)); 2]));
    (0..2).for_each(|lane| hand.teach(lane, ms(10), 20));
    for name in ["x", "y"] {
        hand.send(name, Arrival::at(1));
    }
    hand.send("dear", Arrival::at(0));
    hand.complete("x", ms(10));
    hand.complete("y", ms(10));
    hand.wait(ms(100_000));
    hand.complete("dear", ms(100_000));
    hand.wait(ms(60_000));
    for name in ["x", "y"] {
        hand.send(name, Arrival::at(1));
    }
    hand.send("waits", Arrival::at(0));
    (0..5).for_each(|_| _ = hand.send("cheap", Arrival::at(1)));
    hand.told();
    hand.complete("x", ms(10));
    assert_eq!(hand.told(), "waits goes", "100 s were paid off by 60 s of two slots");
    hand.end();
}

#[test]
fn a_long_rest_is_no_reason_to_be_unfair() {
    // Seconds of slots are counted in nanoseconds: a million of them for ten hours are 2^64.
    let lane = LaneLimits { max_in_flight: Some(1), ..LaneLimits::plain(100, 100 * SECOND) };
    let mut hand = Hand::new(&limits(1_000_000, &[lane]));
    hand.teach(0, ms(10), 20);
    for _ in 0..3 {
        hand.send("x", from(3, 9));
        hand.send("y", from(3, 9));
        hand.complete("x", ms(10));
        hand.complete("y", ms(10));
        hand.wait(10 * 3_600 * SECOND);
    }
    hand.send("first", from(3, 9));
    (0..30).for_each(|_| _ = hand.send("a", from(3, 1)));
    (0..30).for_each(|_| _ = hand.send("b", from(3, 2)));
    hand.told();
    let (mut done, mut ahead) = ("first", 0_i32);
    for _ in 0..60 {
        hand.wait(ms(10));
        hand.complete(done, ms(10));
        done = if hand.told() == "a goes" { "a" } else { "b" };
        ahead += if done == "a" { 1 } else { -1 };
        assert!(ahead <= 9, "who came first goes first, but for eight requests only: {ahead}");
    }
    assert_eq!(ahead, 0);
    hand.end();
}

#[test]
fn reservations_beyond_all_bounds_are_no_overflow() {
    let lane = LaneLimits { reserved: u32::MAX, ..plain() };
    let mut hand = Hand::new(&limits(2, &[lane; 3]));
    for lane in 0..3 {
        hand.send("a", Arrival::at(lane));
    }
    assert_eq!(hand.told(), "a goes, a goes");
    hand.end();
}

#[test]
fn higher_classes_come_first_and_floors_keep_the_lowest_alive() {
    let source = |class| Source { class, ..Source::new(0, u64::from(class), 2_000, ms(10)) };
    let sources = [source(7), source(4), source(0)];
    for (floor_period, least) in [(0, [0, 0]), (20, [450, 450]), (10, [900, 900])] {
        let limits = Limits { floor_period, ..limits(10, &[plain()]) };
        let mut world = World::new(&limits, &sources);
        world.run(at(1_000));
        world.look_afresh();
        world.run(at(11_000));
        let admitted: Vec<_> = world.fates.iter().map(|fate| fate.admitted).collect();
        let floors = [admitted[1], admitted[2]];
        let most = if floor_period == 0 { 0 } else { 10_500 / u64::from(floor_period) };
        assert!(floors.iter().zip(least).all(|(has, least)| *has >= least && *has <= most));
        assert!(admitted.iter().sum::<u64>() >= 9_990, "{admitted:?}");
        world.end();
    }
}

#[test]
fn the_newest_of_the_longest_flow_of_the_lowest_class_makes_room() {
    let mut hand = Hand::new(&limits(1, &[LaneLimits::plain(5, SECOND)]));
    hand.send("works", from(3, 0));
    for (name, class, flow) in [("a", 2, 1), ("b", 2, 1), ("c", 2, 2), ("d", 4, 3), ("e", 4, 3)] {
        hand.send(name, from(class, flow));
    }
    assert_eq!(hand.told(), "works goes");
    hand.send("f", from(5, 4));
    assert_eq!(hand.told(), "b evicted");
    hand.send("g", from(2, 1));
    assert_eq!(hand.told(), "g queue_full", "nobody has less right to a place");
    hand.send("h", from(7, 1));
    hand.send("i", from(7, 1));
    assert_eq!(hand.told(), "a evicted, c evicted", "the rest of the lowest class");
    hand.send("j", from(7, 1));
    assert_eq!(hand.told(), "e evicted", "and now of the next");
    hand.end();
}

#[test]
fn within_a_class_the_longest_flow_makes_room() {
    let mut hand = Hand::new(&limits(1, &[LaneLimits::plain(4, SECOND)]));
    hand.send("works", from(3, 0));
    for name in ["a", "b", "c", "d"] {
        hand.send(name, from(3, 1));
    }
    hand.told();
    hand.send("e", from(3, 2));
    assert_eq!(hand.told(), "d evicted", "the newest of a flow of four");
    hand.send("f", from(3, 2));
    assert_eq!(hand.told(), "c evicted", "and of three");
    for (name, flow) in [("g", 1), ("h", 2)] {
        hand.send(name, from(3, flow));
        assert_eq!(hand.told(), format!("{name} queue_full"), "two and two are even");
    }
    hand.send("i", from(3, 3));
    assert!(hand.told().ends_with("evicted"), "none and two are not");
    hand.send("j", from(3, 4));
    assert!(hand.told().ends_with("evicted"));
    hand.send("k", from(3, 5));
    assert_eq!(hand.told(), "k queue_full", "four flows have one each");
    hand.end();
}

#[test]
fn the_oldest_makes_room_where_the_newest_comes_first() {
    let lane = LaneLimits { order: Order::Lifo, ..LaneLimits::plain(3, SECOND) };
    let mut hand = Hand::new(&limits(1, &[lane]));
    for name in ["works", "a", "b", "c", "d"] {
        hand.send(name, from(3, 1));
    }
    assert_eq!(hand.told(), "works goes, a evicted");
    hand.complete("works", ms(1));
    hand.complete("d", ms(1));
    assert_eq!(hand.told(), "d goes, c goes");
    hand.end();
}

#[test]
fn a_floor_protects_its_share_of_places() {
    let lane = LaneLimits::plain(20, SECOND);
    let mut hand = Hand::new(&Limits { floor_period: 10, ..limits(1, &[lane]) });
    hand.send("works", from(3, 0));
    (0..20).for_each(|_| _ = hand.send("low", from(1, 1)));
    (0..30).for_each(|_| _ = hand.send("high", from(6, 2)));
    let told = hand.told();
    assert_eq!(told.matches("low evicted").count(), 18, "a tenth of 20 places stays");
    assert_eq!(told.matches("high queue_full").count(), 12);
    hand.end();
}

#[test]
fn a_reservation_waits_for_its_lane() {
    let reserving = LaneLimits { reserved: 2, ..plain() };
    let mut hand = Hand::new(&limits(3, &[reserving, plain()]));
    for name in ["a", "b"] {
        hand.send(name, Arrival::at(1));
    }
    assert_eq!(hand.told(), "a goes", "two of three are set aside");
    for name in ["c", "d", "e"] {
        hand.send(name, Arrival::at(0));
    }
    assert_eq!(hand.told(), "c goes, d goes");
    hand.complete("c", ms(1));
    assert_eq!(hand.told(), "e goes", "within the reservation, however long others wait");
    hand.complete("a", ms(1));
    assert_eq!(hand.told(), "b goes");
    hand.end();
}
