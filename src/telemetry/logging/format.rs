//! How a log line looks: JSON for machines, text for people.
//!
//! Each value passes through `escape`, so that no request can forge a line; each value and each
//! line is bounded in length. Pure: the time is an argument, and the line goes to a `String`.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::Level;

use super::escape::{Escape, MAX_VALUE};

/// The longest line in bytes. Fields beyond it are left out, and `cut=true` says so.
pub(super) const MAX_LINE: usize = 8 << 10;

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// One flat object a line.
    Json,
    /// `time level message key=value`, with terminal colours or without.
    Text {
        /// Whether to use colours.
        colour: bool,
    },
}

/// A line under construction.
pub(super) struct Line<'a> {
    out: &'a mut String,
    style: Style,
    /// A field did not fit.
    cut: bool,
}

impl<'a> Line<'a> {
    /// Begins a line in `out`, which is emptied.
    pub(super) fn begin(
        out: &'a mut String,
        style: Style,
        now: SystemTime,
        level: Level,
        target: &str,
        message: impl fmt::Display,
    ) -> Line<'a> {
        out.clear();
        let mut line = Line { out, style, cut: false };
        match style {
            Style::Json => {
                line.out.push_str("{\"timestamp\":\"");
                push_time(line.out, now);
                // The names of levels need no escape.
                line.put(format_args!("\",\"level\":\"{level}\""));
                line.json_string("message", message);
                line.json_string("target", target);
            }
            Style::Text { colour } => {
                line.dim(|out| push_time(out, now));
                let (on, off) = if colour { (level_colour(level), RESET) } else { ("", "") };
                line.put(format_args!(" {on}{level:>5}{off} "));
                let start = line.out.len();
                line.escaped(message);
                // Aligns the fields of short messages.
                let width = line.out[start..].chars().count();
                line.put(format_args!("{:1$}", "", 20usize.saturating_sub(width)));
                // The library's own lines need no origin; a dependency's do.
                if target.split("::").next() != Some(env!("CARGO_PKG_NAME")) {
                    line.text_value("target", target);
                }
            }
        }
        line
    }

    /// Adds a value of text.
    pub(super) fn string(&mut self, name: &str, value: impl fmt::Display) {
        if !self.fits(name) {
            return;
        }
        match self.style {
            Style::Json => self.json_string(unreserved(name), value),
            Style::Text { .. } => self.text_value(name, value),
        }
    }

    /// Adds a number or a truth value: anything whose `Display` is valid JSON.
    pub(super) fn literal(&mut self, name: &str, value: impl fmt::Display) {
        if !self.fits(name) {
            return;
        }
        match self.style {
            Style::Json => {
                self.json_name(unreserved(name));
                self.put(format_args!("{value}"));
            }
            Style::Text { .. } => self.text_value(name, value),
        }
    }

    /// Ends the line with its newline.
    pub(super) fn end(mut self) {
        if self.cut {
            match self.style {
                Style::Json => self.out.push_str(",\"cut\":true"),
                Style::Text { .. } => self.text_value("cut", true),
            }
        }
        self.out.push_str(if self.style == Style::Json { "}\n" } else { "\n" });
        debug_assert!(self.out.len() <= MAX_LINE, "{} bytes", self.out.len());
    }

    /// Whether one more field is sure to fit, whatever its value.
    fn fits(&mut self, name: &str) -> bool {
        // Quotes, colours, separators and the end of the line.
        const AROUND: usize = 64;
        let fits = self.out.len() + name.len() + MAX_VALUE + AROUND <= MAX_LINE;
        self.cut |= !fits;
        fits
    }

    fn json_name(&mut self, name: &str) {
        self.out.push_str(",\"");
        self.out.push_str(name);
        self.out.push_str("\":");
    }

    fn json_string(&mut self, name: &str, value: impl fmt::Display) {
        self.json_name(name);
        self.out.push('"');
        self.escaped(value);
        self.out.push('"');
    }

    fn text_value(&mut self, name: &str, value: impl fmt::Display) {
        self.out.push(' ');
        self.dim(|out| {
            out.push_str(name);
            out.push('=');
        });
        let start = self.out.len();
        self.escaped(value);
        let written = &self.out[start..];
        if written.is_empty() || written.contains([' ', '=', '"', '\\']) {
            self.out.insert(start, '"');
            self.out.push('"');
        }
    }

    fn escaped(&mut self, value: impl fmt::Display) {
        let mut escape = Escape::new(self.out, self.style == Style::Json);
        // A value whose formatting fails is left as far as it came; the line goes on.
        let _ = write!(escape, "{value}");
    }

    fn dim(&mut self, write: impl FnOnce(&mut String)) {
        let colour = self.style == Style::Text { colour: true };
        self.out.push_str(if colour { "\x1b[2m" } else { "" });
        write(self.out);
        self.out.push_str(if colour { RESET } else { "" });
    }

    /// Writing to a `String` cannot fail.
    fn put(&mut self, arguments: fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(arguments);
    }
}

