//! What runs came to, in rows with names and units: what every form of the report is made of.

use std::time::{Duration, Instant};

use super::plan::Plan;
use crate::config::scenario::LimitWord;
use crate::gate::{Budget, RejectReason};
use crate::simulate::figures::{Figure, Figures};
use crate::simulate::scenario::{Protection, Scenario};
use crate::simulate::suite::in_parallel;
use crate::simulate::tally::{Bin, Counted, GroupTally};

/// A plan, run with all of its seeds.
#[derive(Debug)]
pub(super) struct Report {
    /// What it is called beside another.
    pub(super) title: String,
    pub(super) scenario: Scenario,
    pub(super) seeds: Vec<u64>,
    runs: Vec<Counted>,
    /// Attempts simulated a second and thread.
    pub(super) speed: f64,
}

/// Who was turned away for one reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) reason: &'static str,
    /// Of all attempts.
    pub(super) share: f64,
    /// Median time to the rejection, ms.
    pub(super) p50: f64,
    /// 99 % came within, ms.
    pub(super) p99: f64,
}

/// How a number is written, and what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Share,
    PerSecond,
    Millis,
    Seconds,
    Count,
    Plain,
}

/// Whether more of it is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
    Neither,
}

/// A row of the report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) label: &'static str,
    pub(super) figure: Figure,
    pub(super) unit: Unit,
    pub(super) better: Better,
}

/// A figure over all seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cell {
    pub(super) median: Option<f64>,
    pub(super) worst: Option<f64>,
}

const fn row(label: &'static str, figure: Figure, unit: Unit, better: Better) -> Row {
    Row { label, figure, unit, better }
}

/// What is reported of all clients together.
pub(super) const ROWS: [Row; 19] = [
    row("calls", Figure::Offered, Unit::PerSecond, Better::Neither),
    row("attempts", Figure::Attempts, Unit::PerSecond, Better::Neither),
    row("answered in time", Figure::Served, Unit::PerSecond, Better::More),
    row("goodput, of capacity", Figure::Goodput, Unit::Share, Better::More),
    row("calls answered", Figure::Answered, Unit::Share, Better::More),
    row("turned away, of attempts", Figure::Rejected, Unit::Share, Better::Less),
    row("answer p50", Figure::P50, Unit::Millis, Better::Less),
    row("answer p90", Figure::P90, Unit::Millis, Better::Less),
    row("answer p99", Figure::P99, Unit::Millis, Better::Less),
    row("wait p50", Figure::WaitP50, Unit::Millis, Better::Less),
    row("wait p99", Figure::WaitP99, Unit::Millis, Better::Less),
    row("rejection p50", Figure::RefusalP50, Unit::Millis, Better::Less),
    row("rejection p99", Figure::RefusalP99, Unit::Millis, Better::Less),
    row("work wasted", Figure::Wasted, Unit::Share, Better::Less),
    row("fairness (Jain)", Figure::Jain, Unit::Plain, Better::More),
    row("recovered after", Figure::Recovery, Unit::Seconds, Better::Less),
    row("mean limit", Figure::Limit, Unit::Plain, Better::Neither),
    row("inversions", Figure::Inversions, Unit::Count, Better::Less),
    row("promises broken", Figure::Violations, Unit::Count, Better::Less),
];

/// What is reported of each group, where there are several.
pub(super) const GROUP_ROWS: [Row; 6] = [
    row("calls", Figure::Offered, Unit::PerSecond, Better::Neither),
    row("answered", Figure::Answered, Unit::Share, Better::More),
    row("turned away", Figure::Rejected, Unit::Share, Better::Less),
    row("of the slots", Figure::GrantShare, Unit::Share, Better::Neither),
    row("p50", Figure::P50, Unit::Millis, Better::Less),
    row("p99", Figure::P99, Unit::Millis, Better::Less),
];

// === impl Report ===

