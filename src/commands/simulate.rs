//! `tidegate simulate`: what the gate would do with an application and its clients, without either.
//!
//! Here: the flags, and which of the ways to look at it is asked for. `plan` makes scenarios of
//! flags and files; `report` runs them; the others show what came of it.

mod html;
mod json;
mod plan;
mod report;
mod suite;
mod svg;
mod sweep;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{EXIT_CONFIG, EXIT_FAILED, print};
use crate::config::scenario::{Law, LimitWord, Rate, Span};
use report::Report;
use sweep::Sweep;

/// See what the gate does with an application and its load, in virtual time.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tidegate simulate --rate 1200/s --service exp:20ms --workers 16
  tidegate simulate -c tidegate.toml --rate 1200/s --workers 16 --route search
  tidegate simulate --rate 1200/s --sweep max_in_flight=4..256
  tidegate simulate -c old.toml --compare new.toml --rate 1200/s --html page.html
  tidegate simulate --suite config/scenarios --seeds 20 --limit auto")]
pub struct SimulateArgs {
    /// The configuration whose limits are tried [default: the defaults, with
    /// max_in_flight = "auto"]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A scenario file: an application and its clients
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// A case of the scenario file
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// How often clients call, such as 500/s [default: 1200/s]
    #[arg(long)]
    rate: Option<Rate>,
    /// How long the application works on a request: 20ms, exp:20ms, pareto:20ms:2.1,
    /// bimodal:5ms:200ms:0.1 [default: exp:20ms]
    #[arg(long, value_name = "LAW")]
    service: Option<Law>,
    /// How many requests the application works on at once [default: 16]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// The route of the requests [default: the one that takes what no other does]
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// How long a client waits for an answer [default: 1s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
    /// How often a client tries again [default: 0]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// How many requests are let in at once: a number or auto [default: what the configuration
    /// says; without one auto]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<String>,
    /// Who sets the limit: auto, fixed, aimd, gradient, gradient2; or none, for no gate at all
    #[arg(long)]
    limit: Option<LimitWord>,
    /// How long clients come [default: 30s]
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// The first seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many seeds [default: 1; of a suite 20]
    #[arg(long, value_name = "N")]
    seeds: Option<u32>,
    /// How many threads run seeds [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Run all cases of a scenario file, or of each in a directory, and hold them to their bars
    #[arg(long, value_name = "PATH")]
    suite: Option<PathBuf>,
    /// Name each run of a suite before it begins: a broken invariant ends the process
    #[arg(long, requires = "suite")]
    announce: bool,
    /// Show another configuration, or another --limit, beside the first under the same traffic
    #[arg(long, value_name = "FILE|LIMIT", conflicts_with = "suite")]
    compare: Option<String>,
    /// Try one value after the other: max_in_flight=4..256, max_in_flight=4..64+4, max_queue=0,64
    #[arg(long, value_name = "KEY=VALUES", conflicts_with_all = ["suite", "compare"])]
    sweep: Option<Sweep>,
    /// Write a page with charts, too
    #[arg(long, value_name = "FILE", conflicts_with = "suite")]
    html: Option<PathBuf>,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

/// The form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Tables and charts.
    Text,
    /// One JSON object.
    Json,
}

/// Runs the subcommand: 0; 1 where a bar does not hold; 78 where a file is wrong.
#[must_use]
pub fn run(args: &SimulateArgs) -> ExitCode {
    let done = match &args.suite {
        Some(path) => suite::run(args, path),
        None => show(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("tidegate: {error}");
        ExitCode::from(EXIT_CONFIG)
    })
}

fn show(args: &SimulateArgs) -> Result<ExitCode, String> {
    if let Some(sweep) = &args.sweep {
        let swept = sweep.run(args)?;
        match args.format {
            ReportFormat::Text => print(&swept.text()),
            ReportFormat::Json => print(&format!("{:#}\n", swept.json())),
        }
        return page(args, || html::sweep(&swept));
    }
    let limit = report::limit_title(args.limit, args.max_in_flight.as_deref());
    let title = args.config.as_deref().map_or(limit, plan::stem);
    let mut reports = vec![Report::of(&title, plan::plan(args)?, args.threads())];
    if let Some(other) = &args.compare {
        let (title, plan) = match other.parse::<LimitWord>() {
            Ok(limit) => {
                let args = SimulateArgs { limit: Some(limit), ..args.clone() };
                (limit.name().to_owned(), plan::plan(&args)?)
            }
            Err(_) => {
                let path = Path::new(other);
                (plan::stem(path), plan::plan_with(args, Some(path))?)
            }
        };
        reports.push(Report::of(&title, plan, args.threads()));
    }
    match args.format {
        ReportFormat::Text => print(&text::text(&reports)),
        ReportFormat::Json => print(&format!("{:#}\n", json::json(&reports))),
    }
    page(args, || html::reports(&reports))
}

/// Writes the page, if one is asked for.
fn page(args: &SimulateArgs, make: impl Fn() -> String) -> Result<ExitCode, String> {
    if let Some(path) = &args.html {
        std::fs::write(path, make()).map_err(|error| format!("{}: {error}", path.display()))?;
        eprintln!("tidegate: the page is in {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

// === impl SimulateArgs ===

impl SimulateArgs {
    fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(all)
    }
}
