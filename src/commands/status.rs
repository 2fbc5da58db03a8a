//! `tidegate status`: what a running tidegate does, as a table in the terminal.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::order::with_address;
use super::remote::{self, Remote};
use super::table::Table;

/// Show what a running tidegate does: exits with 0 if it answers, 1 if not, 78 if the configuration
/// that names its address is not valid.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    remote: Remote,
    /// Look again every second, until interrupted
    #[arg(short, long)]
    watch: bool,
}

/// Asks once, or again and again.
#[must_use]
pub fn run(args: &StatusArgs) -> ExitCode {
    with_address(&args.remote, |admin| show(admin, args.watch))
}

fn show(admin: &str, watch: bool) -> ExitCode {
    let screen = io::stdout().is_terminal();
    loop {
        let text = match remote::status(admin) {
            Ok(status) => told(&status, admin),
            Err(error) if !watch => return remote::unanswered(admin, &error),
            // It may be on its way back.
            Err(error) => format!("no answer from {admin}: {error}\n"),
        };
        // Home and clear: a table that is written anew, and no scrolling.
        let before = if watch && screen { "\x1b[H\x1b[2J" } else { "" };
        super::print(&format!("{before}{text}"));
        if !watch {
            return ExitCode::SUCCESS;
        }
        if !screen {
            super::print("\n");
        }
        sleep(Duration::from_secs(1));
    }
}

/// The whole text.
fn told(status: &Value, address: &str) -> String {
    let mut text = String::new();
    let said = |field: &str| status["verdict"][field].as_str().unwrap_or("Just started");
    let version = status["version"].as_str().unwrap_or("?");
    let age = age(status["uptime_seconds"].as_u64().unwrap_or(0));
    let _ = writeln!(text, "{}", said("text"));
    if status["verdict"].is_object() {
        let _ = writeln!(text, "{}", said("detail"));
    }
    let _ = writeln!(text, "\n{}", upstreams(status).text());
    let _ = writeln!(text, "{}", routes(status).text());
    let refused = list(&status["routes"]).filter_map(|route| {
        let reasons = reasons(&route["rejected"])?;
        Some(format!("  turned away by {} since the start: {reasons}\n", word(&route["name"])))
    });
    let refused: String = refused.collect();
    if !refused.is_empty() {
        let _ = writeln!(text, "{refused}");
    }
    let _ = writeln!(
        text,
        "tidegate {version} at {address}, up {age}, {} of {} client connections{}",
        status["connections"],
        status["max_connections"],
        reload(&status["reload"])
    );
    text
}

fn upstreams(status: &Value) -> Table {
    let mut table = Table::new(["app", "state", "in flight", "limit", "why"]);
    for upstream in list(&status["upstreams"]) {
        let name = format!("{} ({})", word(&upstream["name"]), word(&upstream["address"]));
        let waited_for = upstream["hold_left"].as_f64().is_some_and(|seconds| seconds > 0.0);
        let state = match upstream["up"].as_bool() {
            _ if waited_for => "waited for",
            Some(false) => "not reachable",
            _ => "up",
        };
        let limit = &upstream["limit"];
        let unmeasured = limit["throughput"].as_f64() == Some(0.0);
        let why = match (limit["mode"].as_str(), word(&limit["decision"])) {
            (Some("auto"), "hold") if unmeasured => "auto: not full yet".to_owned(),
            (Some("auto"), decision) => format!("auto: {}", decision.replace('_', " ")),
            _ => "max_in_flight".to_owned(),
        };
        let why = match upstream["open_responses"].as_u64() {
            Some(open) if open > 0 => format!("{why}, {open} stay open"),
            _ => why,
        };
        table.row([
            name,
            state.to_owned(),
            upstream["in_flight"].to_string(),
            upstream["max_in_flight"].to_string(),
            why,
        ]);
    }
    table
}

fn routes(status: &Value) -> Table {
    let head = [
        "route",
        "in flight",
        "waiting",
        "arriving/s",
        "answered/s",
        "turned away/s",
        "wait",
        "app p50",
        "app p90",
    ];
    let mut table = Table::new(head);
    for route in list(&status["routes"]).filter(|route| route["kind"] != "deny") {
        let recent = &route["recent"];
        let rate = |field: &str| rate(&recent[field], &recent["seconds"]);
        table.row([
            word(&route["name"]).to_owned(),
            format!("{}/{}", route["in_flight"], route["max_in_flight"]),
            format!("{}/{}", route["queue_depth"], route["max_queue"]),
            rate("arrivals"),
            rate("answered"),
            rate("rejected"),
            millis(&recent["wait_mean"]),
            millis(&route["service"]["p50"]),
            millis(&route["service"]["p90"]),
        ]);
    }
    table
}