impl Report {
    /// Runs a plan.
    pub(super) fn of(title: &str, plan: Plan, threads: usize) -> Report {
        let began = Instant::now();
        let threads = threads.min(plan.seeds.len());
        let runs =
            in_parallel(&plan.seeds, threads, |seed| crate::simulate::run(&plan.scenario, seed));
        let attempts: u64 = runs.iter().map(|counted| counted.attempts).sum();
        let speed = attempts as f64 / began.elapsed().as_secs_f64() / threads as f64;
        let Plan { scenario, seeds } = plan;
        Report { title: title.to_owned(), scenario, seeds, runs, speed }
    }

    /// A figure of a window, of one group or of all.
    pub(super) fn cell(&self, row: &Row, window: usize, group: Option<usize>) -> Cell {
        let value =
            |counted| Figures::new(&self.scenario, counted).value(row.figure, window, group);
        let mut values: Vec<f64> = self.runs.iter().filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        let worst = match row.better {
            Better::More => values.first(),
            Better::Less => values.last(),
            Better::Neither => None,
        };
        Cell { median: values.get(values.len() / 2).copied(), worst: worst.copied() }
    }

    /// Each reason for which somebody was turned away in a window.
    pub(super) fn reasons(&self, window: usize) -> Vec<Refused> {
        let mut total = GroupTally::default();
        self.runs.iter().for_each(|run| total.add(&run.windows[window].total()));
        let refused = |reason: &RejectReason| {
            let times = &total.refusals[*reason as usize];
            (!times.is_empty()).then(|| Refused {
                reason: reason.label(),
                share: times.len() as f64 / total.attempts.max(1) as f64,
                p50: millis(times.quantile(0.5)),
                p99: millis(times.quantile(0.99)),
            })
        };
        RejectReason::ALL.iter().filter_map(refused).collect()
    }

    /// What happened over time, under the first seed.
    pub(super) fn series(&self) -> &[Bin] {
        self.runs.first().map_or(&[], |run| &run.series)
    }

    /// In a sentence: the application, its clients, what stands between them.
    pub(super) fn sentence(&self) -> String {
        let app = &self.scenario.app;
        let mut laws: Vec<_> =
            self.scenario.groups.iter().map(|group| group.service.to_string()).collect();
        laws.dedup();
        let rate: f64 = self.scenario.groups.iter().map(|group| group.rates[0].1).sum();
        format!(
            "{} workers x {} = {:.0}/s; {:.0} calls/s for {} s; {}",
            app.workers,
            laws.join(", "),
            self.scenario.capacity(),
            rate,
            self.scenario.duration.as_secs_f64(),
            self.protection()
        )
    }

    fn protection(&self) -> String {
        match (self.scenario.protection, self.scenario.limits.budget) {
            (Protection::None, _) => "no gate".to_owned(),
            (Protection::Gate, Budget::Auto(_)) => "a limit that finds itself".to_owned(),
            (Protection::Gate, Budget::Fixed(limit)) => format!("at most {limit} in flight"),
            (protection, _) => {
                let found = Protection::ALL.iter().find(|(_, other)| *other == protection);
                format!("a limit set by {}", found.map_or("", |(name, _)| name))
            }
        }
    }
}

/// A line of the table of figures: its label, whether it is a part of the line above, its cells.
pub(super) type TableLine = (String, bool, Vec<String>);

/// The table of figures: a column for each report and window.
pub(super) fn figures(reports: &[Report]) -> (Vec<String>, Vec<TableLine>) {
    let windows = |report: &Report| report.scenario.windows.len();
    let columns: Vec<_> = reports
        .iter()
        .flat_map(|report| (0..windows(report)).map(move |window| (report, window)))
        .collect();
    let head = columns.iter().map(|(report, window)| {
        let title = if reports.len() > 1 { format!("{}, ", report.title) } else { String::new() };
        format!("{title}{}", report.scenario.windows[*window])
    });
    let mut lines = Vec::new();
    for row in ROWS.iter().filter(|row| row.figure != Figure::Jain || reports.iter().all(few)) {
        let cells: Vec<_> =
            columns.iter().map(|(report, window)| report.cell(row, *window, None)).collect();
        if cells.iter().all(|cell| cell.median.is_none()) {
            continue;
        }
        let texts = cells.iter().zip(&columns);
        let texts = texts.map(|(cell, (report, _))| cell.text(row.unit, report.seeds.len()));
        lines.push((row.label.to_owned(), false, texts.collect()));
        if row.figure == Figure::Rejected {
            reasons(&columns, &mut lines);
        }
    }
    (head.collect(), lines)
}

