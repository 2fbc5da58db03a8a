//! The gate against a naive model: random walks in which every answer and every count must agree.
//!
//! `walk` does things to a gate, `tracker` keeps who waits and who has a slot in plain lists, and
//! `follow` and `arrivals` say what each operation must have done. Only the choice between lanes
//! and between flows is left to the gate: `gate_fairness` looks at that.

mod arrivals;
mod follow;
mod tracker;
mod walk;

use crate::random::seeds;
use tracker::Seen;
use walk::Walk;

fn run(seed: u64, operations: u32) -> (u64, Seen) {
    let mut walk = Walk::new(seed);
    for operation in 1..=operations {
        walk.step(seed);
        if operation % 1_024 == 0 {
            walk.gate.audit();
        }
    }
    walk.gate.audit();
    walk.finish(seed.is_multiple_of(2))
}

#[test]
fn a_million_operations_agree_with_the_model() {
    let mut seen = Seen::default();
    let seeds = seeds(1..=100);
    for seed in &seeds {
        println!("TIDEGATE_SEED={seed}");
        seen.add(&run(*seed, 10_000).1);
    }
    println!("{seen:?}");
    assert!(seeds.len() == 1 || seen.least() >= 100, "the walks hardly meet something: {seen:?}");
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    for seed in seeds(1..=10) {
        println!("TIDEGATE_SEED={seed}");
        assert_eq!(run(seed, 2_000), run(seed, 2_000));
    }
}