/// The reasons that occurred, the most frequent one first.
fn reasons(counts: &Value) -> Option<String> {
    let counts = counts.as_object().into_iter().flatten();
    let mut counts: Vec<_> = counts.map(|(name, count)| (count.as_u64(), name)).collect();
    counts.retain(|(count, _)| count.is_some_and(|count| count > 0));
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let words = counts.iter().map(|(count, name)| format!("{} {name}", count.unwrap_or(0)));
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// What became of the last change of the configuration.
fn reload(reload: &Value) -> String {
    let Some(ago) = reload["seconds_ago"].as_u64() else { return String::new() };
    match reload["succeeded"].as_bool() {
        Some(true) => format!(", configuration reloaded {} ago", age(ago)),
        _ => {
            let why = word(&reload["error"]).lines().next().unwrap_or_default();
            format!("\nA change of the configuration was not taken, {} ago: {why}", age(ago))
        }
    }
}

// === Words ===

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn rate(count: &Value, seconds: &Value) -> String {
    match (count.as_f64(), seconds.as_f64()) {
        (Some(count), Some(seconds)) if seconds > 0.0 => match count / seconds {
            rate if rate > 0.0 && rate < 9.95 => format!("{rate:.1}"),
            rate => format!("{rate:.0}"),
        },
        _ => "-".to_owned(),
    }
}

fn millis(seconds: &Value) -> String {
    match seconds.as_f64() {
        Some(seconds) if seconds < 0.00995 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{:.0} ms", seconds * 1e3),
        None => "-".to_owned(),
    }
}

fn age(seconds: u64) -> String {
    match seconds {
        short if short < 120 => format!("{short} s"),
        minutes if minutes < 7200 => format!("{} min", minutes / 60),
        hours if hours < 172_800 => format!("{} h", hours / 3600),
        days => format!("{} d", days / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_overload_is_told() {
        let status = json!({
            "version": "1.2.3", "uptime_seconds": 300, "connections": 7, "max_connections": 4096,
            "verdict": {"level": "overloaded", "text": "Overloaded: x", "detail": "The app does."},
            "reload": {"seconds_ago": null, "succeeded": null, "error": null},
            "upstreams": [{"name": "default", "address": "127.0.0.1:8000", "up": true,
                "paused": false, "hold_left": 0.0, "in_flight": 16, "max_in_flight": 16,
                "limit": {"mode": "auto", "decision": "back_off"}}],
            "routes": [{"name": "search", "kind": "request", "in_flight": 16, "max_in_flight": 16,
                "queue_depth": 9, "max_queue": 64, "service": {"p50": 0.0412, "p90": null},
                "rejected": {"queue_full": 3, "max_wait": 0, "standing_queue": 2470},
                "recent": {"seconds": 5.0, "arrivals": 1000, "answered": 20, "rejected": 2,
                    "wait_mean": 0.0034}}],
        });
        let expected = "\
Overloaded: x
The app does.

  app                        state   in flight   limit              why
  ---------------------------------------------------------------------
  default (127.0.0.1:8000)      up          16      16   auto: back off

  route    in flight   waiting   arriving/s   answered/s   turned away/s     wait   app p50   \
app p90
  ------------------------------------------------------------------------------------------\
---------
  search       16/16      9/64          200          4.0             0.4   3.4 ms     41 ms         \
-

  turned away by search since the start: 2470 standing_queue, 3 queue_full

tidegate 1.2.3 at h:1, up 5 min, 7 of 4096 client connections
";
        assert_eq!(told(&status, "h:1"), expected);
    }

    #[test]
    fn a_reload_that_failed_is_told_with_its_first_line() {
        let failed = json!({"seconds_ago": 7, "succeeded": false, "error": "error[x]: y\n --> z"});
        let told = reload(&failed);
        assert_eq!(told, "\nA change of the configuration was not taken, 7 s ago: error[x]: y");
        let done = json!({"seconds_ago": 130, "succeeded": true, "error": null});
        assert_eq!(reload(&done), ", configuration reloaded 2 min ago");
    }
}
