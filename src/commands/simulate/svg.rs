//! Charts as inline SVG: lines over one axis. Colours are classes, which the page gives a value.

use std::fmt::Write;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

/// A chart.
#[derive(Debug)]
pub(super) struct Chart<'c> {
    pub(super) title: &'c str,
    /// Written after the numbers of the vertical axis.
    pub(super) unit: &'c str,
    pub(super) lines: Vec<Line<'c>>,
    /// Marks of the horizontal axis: where, from 0 to 1, and what.
    pub(super) marks: Vec<(f64, String)>,
    /// A place to look at.
    pub(super) highlight: Option<(f64, String)>,
}

/// A line of a chart.
#[derive(Debug)]
pub(super) struct Line<'c> {
    pub(super) label: &'c str,
    /// The class of its colour.
    pub(super) class: &'c str,
    /// Evenly spread from the left to the right.
    pub(super) values: Vec<f64>,
    /// Whether the area below it is filled.
    pub(super) filled: bool,
}

/// Text that may stand between tags or in an attribute.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

// === impl Chart ===

impl Chart<'_> {
    /// A figure with its title, its legend and its picture.
    pub(super) fn figure(&self) -> String {
        let mut legend = String::new();
        for line in &self.lines {
            put(&mut legend, format_args!("<span class=\"{}\">{}</span>", line.class, line.label));
        }
        format!(
            "<figure>\n<figcaption><b>{}</b> <span class=\"legend\">{legend}</span></figcaption>\n\
             {}</figure>\n",
            escape(self.title),
            self.picture()
        )
    }

    fn picture(&self) -> String {
        let values = self.lines.iter().flat_map(|line| &line.values);
        let top = nice(values.copied().fold(0.0, f64::max));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(self.title)
        );
        for part in [0.0, 0.5, 1.0] {
            let at = y(part);
            let (to, text) = (WIDTH - RIGHT, number(part * top));
            put(
                &mut svg,
                format_args!(
                    "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{to}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}{}</text>\n",
                    LEFT - 6.0,
                    at + 4.0,
                    escape(self.unit)
                ),
            );
        }
        for (part, text) in &self.marks {
            let anchor = if *part > 0.95 { "end" } else { "middle" };
            put(
                &mut svg,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
                    x(*part),
                    HEIGHT - 6.0,
                    escape(text)
                ),
            );
        }
        if let Some((part, text)) = &self.highlight {
            let (at, bottom) = (x(*part), y(0.0));
            put(
                &mut svg,
                format_args!(
                    "<line class=\"here\" x1=\"{at:.1}\" x2=\"{at:.1}\" \
                     y1=\"{TOP}\" y2=\"{bottom:.1}\"/>\
                 <text class=\"here\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                    at + 5.0,
                    y(0.06),
                    escape(text)
                ),
            );
        }
        self.lines.iter().for_each(|line| line.draw(&mut svg, top));
        svg.push_str("</svg>\n");
        svg
    }
}

// === impl Line ===

impl Line<'_> {
    /// Whether there is nothing to see.
    pub(super) fn is_empty(&self) -> bool {
        self.values.iter().all(|value| value.is_nan() || *value == 0.0)
    }

    fn draw(&self, svg: &mut String, top: f64) {
        let last = (self.values.len().max(2) - 1) as f64;
        let points = self.values.iter().enumerate();
        let points: Vec<_> = points.map(|(index, value)| (index as f64 / last, *value)).collect();
        // What is not a number is a gap.
        for part in points.split(|(_, value)| value.is_nan()) {
            let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
            let mut points = String::new();
            for (at, value) in part {
                put(&mut points, format_args!(" {:.1},{:.1}", x(*at), y(value / top)));
            }
            let (points, class) = (points.trim_start(), self.class);
            if self.filled {
                let (left, right, bottom) = (x(first.0), x(last.0), y(0.0));
                put(
                    svg,
                    format_args!(
                        "<polygon class=\"{class}\" points=\"{left:.1},{bottom:.1} {points} \
                         {right:.1},{bottom:.1}\"/>\n"
                    ),
                );
            }
            put(svg, format_args!("<polyline class=\"{class}\" points=\"{points}\"/>\n"));
        }
    }
}

fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("writing to a string succeeds");
}

fn x(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn y(part: f64) -> f64 {
    HEIGHT - BOTTOM - part.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
}

/// The next number that is easy to read.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.iter().map(|step| step * power).find(|step| *step >= value * 0.999).unwrap_or(value)
}

fn number(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.0}k", value / 1e3)
    } else if value == 0.0 || value >= 10.0 {
        format!("{value:.0}")
    } else {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_numbers_that_are_easy_to_read() {
        let ends: Vec<_> = [0.0, 0.95, 1_590.0, 17.0, 801.0].iter().map(|v| nice(*v)).collect();
        assert_eq!(ends, [1.0, 1.0, 1_600.0, 20.0, 1_000.0]);
        assert_eq!([0.0, 0.25, 800.0, 24_000.0].map(number), ["0", "0.25", "800", "24k"]);
    }

    #[test]
    fn a_picture_holds_its_lines_within_its_frame() {
        let line =
            Line { label: "answered", class: "good", values: vec![0.0, 5.0, 10.0], filled: true };
        let chart = Chart {
            title: "a < b",
            unit: "",
            lines: vec![line],
            marks: vec![(0.0, "0 s".to_owned())],
            highlight: None,
        };
        let figure = chart.figure();
        assert!(figure.contains("a &lt; b") && !figure.contains("a < b"));
        assert!(figure.contains("points=\"44.0,176.0 257.0,93.0 470.0,10.0\""), "{figure}");
    }
}
