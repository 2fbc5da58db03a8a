//! Seeded randomness: a failing test prints its seed, and `TIDEGATE_SEED=N` replays it.
//!
//! A broken invariant of the gate aborts the process, and what was printed is lost with it: run the
//! test again with `-- --nocapture`; the last seed and the invariant are the last lines.

/// SplitMix64 (Steele, Lea, Flood): small, seeded, repeatable.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The seeds of a randomised test: those given, or the one in `TIDEGATE_SEED`.
pub fn seeds(given: impl IntoIterator<Item = u64>) -> Vec<u64> {
    match std::env::var("TIDEGATE_SEED") {
        Ok(seed) => vec![seed.parse().expect("TIDEGATE_SEED is a number")],
        Err(_) => given.into_iter().collect(),
    }
}
