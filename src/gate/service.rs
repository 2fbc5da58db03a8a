//! How long the application takes, of late: median and 90th percentile of a lane.
//!
//! A histogram with four buckets an octave, so that a quantile is right within 10 %, and no list of
//! samples is kept. Old samples fade: all counts are halved whenever there are enough of them.

use std::time::Duration;

/// Shorter than 2^16 ns (66 us) is as short.
const SHORTEST: u32 = 16;
/// 24 octaves, up to 18 minutes.
const BUCKETS: usize = 24 * 4;
/// All counts are halved when they sum up to so many.
const FADE_AT: u32 = 1_024;
/// Quantiles are looked up again after so many samples, and known after the first so many.
const REFRESH: u32 = 16;

/// A fading histogram of service times.
#[derive(Debug)]
pub(super) struct ServiceTimes {
    counts: [u32; BUCKETS],
    total: u32,
    fresh: u32,
    /// Median and 90th percentile, once known.
    quantiles: Option<(Duration, Duration)>,
}

// === impl ServiceTimes ===

impl ServiceTimes {
    pub(super) fn new() -> ServiceTimes {
        ServiceTimes { counts: [0; BUCKETS], total: 0, fresh: 0, quantiles: None }
    }

    pub(super) fn record(&mut self, time: Duration) {
        self.counts[bucket(time)] += 1;
        self.total += 1;
        self.fresh += 1;
        if self.fresh < REFRESH {
            return;
        }
        self.fresh = 0;
        self.quantiles = Some((self.quantile(50), self.quantile(90)));
        if self.total >= FADE_AT {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// The median; `None` while too little is known.
    pub(super) fn p50(&self) -> Option<Duration> {
        self.quantiles.map(|(p50, _)| p50)
    }

    /// The 90th percentile; `None` while too little is known.
    pub(super) fn p90(&self) -> Option<Duration> {
        self.quantiles.map(|(_, p90)| p90)
    }

    fn quantile(&self, percent: u32) -> Duration {
        let rank = u64::from(self.total) * u64::from(percent);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            let here = u64::from(*count) * 100;
            if below + here >= rank && here > 0 {
                let (from, to) = (lower_bound(bucket), lower_bound(bucket + 1));
                // Within a bucket samples are taken to lie evenly.
                let into = u128::from(to - from) * u128::from(rank - below) / u128::from(here);
                return Duration::from_nanos(from + into as u64);
            }
            below += here;
        }
        Duration::ZERO
    }
}

fn bucket(time: Duration) -> usize {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1 << SHORTEST);
    let octave = nanos.ilog2();
    let quarter = (nanos >> (octave - 2)) & 3;
    let index = (octave - SHORTEST) as usize * 4 + quarter as usize;
    index.min(BUCKETS - 1)
}

fn lower_bound(bucket: usize) -> u64 {
    let (octave, quarter) = (SHORTEST as usize + bucket / 4, bucket % 4);
    (4 + quarter as u64) << (octave - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(found: Option<Duration>, millis: f64, error: f64) {
        let found = found.expect("enough samples").as_secs_f64() * 1e3;
        assert!((found / millis - 1.0).abs() < error, "{found} ms, expected {millis} ms");
    }

    #[test]
    fn quantiles_of_an_even_spread() {
        let mut times = ServiceTimes::new();
        (1..=1_000).for_each(|millis| times.record(Duration::from_millis(millis)));
        within(times.p50(), 500.0, 0.1);
        within(times.p90(), 900.0, 0.1);
    }

    #[test]
    fn nothing_is_known_of_a_few() {
        let mut times = ServiceTimes::new();
        (0..15).for_each(|_| times.record(Duration::from_millis(10)));
        assert_eq!(times.p50(), None);
        times.record(Duration::from_millis(10));
        within(times.p50(), 10.0, 0.15);
    }

    #[test]
    fn follows_a_change() {
        let mut times = ServiceTimes::new();
        (0..5_000).for_each(|_| times.record(Duration::from_millis(10)));
        (0..1_200).for_each(|_| times.record(Duration::from_millis(200)));
        within(times.p50(), 200.0, 0.15);
    }

    #[test]
    fn extremes_have_a_bucket() {
        let mut times = ServiceTimes::new();
        for _ in 0..16 {
            times.record(Duration::ZERO);
            times.record(Duration::MAX);
        }
        assert!(times.p50().is_some());
    }
}
