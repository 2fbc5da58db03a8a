//! Builds a family whose samples are known at once, at the scrape.
//!
//! The `prometheus` crate's own types keep state of their own; figures that another layer owns are
//! put on the page through this instead, counters as counters.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A family under construction.
pub(crate) struct Family {
    family: MetricFamily,
    kind: MetricType,
    samples: Vec<Metric>,
}

impl Family {
    /// A family of values that never fall. The name ends in `_total`.
    pub(crate) fn counter(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::COUNTER)
    }

    /// A family of values that rise and fall.
    pub(crate) fn gauge(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::GAUGE)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Family {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Family { family, kind, samples: Vec::new() }
    }

    /// Adds one series.
    pub(crate) fn sample(mut self, labels: &[(&str, &str)], value: f64) -> Family {
        self.push(labels, value);
        self
    }

    /// Adds one series.
    pub(crate) fn push(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(labels.iter().map(label).collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.samples.push(metric);
    }

    /// The finished family, its series in the order in which they were added.
    pub(crate) fn build(mut self) -> MetricFamily {
        self.family.set_metric(self.samples);
        self.family
    }
}

fn label((name, value): &(&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name((*name).to_owned());
    pair.set_value((*value).to_owned());
    pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    fn text(family: Family) -> String {
        TextEncoder::new().encode_to_string(&[family.build()]).unwrap()
    }

    #[test]
    fn a_counter_is_a_counter_and_a_gauge_a_gauge() {
        assert_eq!(
            text(Family::counter("a_total", "As.").sample(&[], 3.0)),
            "# HELP a_total As.\n# TYPE a_total counter\na_total 3\n"
        );
        assert_eq!(
            text(Family::gauge("b", "Bs.").sample(&[("x", "1")], 0.5)),
            "# HELP b Bs.\n# TYPE b gauge\nb{x=\"1\"} 0.5\n"
        );
    }

    #[test]
    fn odd_label_values_are_escaped() {
        let page = text(Family::gauge("b", "Bs.").sample(&[("x", "q\"b\\n\nü")], 1.0));
        assert!(page.ends_with("b{x=\"q\\\"b\\\\n\\nü\"} 1\n"), "{page}");
        assert_eq!(page.lines().count(), 3);
    }
}
