//! A histogram's state at one instant, and what came in between two of them.

use prometheus::Histogram;
use prometheus::core::Metric;

/// What a histogram has seen until now, or between two instants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// How many observations.
    pub count: u64,
    /// Their sum, in seconds.
    pub sum: f64,
    /// Upper bound of each bucket in seconds, and how many lay at or below it.
    buckets: Vec<(f64, u64)>,
}

// === impl Distribution ===

impl Distribution {
    /// Reads a histogram; its buckets only if it has seen more than `before`, since that allocates
    /// and most histograms are idle.
    pub(super) fn of(histogram: &Histogram, before: &Distribution) -> Distribution {
        if histogram.get_sample_count() == before.count {
            return before.clone();
        }
        let metric = histogram.metric();
        let state = metric.get_histogram();
        let buckets = state.get_bucket().iter().map(|b| (b.upper_bound(), b.cumulative_count()));
        Distribution {
            count: state.get_sample_count(),
            sum: state.get_sample_sum(),
            buckets: buckets.collect(),
        }
    }

    /// What came since `before`, an earlier state of the same histogram.
    #[must_use]
    pub fn since(&self, before: &Distribution) -> Distribution {
        let earlier = |index: usize| before.buckets.get(index).map_or(0, |(_, count)| *count);
        let buckets = self.buckets.iter().enumerate();
        Distribution {
            count: self.count.saturating_sub(before.count),
            sum: (self.sum - before.sum).max(0.0),
            buckets: buckets
                .map(|(index, (bound, count))| (*bound, count.saturating_sub(earlier(index))))
                .collect(),
        }
    }

    /// Adds what came in another stretch of time.
    pub fn add(&mut self, other: &Distribution) {
        self.count += other.count;
        self.sum += other.sum;
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else {
            for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
                *count += more;
            }
        }
    }

    /// The mean in seconds; `None` without observations.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The value that such a part of the observations does not exceed, interpolated within its
    /// bucket. What lies beyond the last bound counts as that bound.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = part * self.count as f64;
        let (mut lower, mut below) = (0.0, 0);
        for &(upper, count) in &self.buckets {
            if count as f64 >= rank && count > below {
                let within = (rank - below as f64) / (count - below) as f64;
                return Some(lower + (upper - lower) * within.max(0.0));
            }
            (lower, below) = (upper, count);
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::HistogramOpts;

    fn histogram() -> Histogram {
        let opts = HistogramOpts::new("h", "h").buckets(vec![0.1, 0.2, 0.4]);
        Histogram::with_opts(opts).unwrap()
    }

    #[test]
    fn only_what_came_in_between_counts() {
        let histogram = histogram();
        histogram.observe(0.05);
        let before = Distribution::of(&histogram, &Distribution::default());
        for value in [0.15, 0.15, 0.3, 0.3] {
            histogram.observe(value);
        }
        let came = Distribution::of(&histogram, &before).since(&before);
        assert_eq!(came.count, 4);
        assert!((came.mean().unwrap() - 0.225).abs() < 1e-9);
        assert!((came.quantile(0.5).unwrap() - 0.2).abs() < 1e-9);
        assert!((came.quantile(1.0).unwrap() - 0.4).abs() < 1e-9);
        let mut twice = came.clone();
        twice.add(&came);
        assert_eq!((twice.count, twice.quantile(0.5)), (8, came.quantile(0.5)));
        assert!((came.quantile(0.25).unwrap() - 0.15).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_neither_mean_nor_quantile() {
        let nothing = Distribution::of(&histogram(), &Distribution::default());
        assert_eq!((nothing.mean(), nothing.quantile(0.99)), (None, None));
        assert_eq!(nothing.since(&nothing).count, 0);
    }

    #[test]
    fn what_lies_beyond_the_last_bound_counts_as_that_bound() {
        let histogram = histogram();
        histogram.observe(7.0);
        let seen = Distribution::of(&histogram, &Distribution::default());
        assert_eq!(seen.quantile(0.5), Some(0.4));
    }
}
