//! What becomes of the limit before an application that is an equation.

use super::*;

const BOUNDS: AutoLimits = AutoLimits { min: 2, max: 500, max_latency: None };

/// An application before which somebody always waits: `workers` that take `service` each, and a
/// delay that takes none of them.
struct World {
    auto: Auto,
    now: Time,
    workers: u32,
    service: Duration,
    delay: Duration,
    /// With more than twice as many in it as it has workers, it is so many times slower.
    harm: f64,
    turned_away: u64,
}

impl World {
    fn new(workers: u32, limits: AutoLimits) -> World {
        World {
            auto: Auto::new(Time::ZERO, limits),
            now: Time::ZERO,
            workers,
            service: Duration::from_millis(10),
            delay: Duration::ZERO,
            harm: 1.0,
            turned_away: 0,
        }
    }

    /// So many requests end, one after the other.
    fn play(&mut self, requests: u32) {
        for _ in 0..requests {
            let outcome = |taken| Outcome::Answered(taken);
            self.end(outcome);
            self.turned_away += 1;
        }
    }

    fn end(&mut self, outcome: impl Fn(Duration) -> Outcome) {
        let limit = self.auto.limit;
        // Little's law, with as many at work as there are, workers and delay allow.
        let alone = self.service + self.delay;
        let queueing = self.service.mul_f64(f64::from(limit) / f64::from(self.workers));
        let harm = if limit > 2 * self.workers { self.harm } else { 1.0 };
        let taken = alone.max(queueing).mul_f64(harm);
        self.now = self.now + taken / limit;
        self.auto.observe(&Sample {
            now: self.now,
            lane: 0,
            outcome: outcome(taken),
            in_flight: limit,
            full: true,
            turned_away: self.turned_away,
        });
    }

    fn level(&self) -> u32 {
        self.auto.level.round() as u32
    }
}

#[test]
fn finds_what_the_application_can_work_on() {
    for workers in [2, 5, 16, 40, 100] {
        let mut world = World::new(workers, BOUNDS);
        world.play(20_000);
        let (least, most) = (workers, workers + workers / 3 + 2);
        let level = world.level();
        assert!((least..=most).contains(&level), "{workers} workers, level {level}");
    }
}

#[test]
fn follows_the_capacity() {
    let mut world = World::new(32, BOUNDS);
    world.play(20_000);
    for workers in [8, 48, 16] {
        world.workers = workers;
        world.play(20_000);
        let level = world.level();
        assert!((workers..=workers * 3 / 2).contains(&level), "{workers}: {level}");
    }
}

#[test]
fn slower_is_not_overloaded() {
    let mut world = World::new(16, BOUNDS);
    world.play(10_000);
    let before = world.level();
    // Ten times slower, and no worker is busier for it: 176 fit in.
    world.delay = Duration::from_millis(100);
    world.play(10_000);
    assert!(world.level() > 5 * before, "{} after {before}", world.level());
}

#[test]
fn a_gate_that_is_not_full_teaches_nothing() {
    let mut world = World::new(16, BOUNDS);
    for _ in 0..10_000 {
        world.now = world.now + Duration::from_millis(1);
        world.auto.observe(&Sample {
            now: world.now,
            lane: 0,
            outcome: Outcome::Answered(Duration::from_millis(10)),
            in_flight: 5,
            full: false,
            turned_away: 0,
        });
    }
    assert_eq!((world.auto.limit, world.auto.seen.decisions), (START, [0; 4]));
}

#[test]
fn what_the_queue_absorbs_lowers_nothing() {
    let mut world = World::new(4, BOUNDS);
    let before = world.level();
    // For less than five seconds, and nobody is turned away.
    for _ in 0..1_500 {
        world.end(Outcome::Answered);
        assert!(world.auto.limit >= before);
    }
}

#[test]
fn stays_within_its_bounds() {
    for (min, max) in [(1, 1), (0, 0), (20, 30), (9, 3), (1, 10_000)] {
        let mut world = World::new(16, AutoLimits { min, max, max_latency: None });
        for _ in 0..5_000 {
            world.play(1);
            let limit = world.auto.limit;
            assert!((min.max(1)..=max.max(min).max(1)).contains(&limit), "{limit}");
        }
    }
}

#[test]
fn backs_off_from_an_application_that_fails() {
    let mut world = World::new(16, BOUNDS);
    world.play(10_000);
    let before = world.level();
    for request in 0..5_000 {
        let fails = request % 10 == 0;
        world.end(|taken| if fails { Outcome::Overloaded } else { Outcome::Answered(taken) });
        world.turned_away += 1;
    }
    assert!(world.level() < before, "{} after {before}", world.level());
    assert!(world.auto.seen.decisions[AutoDecision::BackOff as usize] > 0);
    // An application that is down says nothing of how much it can do.
    let before = world.level();
    (0..5_000).for_each(|_| world.end(|_| Outcome::Overloaded));
    assert_eq!(world.level(), before);
}

#[test]
fn a_latency_that_must_not_be_exceeded_is_not() {
    let max_latency = Some(Duration::from_millis(50));
    let mut world = World::new(16, AutoLimits { max_latency, ..BOUNDS });
    world.play(10_000);
    world.delay = Duration::from_millis(100);
    world.play(20_000);
    assert_eq!(world.level(), BOUNDS.min);
}

#[test]
fn bounds_given_again_disturb_nothing() {
    let mut world = World::new(16, BOUNDS);
    for _ in 0..200 {
        world.play(50);
        world.auto.set_limits(world.now, BOUNDS);
    }
    assert!((16..=23).contains(&world.level()), "{}", world.level());
    world.auto.set_limits(world.now, AutoLimits { max: 10, ..BOUNDS });
    assert_eq!(world.auto.limit, 10);
}

#[test]
fn a_look_upwards_that_does_harm_is_a_short_one() {
    let mut world = World::new(4, BOUNDS);
    world.service = Duration::from_secs(1);
    world.harm = 3.0;
    let mut above = 0;
    for _ in 0..100 {
        world.play(1);
        above += u32::from(world.auto.limit > START);
    }
    // Of 30 that it would take to be sure by the count alone.
    assert!((8..=20).contains(&above), "{above}");
}

#[test]
fn a_look_upwards_teaches_nothing_where_nobody_answers() {
    let mut world = World::new(4, BOUNDS);
    world.service = Duration::from_secs(1);
    while world.auto.arm != Arm::Up {
        world.play(1);
    }
    let before = (world.auto.level, world.auto.futile, world.auto.search);
    (0..200).for_each(|_| world.end(|_| Outcome::Overloaded));
    assert_eq!((world.auto.level, world.auto.futile, world.auto.search), before);
}

#[test]
fn a_small_level_is_rarely_halved_to_see_whether_half_would_do() {
    let mut world = World::new(5, BOUNDS);
    world.play(20_000);
    let mut below = 0;
    for _ in 0..20_000 {
        world.play(1);
        below += u32::from(world.auto.limit < world.workers);
    }
    assert!((1..400).contains(&below), "{below}");
}

#[test]
fn a_small_level_that_is_too_high_is_found_out() {
    let mut world = World::new(5, BOUNDS);
    world.play(20_000);
    assert!((5..START).contains(&world.level()), "{}", world.level());
    for workers in [2, 1] {
        world.workers = workers;
        world.play(20_000);
        assert!(world.level() <= workers + 1, "{} for {workers}", world.level());
    }
}
