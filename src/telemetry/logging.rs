//! Logging: `tracing` events become lines on standard error that no request ever waits for.
//!
//! [`init`] installs the global subscriber. A line is formatted where the event happens (`format`),
//! put into a bounded buffer and written by a thread of its own (`lines`). Lines that the buffer or
//! the sink did not take are counted: [`lost_lines`]. Bounds: 8 KiB a line, 2 MiB of lines in
//! memory.

mod escape;
mod format;
mod lines;

use std::cell::Cell;
use std::fmt::{Debug, Display};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::config::{Log, LogFormat, LogLevel};
use crate::telemetry::access;
use format::{Line, Style};
use lines::Lines;

/// How long the end of the process waits for the last lines.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a panic waits for its line, which may be the last before an abort.
const PANIC_PATIENCE: Duration = Duration::from_millis(200);

/// The process's lines; one, like standard error itself.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();
/// The least severe level that is written, a [`LogLevel`].
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

/// Keeps logging going. Its drop writes what is waiting, for at most 1 s; later lines count as
/// lost.
#[must_use = "dropping the guard ends logging"]
pub struct LogGuard {
    lines: Arc<Lines>,
}

/// Installs the global subscriber and the thread that writes its lines to standard error.
///
/// `format = "auto"` is text on a terminal, else JSON. Colours appear on a terminal only, and not
/// when the variable `NO_COLOR` is set (no-color.org). `level` filters all lines but those of the
/// access log, which has its own key. Panics become lines too. Meant to be called once, at start: a
/// second call changes nothing.
pub fn init(log: &Log) -> LogGuard {
    let lines = Arc::new(Lines::new(lines::CAPACITY));
    let guard = LogGuard { lines: lines.clone() };
    if LINES.set(lines.clone()).is_err() {
        return guard;
    }
    let style = style(log.format, io::stderr().is_terminal(), std::env::var_os("NO_COLOR"));
    let layer = LineLayer { lines: lines.clone(), style, level: &LEVEL };
    LEVEL.store(log.level as u8, Ordering::Relaxed);
    // An embedder's own subscriber stays; ours then has nothing to write.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    let writer = lines.clone();
    let spawned = thread::Builder::new().name("log".to_owned()).spawn(move || {
        writer.write_to(stderr());
    });
    if spawned.is_err() {
        // No thread at start-up: the server will not come up either. All lines count as lost.
        lines.close();
    }
    panic::set_hook(Box::new(move |info| log_panic(&lines, style, info)));
    guard
}

/// Changes the least severe level that is written.
pub fn set_level(level: LogLevel) {
    let filter = level_filter(level);
    if filter != of(&LEVEL) {
        LEVEL.store(level as u8, Ordering::Relaxed);
        // What was decided about each place that logs is decided anew.
        tracing::callsite::rebuild_interest_cache();
    }
}

/// The level that an atomic holds.
fn of(level: &AtomicU8) -> LevelFilter {
    const LEVELS: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    level_filter(LEVELS[usize::from(level.load(Ordering::Relaxed)).min(LEVELS.len() - 1)])
}

/// Lines lost so far because standard error was blocked or failed.
pub fn lost_lines() -> u64 {
    LINES.get().map_or(0, |lines| lines.lost())
}

// === impl LogGuard ===

impl LogGuard {
    /// Writes what is waiting, for at most 1 s, and ends logging. Dropping the guard does the same.
    pub fn shutdown(self) {}
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.lines.flush(SHUTDOWN_PATIENCE);
        self.lines.close();
    }
}

/// Standard error without the lock of `std::io::Stderr`: a blocked write under it would stall
/// whoever else prints.
fn stderr() -> Box<dyn Write> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::stderr()),
    }
}

fn style(format: LogFormat, terminal: bool, no_color: Option<std::ffi::OsString>) -> Style {
    let colour = terminal && no_color.is_none_or(|value| value.is_empty());
    match format {
        LogFormat::Auto if terminal => Style::Text { colour },
        LogFormat::Auto | LogFormat::Json => Style::Json,
        LogFormat::Text => Style::Text { colour },
    }
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// The default hook would print under the lock of standard error and, if that is a full pipe,
/// stall. Written without `tracing`, which may be what panicked.
fn log_panic(lines: &Lines, style: Style, info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let what = payload.downcast_ref::<&str>().copied();
    let what = what.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let mut out = String::new();
    let now = SystemTime::now();
    let mut line = Line::begin(&mut out, style, now, Level::ERROR, "tidegate", "panicked");
    line.string("panic", what.unwrap_or("of an unknown type"));
    if let Some(location) = info.location() {
        line.string("location", location);
    }
    line.string("thread", thread::current().name().unwrap_or("unnamed"));
    line.end();
    lines.push(&out);
    lines.flush(PANIC_PATIENCE);
}

// === impl LineLayer ===

/// Formats events and hands them on.
struct LineLayer {
    lines: Arc<Lines>,
    style: Style,
    /// A [`LogLevel`], which may change.
    level: &'static AtomicU8,
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= of(self.level) || metadata.target() == access::TARGET
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(of(self.level).max(LevelFilter::INFO))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local!(static BUFFER: Cell<String> = const { Cell::new(String::new()) });
        // Taken rather than borrowed: formatting a value may itself log. A thread that is ending
        // has none.
        let mut out = BUFFER.try_with(Cell::take).unwrap_or_default();
        let metadata = event.metadata();
        let mut line = Line::begin(
            &mut out,
            self.style,
            SystemTime::now(),
            *metadata.level(),
            metadata.target(),
            Message(event),
        );
        event.record(&mut Fields(&mut line));
        line.end();
        self.lines.push(&out);
        let _ = BUFFER.try_with(|buffer| buffer.set(out));
    }
}

