//! The report for machines.

use serde_json::{Map, Value, json};

use super::report::{GROUP_ROWS, ROWS, Report, Row};
use crate::simulate::tally::{BIN, Bin};

/// One object for all reports.
pub(super) fn json(reports: &[Report]) -> Value {
    json!({ "reports": reports.iter().map(report).collect::<Vec<_>>() })
}

fn report(report: &Report) -> Value {
    let windows = report.scenario.windows.iter().enumerate().map(|(index, window)| {
        let groups = report.scenario.groups.iter().enumerate();
        let groups: Map<String, Value> = groups
            .map(|(group, table)| {
                (table.name.clone(), rows(report, &GROUP_ROWS, index, Some(group)))
            })
            .collect();
        json!({
            "window": window.to_string(),
            "figures": rows(report, &ROWS, index, None),
            "rejected": rejected(report, index),
            "groups": groups,
        })
    });
    json!({
        "title": report.title,
        "scenario": report.scenario.name,
        "seeds": report.seeds,
        "capacity": report.scenario.capacity(),
        "windows": windows.collect::<Vec<_>>(),
        "series": series(report.series()),
    })
}

fn rejected(report: &Report, window: usize) -> Value {
    let reasons = report.reasons(window).into_iter().map(|refused| {
        let value = json!({ "share": refused.share, "p50": refused.p50, "p99": refused.p99 });
        (refused.reason.to_owned(), value)
    });
    Value::Object(reasons.collect())
}

fn rows(report: &Report, rows: &[Row], window: usize, group: Option<usize>) -> Value {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    let figures: Map<String, Value> = rows
        .iter()
        .map(|row| {
            let cell = report.cell(row, window, group);
            let value = json!({ "median": finite(cell.median), "worst": finite(cell.worst) });
            (row.figure.name().to_owned(), value)
        })
        .collect();
    Value::Object(figures)
}

/// One list for each of what was counted, so that it is short and easy to draw.
fn series(series: &[Bin]) -> Value {
    let list = |value: fn(&Bin) -> u32| series.iter().map(value).collect::<Vec<_>>();
    json!({
        "bin_seconds": BIN as f64 / 1e9,
        "calls": list(|bin| bin.calls),
        "attempts": list(|bin| bin.attempts),
        "answered": list(|bin| bin.served),
        "rejected": list(|bin| bin.rejected),
        "timeouts": list(|bin| bin.timeouts),
        "queued": list(|bin| bin.queued),
        "in_flight": list(|bin| bin.in_flight),
        "limit": list(|bin| bin.limit),
    })
}