/// A field's name where it is not one of those that each line has: an object names a member once.
fn unreserved(name: &str) -> &str {
    match name {
        "timestamp" => "timestamp_",
        "level" => "level_",
        "message" => "message_",
        "target" => "target_",
        "cut" => "cut_",
        other => other,
    }
}

const RESET: &str = "\x1b[0m";

fn level_colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// RFC 3339, UTC, with milliseconds.
fn push_time(out: &mut String, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    let _ =
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
}

/// The date `days` after 1970-01-01 in the Gregorian calendar, by Howard Hinnant's
/// `civil_from_days` ("chrono-Compatible Low-Level Date Algorithms"). Years begin in March, so that
/// a leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logging::escape::{CUT, is_hidden};
    use std::time::Duration;

    const TEXT: Style = Style::Text { colour: false };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn line(style: Style, message: &str, fields: impl FnOnce(&mut Line<'_>)) -> String {
        let mut out = String::new();
        let mut line =
            Line::begin(&mut out, style, at(0), Level::INFO, "tidegate::server", message);
        fields(&mut line);
        line.end();
        out
    }

    #[test]
    fn json_is_one_flat_object() {
        let written = line(Style::Json, "listening", |line| {
            line.string("address", "[::]:80");
            line.literal("workers", 4);
            line.string("target", "x");
        });
        assert_eq!(
            written,
            "{\"timestamp\":\"1970-01-01T00:00:00.000Z\",\"level\":\"INFO\",\
             \"message\":\"listening\",\"target\":\"tidegate::server\",\
             \"address\":\"[::]:80\",\"workers\":4,\"target_\":\"x\"}\n"
        );
        serde_json::from_str::<serde_json::Value>(&written).unwrap();
    }

    #[test]
    fn text_is_aligned_and_quotes_what_is_ambiguous() {
        let written = line(TEXT, "listening", |line| {
            line.string("address", "[::]:80");
            line.string("empty", "");
            line.string("why", "a=b c");
            line.literal("ms", 1.5);
        });
        assert_eq!(
            written,
            "1970-01-01T00:00:00.000Z  INFO listening            address=[::]:80 empty=\"\" \
             why=\"a=b c\" ms=1.5\n"
        );
        let coloured = line(Style::Text { colour: true }, "x", |_| {});
        assert!(coloured.contains("\x1b[32m INFO\x1b[0m x"), "{coloured:?}");
    }

    const HOSTILE: &str = "a\nb\rc\td\0e\x1b[31mf\x7fg\u{85}h\u{9b}i\u{2028}j\u{2029}k\u{202e}l\
                           \u{200b}m\u{feff}n\"o\\p\u{e0041}q\u{fffd}ü";

    #[test]
    fn no_value_and_no_message_can_forge_a_line_or_reach_the_terminal() {
        for style in [Style::Json, TEXT] {
            let written = line(style, HOSTILE, |line| line.string("path", HOSTILE));
            assert_eq!(written.matches('\n').count(), 1, "{written:?}");
            let body = written.strip_suffix('\n').unwrap();
            assert!(!body.chars().any(is_hidden), "{body:?}");
            assert!(body.contains("q\u{fffd}ü"), "what is visible stays: {body:?}");
        }
        let written = line(Style::Json, HOSTILE, |line| line.string("path", HOSTILE));
        let value: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(
            (value["message"].as_str(), value["path"].as_str()),
            (Some(HOSTILE), Some(HOSTILE))
        );
        let text = line(TEXT, "m", |line| line.string("path", "x\n1970 status=200\u{1b}"));
        assert!(text.ends_with(" path=\"x\\n1970 status=200\\u{1b}\"\n"), "{text:?}");
    }

    #[test]
    fn values_and_lines_are_bounded() {
        for hostile in ["\u{1}".repeat(100_000), "ü".repeat(100_000), "x".repeat(100_000)] {
            for style in [Style::Json, TEXT, Style::Text { colour: true }] {
                let written = line(style, &hostile, |line| {
                    for name in ["a", "b", "c", "d", "e"] {
                        line.string(name, &hostile);
                    }
                    line.literal("number", 1);
                });
                assert!(written.len() <= MAX_LINE, "{}", written.len());
                assert!(written.contains("cut"));
                assert!(written.contains(CUT));
                if style == Style::Json {
                    let value: serde_json::Value = serde_json::from_str(&written).unwrap();
                    assert_eq!(value["cut"], true);
                }
            }
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = |seconds, millis| {
            let mut out = String::new();
            push_time(&mut out, at(seconds) + Duration::from_millis(millis));
            out
        };
        assert_eq!(time(951_782_399, 999), "2000-02-28T23:59:59.999Z");
        assert_eq!(time(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(951_868_800, 1), "2000-03-01T00:00:00.001Z");
        assert_eq!(time(1_795_454_929, 0), "2026-11-23T17:28:49.000Z");
        assert_eq!(time(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        assert_eq!(time(4_102_444_799, 0), "2099-12-31T23:59:59.000Z");
    }
}
