//! `tidegate simulate`: what the gate would do with an application and its clients, without either.
//!
//! Here: the flags, and which of the ways to look at it is asked for. `plan` makes scenarios of
//! flags and files; `runs` runs them; the others show what came of it.

mod plan;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};

use super::{EXIT_CONFIG, EXIT_FAILED};
use crate::config::scenario::{Law, LimitWord, Rate, Span};
use crate::simulate::figures::{Figure, Figures};

/// See what the gate does with an application and its load, in virtual time.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tidegate simulate --rate 1200/s --service exp:20ms --workers 16
  tidegate simulate -c tidegate.toml --rate 1200/s --workers 16 --route search
  tidegate simulate --suite config/scenarios --seeds 20 --limit auto")]
pub struct SimulateArgs {
    /// The configuration whose limits are tried [default: those of a user who says nothing]
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
    /// The route of the requests [default: the first]
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// How long a client waits for an answer [default: 1s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
    /// How often a client tries again [default: 0]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// How many requests are let in at once: a number or auto
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
    let plan = plan::plan(args)?;
    let began = Instant::now();
    let counted = crate::simulate::run(&plan.scenario, plan.seeds[0]);
    let took = began.elapsed().as_secs_f64();
    let figures = Figures::new(&plan.scenario, &counted);
    for (name, figure) in Figure::ALL {
        if let Some(value) = figures.value(figure, 0, None) {
            println!("{name:>20}  {value:.4}");
        }
    }
    let total = counted.windows[0].total();
    println!("rejected by reason {:?}", total.rejected);
    println!(
        "{} attempts in {took:.3} s: {:.0}/s",
        counted.attempts,
        counted.attempts as f64 / took
    );
    Ok(ExitCode::SUCCESS)
}

// === impl SimulateArgs ===

impl SimulateArgs {
    fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(all)
    }
}
