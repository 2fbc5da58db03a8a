//! `tidegate check`: judges a configuration without running it, and explains what it would do.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::EXIT_CONFIG;
use crate::config::{
    self, AdmissionMode, Budget, Config, Format, Loaded, Match, Overrides, Report, Route,
};
use crate::proxy::route::RouteTable;

/// The exit status for a wrong command line.
const EXIT_USAGE: u8 = 2;

/// Check a configuration, without running it.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "TIDEGATE_CONFIG",
        default_value = "tidegate.toml"
    )]
    pub config: PathBuf,
    /// Say which route takes a request, such as "GET /api/x" or "GET http://host/api/x", and why.
    #[arg(long, value_name = "REQUEST")]
    pub explain: Option<String>,
    /// Print the whole configuration as it would run, with the origin of each value.
    #[arg(long)]
    pub print_effective: bool,
    /// The form of errors and warnings.
    #[arg(long, value_enum, default_value_t = ReportFormat::Human)]
    pub format: ReportFormat,
    /// Exit with 78 for warnings too.
    #[arg(long)]
    pub deny_warnings: bool,
}

/// The form of errors and warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Source lines with carets.
    Human,
    /// An array of objects on standard output.
    Json,
    /// Annotations for GitHub Actions.
    Github,
}

/// What a run prints, and its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// The exit status.
    pub status: u8,
}

/// A request as the operator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Described<'r> {
    method: &'r str,
    host: Option<&'r str>,
    path: &'r str,
}

/// Runs the subcommand: 0 for a valid configuration, 78 for an invalid one.
pub fn run(args: &CheckArgs) -> ExitCode {
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let outcome = check(args, &config::environment(), color);
    // A reader that has gone away is no reason to fail.
    let _ = io::stderr().write_all(outcome.stderr.as_bytes());
    let _ = io::stdout().write_all(outcome.stdout.as_bytes());
    ExitCode::from(outcome.status)
}

/// [`run`] without a terminal.
pub fn check(args: &CheckArgs, environment: &[(String, String)], color: bool) -> Outcome {
    let loaded = match config::load(&args.config, environment, &Overrides::default()) {
        Ok(loaded) => loaded,
        Err(report) => {
            let (stdout, stderr) = rendered(&report, args.format, color);
            return Outcome { stdout, stderr, status: EXIT_CONFIG };
        }
    };
    let (mut stdout, mut stderr) = rendered(&loaded.warnings, args.format, color);
    let denied = args.deny_warnings && loaded.warnings.warnings() > 0;
    if denied {
        stderr.push_str("error: warnings are denied by --deny-warnings\n");
        return Outcome { stdout, stderr, status: EXIT_CONFIG };
    }
    if args.print_effective {
        stdout.push_str(&loaded.effective_toml());
    }
    if let Some(request) = &args.explain {
        match describe(request) {
            Ok(request) => stdout.push_str(&explain(&loaded, &request)),
            Err(problem) => {
                stderr.push_str(&format!("error: {problem}\n"));
                return Outcome { stdout, stderr, status: EXIT_USAGE };
            }
        }
    }
    let quiet = args.print_effective || args.explain.is_some();
    if !quiet && args.format != ReportFormat::Json {
        let name = args.config.display();
        stdout.push_str(&format!("ok: {name}: {}\n", summary(&loaded.config)));
    }
    Outcome { stdout, stderr, status: 0 }
}

/// A report for machines goes to standard output, one for people to standard error.
fn rendered(report: &Report, format: ReportFormat, color: bool) -> (String, String) {
    match format {
        ReportFormat::Human => (String::new(), report.render(Format::Human, color)),
        ReportFormat::Json => (report.render(Format::Json, false), String::new()),
        ReportFormat::Github => (report.render(Format::Github, false), String::new()),
    }
}

