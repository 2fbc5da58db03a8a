//! The report as a page of its own: nothing is loaded, nothing runs, light and dark.

use super::report::{self, GROUP_ROWS, Report, Unit};
use super::svg::{Chart, Line, escape};
use super::sweep::Swept;
use super::text::mean_millis;
use crate::simulate::tally::{BIN, Bin};

/// Points of a line over time.
const POINTS: usize = 240;

const STYLE: &str = include_str!("page.css");

/// One report, or several side by side.
pub(super) fn reports(reports: &[Report]) -> String {
    let mut body = String::new();
    for report in reports {
        let title = if reports.len() > 1 {
            format!("<b>{}</b>: ", escape(&report.title))
        } else {
            String::new()
        };
        body.push_str(&format!("<p>{title}{}</p>\n", escape(&report.sentence())));
    }
    if let Some(report) = reports.first() {
        body.push_str(&match report.seeds[..] {
            [seed] => format!("<p>Seed {seed}.</p>\n"),
            ref seeds => format!(
                "<p>Figures: the median of {} seeds, and the worst in brackets. \
                 Charts: seed {}.</p>\n",
                seeds.len(),
                seeds[0]
            ),
        });
    }
    for report in reports {
        let title =
            if reports.len() > 1 { format!(": {}", escape(&report.title)) } else { String::new() };
        body.push_str(&format!("<h2>Over time{title}</h2>\n<div class=\"charts\">\n"));
        charts(report.series()).iter().for_each(|chart| body.push_str(&chart.figure()));
        body.push_str("</div>\n");
    }
    body.push_str("<h2>Figures</h2>\n");
    body.push_str(&figures(reports));
    for report in reports.iter().filter(|report| report.scenario.groups.len() > 1) {
        body.push_str(&format!("<h2>Groups: {}</h2>\n", escape(&report.title)));
        body.push_str(&groups(report));
    }
    page("tidegate simulate", &body)
}

/// One value after the other.
pub(super) fn sweep(swept: &Swept) -> String {
    let mut body = format!("<p>{}</p>\n", escape(&swept.sentence));
    if let Some(knee) = swept.knee {
        body.push_str(&format!(
            "<p><b>{} = {knee}</b> is the smallest within 2 % of the best goodput.</p>\n",
            swept.name
        ));
    }
    let last = (swept.points.len().max(2) - 1) as f64;
    let step = swept.points.len().div_ceil(10).max(1);
    let places = swept.points.iter().enumerate().map(|(index, point)| (index, point.value));
    let marks: Vec<_> = places
        .clone()
        .step_by(step)
        .map(|(index, value)| (index as f64 / last, value.to_string()))
        .collect();
    let highlight = places
        .filter(|(_, value)| Some(*value) == swept.knee)
        .map(|(index, value)| (index as f64 / last, format!("{value} is enough")))
        .next();
    let of = |value: fn(&super::sweep::Point) -> f64| swept.points.iter().map(value).collect();
    let line = |label, class, values, filled| Line { label, class, values, filled };
    let chart = |title, unit, lines| Chart {
        title,
        unit,
        lines,
        marks: marks.clone(),
        highlight: highlight.clone(),
    };
    body.push_str("<div class=\"charts\">\n");
    let shares = vec![
        line("goodput, of capacity", "good", of(|point| point.goodput * 100.0), true),
        line("turned away", "shed", of(|point| point.rejected * 100.0), false),
    ];
    body.push_str(&chart("Goodput", " %", shares).figure());
    let waits =
        vec![line("99 % answered within", "blue", of(|point| point.p99.unwrap_or(0.0)), true)];
    body.push_str(&chart("Latency, ms", "", waits).figure());
    body.push_str("</div>\n<h2>Figures</h2>\n<div class=\"table\"><table>\n");
    body.push_str(&format!(
        "<tr><th>{}</th><th>goodput</th><th>p99</th><th>turned away</th></tr>\n",
        swept.name
    ));
    for point in &swept.points {
        let class = if swept.knee == Some(point.value) { " class=\"knee\"" } else { "" };
        body.push_str(&format!(
            "<tr{class}><th>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            point.value,
            Unit::Share.text(Some(point.goodput)),
            Unit::Millis.text(point.p99),
            Unit::Share.text(Some(point.rejected))
        ));
    }
    body.push_str("</table></div>\n");
    page(&format!("tidegate simulate: {}", swept.name), &body)
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         {body}</body>\n</html>\n"
    )
}

