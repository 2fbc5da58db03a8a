//! `tidegate simulate`: what the gate would do with an application and its clients, without either.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::EXIT_FAILED;
use crate::config::scenario::{Law, Rate, Span, Window};
use crate::gate::{AutoLimits, Budget, LaneLimits, Limits, Order};
use crate::simulate::figures::Figure;
use crate::simulate::scenario::{App, Churn, Group, Protection, Route, Scenario};
use crate::simulate::{self, Figures};

/// See what the gate does with an application and its load, in virtual time.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// How often clients call, such as 500/s
    #[arg(long, default_value = "1200/s")]
    rate: Rate,
    /// How long the application works on a request: 20ms, exp:20ms, pareto:20ms:2.1,
    /// bimodal:5ms:200ms:0.1
    #[arg(long, default_value = "exp:20ms", value_name = "LAW")]
    service: Law,
    /// How many requests the application works on at once
    #[arg(long, default_value_t = 16)]
    workers: u32,
    /// How many requests the gate lets in at once: a number or auto
    #[arg(long, default_value = "auto")]
    max_in_flight: String,
    /// none, gate, aimd, gradient, gradient2
    #[arg(long, default_value = "gate")]
    protection: String,
    /// How long clients come
    #[arg(long, default_value = "30s")]
    duration: Span,
    /// What each client tries again after a failure
    #[arg(long, default_value_t = 0)]
    retries: u32,
    /// Where randomness begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the subcommand.
#[must_use]
pub fn run(args: &SimulateArgs) -> ExitCode {
    let budget = match args.max_in_flight.parse() {
        Ok(limit) => Budget::Fixed(limit),
        Err(_) => Budget::Auto(AutoLimits { min: 2, max: 500, max_latency: None }),
    };
    let max_wait = Duration::from_secs(1);
    let lane = LaneLimits {
        order: Order::Adaptive,
        standing_after: Some(max_wait * 3 / 2),
        ..LaneLimits::plain(1_024, max_wait)
    };
    let found = Protection::ALL.iter().find(|(name, _)| *name == args.protection);
    let Some((_, protection)) = found else { return ExitCode::from(EXIT_FAILED) };
    let duration = args.duration.0;
    let scenario = Scenario {
        name: "flags".to_owned(),
        app: App { workers: args.workers, ..App::base() },
        routes: vec![Route { name: "default".to_owned(), service: args.service }],
        groups: vec![Group { retries: args.retries, ..Group::plain("clients", args.rate.0) }],
        limits: Limits { budget, floor_period: 20, lanes: vec![lane] },
        protection: *protection,
        churn: Churn::default(),
        duration,
        windows: vec![Window { from: duration / 10, to: duration }],
        recover_from: None,
    };
    let began = Instant::now();
    let counted = simulate::run(&scenario, args.seed);
    let took = began.elapsed().as_secs_f64();
    let figures = Figures::new(&scenario, &counted);
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
    ExitCode::SUCCESS
}