fn summary(config: &Config) -> String {
    let routes = config.routes.len();
    let mut parts = vec![format!("{routes} route{}", if routes == 1 { "" } else { "s" })];
    for upstream in &config.upstreams {
        let bound = match upstream.max_in_flight {
            Budget::Fixed(slots) => format!("{slots} in flight at most"),
            Budget::Auto { min, max, .. } => {
                format!("a limit in flight that finds itself, {min} to {max}")
            }
        };
        parts.push(format!("upstream {} at {} with {bound}", upstream.name, upstream.endpoint));
    }
    parts.join(", ")
}

// === explain ===

/// `GET /path`, `GET http://host/path` or `OPTIONS *`: what the proxy would take.
fn describe(request: &str) -> Result<Described<'_>, String> {
    let problem = || {
        format!("\"{request}\" is not a request: write \"GET /path\" or \"GET http://host/path\"")
    };
    let (method, target) = request.trim().split_once(' ').ok_or_else(problem)?;
    let target = target.trim();
    let (host, rest) = match target.split_once("://") {
        Some(("http" | "https", rest)) => {
            let (host, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            (Some(host), rest)
        }
        Some(_) => return Err(problem()),
        None => (None, target),
    };
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    let path = if path.is_empty() && host.is_some() { "/" } else { path };
    let known = path.starts_with('/') || (path == "*" && method == "OPTIONS" && host.is_none());
    let named = host.is_none_or(|host| !host.is_empty() && !host.contains('@'));
    if method.is_empty() || path.contains(' ') || !known || !named {
        return Err(problem());
    }
    Ok(Described { method, host, path })
}

fn explain(loaded: &Loaded, request: &Described<'_>) -> String {
    let routes = &loaded.config.routes;
    let taker = RouteTable::new(routes).find(request.method, request.host, request.path);
    let route = &routes[taker];
    let mut out = format!("{} {}", request.method, request.path);
    if let Some(host) = request.host {
        out.push_str(&format!(" at {host}"));
    }
    out.push_str(&format!("\n  goes to the route `{}`: {}\n", route.name, reason(&route.matches)));
    for (index, other) in routes.iter().enumerate() {
        if index != taker && other.matches.takes_path(request.path) {
            out.push_str(&format!("  not to `{}`: {}\n", other.name, objection(other, request)));
        }
    }
    out.push('\n');
    out.push_str(&loaded.effective_route(taker).to_toml());
    if route.admission != AdmissionMode::Deny {
        out.push('\n');
        out.push_str(&loaded.effective_upstream(route.upstream).to_toml());
        if let Some(tls) = loaded.effective_upstream_tls(route.upstream) {
            out.push_str(&format!("\n{}", tls.to_toml()));
        }
    }
    out
}

fn reason(matches: &Match) -> String {
    match (matches.exact, matches.path.as_str()) {
        (true, path) => format!("its path is exactly \"{path}\""),
        (false, "/") => "it takes every path".to_owned(),
        (false, path) => format!("its path begins with \"{path}\""),
    }
}

/// Why a route whose path matches does not get the request.
fn objection(route: &Route, request: &Described<'_>) -> String {
    if !route.matches.takes_method(request.method) {
        format!("it takes {} only", route.matches.methods.join(", "))
    } else if !route.matches.takes_host(request.host) {
        format!("it takes the hosts {} only", route.matches.hosts.join(", "))
    } else {
        format!("{}, which is less specific", reason(&route.matches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_described_in_one_line() {
        let described = |method, host, path| Ok(Described { method, host, path });
        assert_eq!(describe("GET /a?b=c"), described("GET", None, "/a"));
        assert_eq!(describe("PUT http://h:1/a"), described("PUT", Some("h:1"), "/a"));
        assert_eq!(describe("GET http://h"), described("GET", Some("h"), "/"));
        assert_eq!(describe("GET http://h?x"), described("GET", Some("h"), "/"));
        assert_eq!(describe("OPTIONS *"), described("OPTIONS", None, "*"));
        let wrong = [
            "GET",
            "/a",
            "GET a",
            "",
            "GET /a b",
            "GET *",
            "GET ://",
            "GET ftp://h/",
            "GET http://u@h/",
        ];
        for request in wrong {
            assert!(describe(request).is_err(), "{request}");
        }
    }
}
