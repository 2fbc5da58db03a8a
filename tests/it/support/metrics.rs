//! The metrics, as a scraper sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::PATIENCE;
use super::wire::Wire;

/// One scrape: each series as it stands on the page, and its value.
#[derive(Clone, Debug)]
pub struct Metrics(BTreeMap<String, f64>);

// === impl Metrics ===

impl Metrics {
    pub async fn scrape(admin: SocketAddr) -> Metrics {
        let mut wire = Wire::connect(admin).await;
        let page = wire
            .exchange("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(page.status(), 200);
        let lines = page.text().lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a series and its value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Metrics(series.collect())
    }

    /// Scrapes until it holds.
    pub async fn until(admin: SocketAddr, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let metrics = Metrics::scrape(admin).await;
            if holds(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{metrics}");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// The names of all series, without their labels.
    pub fn names(&self) -> BTreeSet<String> {
        let name = |series: &String| series.split('{').next().unwrap_or_default().to_owned();
        self.0.keys().map(name).collect()
    }

    /// The sum of all series of a family that carry these labels.
    pub fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let mut found = false;
        let mut sum = 0.0;
        for (series, value) in &self.0 {
            let (name, shown) = series.split_once('{').unwrap_or((series, ""));
            let carries = |(label, value): &(&str, &str)| {
                let shown = shown.trim_end_matches('}').split(',');
                shown.into_iter().any(|pair| pair == format!("{label}=\"{value}\""))
            };
            if name == family && labels.iter().all(carries) {
                found = true;
                sum += value;
            }
        }
        assert!(found, "no series {family} with {labels:?} in\n{self}");
        sum
    }

    /// What has been rejected for a reason, over all routes.
    pub fn rejected(&self, reason: &str) -> f64 {
        self.sum("tidegate_rejected_total", &[("reason", reason)])
    }

    /// How often clients left at a stage, over all routes.
    pub fn aborts(&self, stage: &str) -> f64 {
        self.sum("tidegate_client_aborts_total", &[("stage", stage)])
    }

    /// How often the application failed in this way, over all routes.
    pub fn errors(&self, token: &str) -> f64 {
        self.sum("tidegate_upstream_errors_total", &[("error", token)])
    }

    /// How many requests ended with this status, over all routes.
    pub fn answered(&self, code: u16) -> f64 {
        let code = code.to_string();
        self.sum("tidegate_requests_total", &[("code", &code)])
    }

    /// Nothing waits, nothing is in flight, and what became of each request has been counted.
    pub fn is_at_rest(&self) -> bool {
        let gauges = ["tidegate_queue_depth", "tidegate_in_flight", "tidegate_upstream_in_flight"];
        let quiet = gauges.iter().all(|gauge| self.sum(gauge, &[]) == 0.0);
        // More where requests were refused before they arrived at the gate.
        let ended = self.sum("tidegate_requests_total", &[]);
        quiet && ended >= self.sum("tidegate_arrivals_total", &[])
    }

    /// For each route: arrivals = admitted + rejected + abandoned + queued.
    #[track_caller]
    pub fn assert_conserved(&self) {
        for route in self.routes() {
            let of = |family| self.sum(family, &[("route", &route)]);
            let ended = of("tidegate_admitted_total")
                + of("tidegate_rejected_total")
                + of("tidegate_abandoned_total");
            let waiting = of("tidegate_queue_depth");
            assert_eq!(of("tidegate_arrivals_total"), ended + waiting, "route {route}\n{self}");
        }
    }

    fn routes(&self) -> Vec<String> {
        let route = |series: &String| {
            let labels = series.strip_prefix("tidegate_arrivals_total{route=\"")?;
            Some(labels.trim_end_matches("\"}").to_owned())
        };
        self.0.keys().filter_map(route).collect()
    }
}

impl std::fmt::Display for Metrics {
    /// What is not zero, without the histograms.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (series, value) in &self.0 {
            if *value != 0.0 && !series.contains("_bucket") && !series.starts_with("process_") {
                writeln!(f, "{series} {value}")?;
            }
        }
        Ok(())
    }
}
