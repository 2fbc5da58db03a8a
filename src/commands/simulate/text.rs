//! The report on a terminal: a table of figures, and what happened over time as lines of blocks.

use super::report::{self, GROUP_ROWS, Report};
use crate::commands::table::Table;
use crate::simulate::tally::{BIN, Bin};

const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns of a chart.
const WIDTH: usize = 64;

/// All of it, for one report or several side by side.
pub(super) fn text(reports: &[Report]) -> String {
    let mut out = String::from("\n");
    for report in reports {
        if reports.len() > 1 {
            out.push_str(&format!("  {}: {}\n", report.title, report.sentence()));
        } else {
            out.push_str(&format!("  {}\n", report.sentence()));
        }
    }
    out.push_str(&format!("  {}\n\n", seeds(reports)));
    out.push_str(&figures(reports));
    for report in reports {
        if report.scenario.groups.len() > 1 {
            out.push_str(&format!("\n  Groups{}\n\n", named(report, reports)));
            out.push_str(&groups(report));
        }
    }
    for report in reports {
        out.push_str(&format!("\n  Over time{}\n\n", named(report, reports)));
        out.push_str(&chart(report.series()));
    }
    out.push_str(&speed(reports));
    out
}

fn named(report: &Report, reports: &[Report]) -> String {
    if reports.len() > 1 { format!(": {}", report.title) } else { String::new() }
}

fn seeds(reports: &[Report]) -> String {
    let Some(report) = reports.first() else { return String::new() };
    match report.seeds[..] {
        [seed] => format!("seed {seed}"),
        ref seeds => format!("median of {} seeds (and the worst of them)", seeds.len()),
    }
}

fn speed(reports: &[Report]) -> String {
    let slowest = reports.iter().map(|report| report.speed).fold(f64::INFINITY, f64::min);
    format!("\n  {:.1} million attempts simulated a second on each core.\n", slowest / 1e6)
}

fn figures(reports: &[Report]) -> String {
    let (head, lines) = report::figures(reports);
    let mut table = Table::of([String::new()].into_iter().chain(head).collect());
    for (label, part, cells) in lines {
        let label = if part { format!("  {label}") } else { label };
        table.cells([label].into_iter().chain(cells).collect());
    }
    table.text()
}

fn groups(report: &Report) -> String {
    let head = [String::new()].into_iter();
    let mut table =
        Table::of(head.chain(GROUP_ROWS.iter().map(|row| row.label.to_owned())).collect());
    for (index, group) in report.scenario.groups.iter().enumerate() {
        let cell = |row| report.cell(row, report.scenario.windows.len() - 1, Some(index));
        let cells = GROUP_ROWS.iter().map(|row| cell(row).text(row.unit, 1));
        table.cells([group.name.clone()].into_iter().chain(cells).collect());
    }
    table.text()
}

/// A line of blocks for each of what can be seen over time.
fn chart(series: &[Bin]) -> String {
    let step = series.len().div_ceil(WIDTH).max(1);
    let seconds = step as f64 * BIN as f64 / 1e9;
    let rate = |value: fn(&Bin) -> u32| -> Vec<f64> {
        let sum = |bins: &[Bin]| f64::from(bins.iter().map(value).sum::<u32>());
        series.chunks_exact(step).map(|bins| sum(bins) / seconds).collect()
    };
    let level = |value: fn(&Bin) -> u32| -> Vec<f64> {
        let mean =
            |bins: &[Bin]| f64::from(bins.iter().map(value).sum::<u32>()) / bins.len() as f64;
        series.chunks_exact(step).map(mean).collect()
    };
    let rates = [
        ("attempts/s", rate(|bin| bin.attempts)),
        ("answered/s", rate(|bin| bin.served)),
        ("turned away/s", rate(|bin| bin.rejected)),
        ("timed out/s", rate(|bin| bin.timeouts)),
    ];
    let levels = [
        ("answer, ms", series.chunks_exact(step).map(mean_millis).collect()),
        ("queue", level(|bin| bin.queued)),
        ("in flight", level(|bin| bin.in_flight)),
        ("limit", level(|bin| bin.limit)),
    ];
    let highest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    // Rates share a scale, so that they can be compared.
    let scale = rates.iter().map(|(_, values)| highest(values)).fold(0.0, f64::max);
    let mut out = String::new();
    for (label, values) in &rates {
        out.push_str(&line(label, values, scale, highest(values)));
    }
    for (label, values) in &levels {
        out.push_str(&line(label, values, highest(values), highest(values)));
    }
    let end = series.len() as f64 * BIN as f64 / 1e9;
    let width = series.len() / step;
    out.push_str(&format!("  {:<14} 0 s{:>width$.0} s\n", "", end, width = width.max(6) - 5));
    out
}

/// How long answers took on average; not a number where there were none.
pub(super) fn mean_millis(bins: &[Bin]) -> f64 {
    let served: u32 = bins.iter().map(|bin| bin.served).sum();
    bins.iter().map(|bin| bin.took).sum::<u64>() as f64 / 1e3 / f64::from(served)
}

fn line(label: &str, values: &[f64], scale: f64, highest: f64) -> String {
    let block = |value: &f64| {
        let eighths = if scale > 0.0 { (value / scale * 8.0).round() as usize } else { 0 };
        // Little is not nothing.
        BLOCKS[if *value > 0.0 { eighths.clamp(1, 8) } else { 0 }]
    };
    let blocks: String = values.iter().map(block).collect();
    format!("  {label:<14} {blocks} to {highest:.0}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_rises_with_its_values() {
        assert_eq!(line("queue", &[0.0, 0.1, 4.0, 8.0], 8.0, 8.0), "  queue           ▁▄█ to 8\n");
    }

    #[test]
    fn a_chart_has_a_line_for_each_kind_and_an_axis() {
        let series = vec![Bin { calls: 5, attempts: 5, served: 4, ..Bin::default() }; 120];
        let chart = chart(&series);
        assert_eq!(chart.lines().count(), 9);
        assert!(chart.contains("attempts/s     ") && chart.contains("to 20\n"));
        assert!(chart.lines().all(|line| line.chars().count() < 100));
    }
}