fn charts(series: &[Bin]) -> Vec<Chart<'static>> {
    let step = series.len().div_ceil(POINTS).max(1);
    let sums = |value: fn(&Bin) -> u32| -> Vec<f64> {
        let sum = |bins: &[Bin]| f64::from(bins.iter().map(value).sum::<u32>());
        series.chunks_exact(step).map(|bins| sum(bins) / bins.len() as f64).collect()
    };
    let per_second = 1e9 / BIN as f64;
    let rate = |label, class, value, filled| {
        let values = sums(value).iter().map(|value| value * per_second).collect();
        Line { label, class, values, filled }
    };
    let level = |label, class, value, filled| Line { label, class, values: sums(value), filled };
    let chart = |title, lines: Vec<Line<'static>>| {
        let lines = lines.into_iter().filter(|line| !line.is_empty()).collect();
        Chart { title, unit: "", lines, marks: seconds(series), highlight: None }
    };
    let mut charts = vec![
        chart(
            "Requests a second",
            vec![
                rate("attempts", "load", |bin| bin.attempts, false),
                rate("answered in time", "good", |bin| bin.served, true),
                rate("turned away", "shed", |bin| bin.rejected, false),
                rate("timed out", "bad", |bin| bin.timeouts, false),
            ],
        ),
        chart(
            "Time to the answer, ms",
            vec![Line {
                label: "mean",
                class: "blue",
                values: series.chunks_exact(step).map(mean_millis).collect(),
                filled: true,
            }],
        ),
        chart("Queue", vec![level("waiting", "blue", |bin| bin.queued, true)]),
        chart(
            "In flight",
            vec![
                level("limit", "load", |bin| bin.limit, false),
                level("in flight", "good", |bin| bin.in_flight, true),
            ],
        ),
    ];
    charts.retain(|chart| !chart.lines.is_empty());
    charts
}

/// Marks along the time, at numbers that are easy to read.
fn seconds(series: &[Bin]) -> Vec<(f64, String)> {
    let end = series.len() as f64 * BIN as f64 / 1e9;
    let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    let step = steps.into_iter().find(|step| end / step <= 6.0).unwrap_or(end);
    let count = (end / step) as u32;
    (0..=count).map(|n| f64::from(n) * step).map(|at| (at / end, format!("{at} s"))).collect()
}

fn figures(reports: &[Report]) -> String {
    let (head, lines) = report::figures(reports);
    let mut table = String::from("<div class=\"table\"><table>\n<tr><th></th>");
    head.iter().for_each(|title| table.push_str(&format!("<th>{}</th>", escape(title))));
    table.push_str("</tr>\n");
    for (label, part, cells) in lines {
        let class = if part { " class=\"part\"" } else { "" };
        table.push_str(&format!("<tr{class}><th>{label}</th>"));
        cells.iter().for_each(|cell| table.push_str(&format!("<td>{cell}</td>")));
        table.push_str("</tr>\n");
    }
    table.push_str("</table></div>\n");
    table
}

fn groups(report: &Report) -> String {
    let window = report.scenario.windows.len() - 1;
    let mut table = String::from("<div class=\"table\"><table>\n<tr><th></th>");
    GROUP_ROWS.iter().for_each(|row| table.push_str(&format!("<th>{}</th>", row.label)));
    table.push_str("</tr>\n");
    for (index, group) in report.scenario.groups.iter().enumerate() {
        table.push_str(&format!("<tr><th>{}</th>", escape(&group.name)));
        for row in &GROUP_ROWS {
            let text = report.cell(row, window, Some(index)).text(row.unit, 1);
            table.push_str(&format!("<td>{text}</td>"));
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table></div>\n");
    table
}