/// Whether there are so few clients that the share of each means something.
fn few(report: &Report) -> bool {
    report.scenario.groups.iter().map(|group| group.clients).sum::<u32>() <= 100
}

/// A line for each reason that occurs.
fn reasons(columns: &[(&Report, usize)], lines: &mut Vec<TableLine>) {
    let found: Vec<_> = columns.iter().map(|(report, window)| report.reasons(*window)).collect();
    let mut names: Vec<_> = found.iter().flatten().map(|refused| refused.reason).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let text = |refused: &Vec<Refused>| match refused.iter().find(|one| one.reason == name) {
            Some(one) => {
                let (p50, p99) =
                    (Unit::Millis.text(Some(one.p50)), Unit::Millis.text(Some(one.p99)));
                format!("{}, p50 {p50}, p99 {p99}", Unit::Share.text(Some(one.share)))
            }
            None => "-".to_owned(),
        };
        lines.push((name.to_owned(), true, found.iter().map(text).collect()));
    }
}

fn millis(time: Option<Duration>) -> f64 {
    time.unwrap_or_default().as_secs_f64() * 1e3
}

/// What a limit is called in a title.
pub(super) fn limit_title(limit: Option<LimitWord>, max_in_flight: Option<&str>) -> String {
    match (limit, max_in_flight) {
        (Some(limit), _) => limit.name().to_owned(),
        (None, Some(number)) => number.to_owned(),
        (None, None) => "defaults".to_owned(),
    }
}

// === impl Unit ===

impl Unit {
    /// A number for people.
    pub(super) fn text(self, value: Option<f64>) -> String {
        match (self, value) {
            (_, None) => "-".to_owned(),
            (Unit::Seconds, Some(value)) if value.is_infinite() => "never".to_owned(),
            (Unit::Share, Some(value)) => format!("{:.1} %", value * 100.0),
            (Unit::PerSecond, Some(value)) => format!("{value:.0}/s"),
            (Unit::Millis, Some(value)) if value < 10.0 => format!("{value:.1} ms"),
            (Unit::Millis, Some(value)) => format!("{value:.0} ms"),
            (Unit::Seconds, Some(value)) => format!("{value:.0} s"),
            (Unit::Count, Some(value)) => format!("{value:.0}"),
            (Unit::Plain, Some(value)) if value < 10.0 => format!("{value:.3}"),
            (Unit::Plain, Some(value)) => format!("{value:.1}"),
        }
    }
}

// === impl Cell ===

impl Cell {
    /// The median, and the worst where there are several seeds and one is worse.
    pub(super) fn text(self, unit: Unit, seeds: usize) -> String {
        let median = unit.text(self.median);
        match self.worst {
            Some(worst) if seeds > 1 && self.median != Some(worst) => {
                format!("{median} ({})", unit.text(Some(worst)))
            }
            _ => median,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(Unit::Share.text(Some(0.9876)), "98.8 %");
        assert_eq!(Unit::Millis.text(Some(3.21)), "3.2 ms");
        assert_eq!(Unit::Seconds.text(Some(f64::INFINITY)), "never");
        let cell = Cell { median: Some(0.5), worst: Some(0.25) };
        assert_eq!(cell.text(Unit::Share, 1), "50.0 %");
        assert_eq!(cell.text(Unit::Share, 20), "50.0 % (25.0 %)");
        assert_eq!(Cell::default().text(Unit::Count, 20), "-");
    }
}