/// The message of an event; tracing keeps it among the fields.
struct Message<'a>(&'a Event<'a>);

const MESSAGE: &str = "message";

impl Display for Message<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        struct Find<'a, 'b>(&'a mut std::fmt::Formatter<'b>, std::fmt::Result);
        impl Visit for Find<'_, '_> {
            fn record_str(&mut self, field: &Field, value: &str) {
                if field.name() == MESSAGE {
                    self.1 = self.0.write_str(value);
                }
            }

            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == MESSAGE {
                    self.1 = write!(self.0, "{value:?}");
                }
            }
        }
        let mut find = Find(formatter, Ok(()));
        self.0.record(&mut find);
        find.1
    }
}

/// Puts every field but the message on the line.
struct Fields<'a, 'b>(&'a mut Line<'b>);

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.0.literal(field.name(), value);
        } else {
            // JSON has no such numbers.
            self.0.string(field.name(), value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.literal(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.literal(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.literal(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE {
            self.0.string(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != MESSAGE {
            self.0.string(field.name(), format_args!("{value:?}"));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs `work` with a subscriber of its own and returns its lines as JSON.
    pub(crate) fn captured(level: LogLevel, work: impl FnOnce()) -> Vec<serde_json::Value> {
        let lines = Arc::new(Lines::new(1 << 20));
        let level = Box::leak(Box::new(AtomicU8::new(level as u8)));
        let layer = LineLayer { lines: lines.clone(), style: Style::Json, level };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        lines.close();
        let mut out = Vec::new();
        lines.write_to(&mut out);
        let out = String::from_utf8(out).unwrap();
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn events_become_flat_objects_with_typed_fields() {
        let error = io::Error::other("broken \u{1b}[0m pipe");
        let lossy = String::from_utf8_lossy(b"/\xff\nGET");
        let lines = captured(LogLevel::Info, || {
            tracing::warn!(
                target: "tidegate::test", route = "api", count = 3, ratio = 0.5, odd = f64::NAN,
                up = true, delta = -1, none = None::<u64>, error = &error as &dyn std::error::Error,
                path = %lossy, list = ?[1, 2], "it \"{}\"", "happened\n"
            );
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!((&line["level"], &line["target"]), (&"WARN".into(), &"tidegate::test".into()));
        assert_eq!(line["message"], "it \"happened\n\"");
        assert_eq!(line["route"], "api");
        assert_eq!((&line["count"], &line["delta"]), (&3.into(), &(-1).into()));
        assert_eq!((&line["ratio"], &line["odd"]), (&0.5.into(), &"NaN".into()));
        assert_eq!(line["up"], true);
        assert!(line.get("none").is_none());
        assert_eq!(line["error"], "broken \u{1b}[0m pipe");
        assert_eq!((&line["path"], &line["list"]), (&"/\u{fffd}\nGET".into(), &"[1, 2]".into()));
    }

    #[test]
    fn the_level_filters_all_but_the_access_log() {
        let lines = captured(LogLevel::Error, || {
            tracing::error!(target: "tidegate::test", "error");
            tracing::warn!(target: "tidegate::test", "warn");
            tracing::info!(target: access::TARGET, "request");
        });
        let messages: Vec<_> = lines.iter().map(|line| line["message"].clone()).collect();
        assert_eq!(messages, ["error", "request"]);
    }

    #[test]
    fn a_value_that_logs_while_it_is_formatted_does_no_harm() {
        struct Chatty;
        impl Display for Chatty {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                tracing::info!(target: "tidegate::test", "inner");
                formatter.write_str("outer")
            }
        }
        let lines = captured(LogLevel::Info, || {
            tracing::info!(target: "tidegate::test", value = %Chatty, "message");
        });
        assert_eq!(lines.last().unwrap()["value"], "outer");
    }

    #[test]
    fn auto_is_text_on_a_terminal_and_colour_can_be_refused() {
        let (text, colour) = (Style::Text { colour: false }, Style::Text { colour: true });
        assert_eq!(style(LogFormat::Auto, false, None), Style::Json);
        assert_eq!(style(LogFormat::Auto, true, None), colour);
        assert_eq!(style(LogFormat::Auto, true, Some("1".into())), text);
        assert_eq!(style(LogFormat::Text, true, Some("".into())), colour);
        assert_eq!(style(LogFormat::Text, false, None), text);
        assert_eq!(style(LogFormat::Json, true, None), Style::Json);
    }
}
