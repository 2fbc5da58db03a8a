//! Times by their logarithm: a bucket is at most 1/64 of its value wide.

use std::time::Duration;

/// Buckets of one power of two.
const FINE: u32 = 64;
/// Values below are exact, in microseconds.
const POWERS: usize = 34;

/// Counts of times, from a microsecond to hours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
    sum: f64,
}

fn bucket(micros: u64) -> usize {
    let micros = micros.min((1 << POWERS) - 1);
    let power = (64 - micros.leading_zeros()).saturating_sub(FINE.trailing_zeros() + 1);
    power as usize * FINE as usize + (micros >> power) as usize
}

/// The upper end of a bucket, in microseconds.
fn upper(bucket: usize) -> f64 {
    let fine = FINE as usize;
    if bucket < 2 * fine {
        return bucket as f64;
    }
    let power = bucket / fine - 1;
    let within = bucket - power * fine;
    ((within + 1) as f64) * (1_u64 << power) as f64
}

// === impl Histogram ===

impl Histogram {
    pub(super) fn record(&mut self, nanos: u64) {
        let bucket = bucket(nanos / 1_000);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.sum += nanos as f64;
    }

    pub(super) fn add(&mut self, other: &Histogram) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum += other.sum;
    }

    /// How many were counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The mean; `None` of nothing.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        (self.total > 0).then(|| Duration::from_nanos((self.sum / self.total as f64) as u64))
    }

    /// The time that a part `q` stay within; `None` of nothing.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let rank = ((q * self.total as f64).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return Some(Duration::from_nanos((upper(bucket) * 1e3) as u64));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for millis in 1..=1_000 {
            histogram.record(millis * 1_000_000);
        }
        for (q, millis) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = histogram.quantile(q).unwrap().as_secs_f64() * 1e3;
            assert!((found / millis - 1.0).abs() < 0.02, "{q}: {found}");
        }
    }

    #[test]
    fn buckets_ascend_without_gaps() {
        let mut last = 0;
        for micros in 0..100_000 {
            let bucket = bucket(micros);
            assert!(bucket == last || bucket == last + 1, "{micros}");
            assert!(upper(bucket) >= micros as f64, "{micros}");
            last = bucket;
        }
    }
}
