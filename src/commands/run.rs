//! `tidegate run`: the proxy itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::notify::Notifier;
use super::{EXIT_CONFIG, fail};
use crate::config::{self, Format, Loaded, Overrides, Report};
use crate::sidecar::{Drained, Sidecar, Source, fit_descriptors, fit_memory};
use crate::telemetry::logging;

/// Run the proxy: from a file, or with --upstream alone.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// The application, such as http://127.0.0.1:8000
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where clients connect [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// How many requests the application works on at once, or auto to have it found [default: auto]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<String>,
    /// Where metrics, health and status are [default: 0.0.0.0:9909]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// auto, text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// Loads the configuration, serves until a signal comes, drains.
#[must_use]
pub fn run(args: &RunArgs) -> ExitCode {
    let loaded = match load(args) {
        Ok(loaded) => loaded,
        Err(report) => {
            print(&report);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    print(&loaded.warnings);
    let log = logging::init(&loaded.config.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(serve(loaded, args)),
        Err(error) => fail(&error),
    };
    log.shutdown();
    code
}

fn load(args: &RunArgs) -> Result<Loaded, Report> {
    let flags = Overrides {
        upstream: args.upstream.clone(),
        listen: args.listen.clone(),
        max_in_flight: args.max_in_flight.clone(),
        admin_listen: args.admin_listen.clone(),
        log_level: args.log_level.clone(),
        log_format: args.log_format.clone(),
    };
    match &args.config {
        Some(path) => config::load(path, &config::environment(), &flags),
        None => config::from_flags(&config::environment(), &flags),
    }
}

impl Source for RunArgs {
    fn load(&self) -> Result<Loaded, String> {
        load(self).map_err(|report| report.render(Format::Human, false))
    }

    fn fingerprint(&self) -> Option<u64> {
        let content = std::fs::read(self.config.as_ref()?).ok()?;
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Some(hasher.finish())
    }
}

fn print(report: &Report) {
    if !report.is_empty() {
        eprint!("{}", report.render(Format::Human, std::io::stderr().is_terminal()));
    }
}

async fn serve(mut loaded: Loaded, args: &RunArgs) -> ExitCode {
    // Before anything is accepted, so that no signal is missed.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    fit_descriptors(&mut loaded.config);
    fit_memory(&mut loaded.config);
    let effective = loaded.effective_toml();
    let source = args.config.is_some().then(|| Arc::new(args.clone()) as Arc<dyn Source>);
    let sidecar = match Sidecar::start(loaded.config, effective, source) {
        Ok(sidecar) => sidecar,
        Err(error) => return fail(&error),
    };
    announce(&sidecar);
    let manager = Notifier::from_environment();
    manager.ready();

    let first = signals.next(&sidecar).await;
    manager.stopping();
    tracing::info!(signal = first.name, "draining; a second signal ends at once");
    tokio::select! {
        drained = sidecar.drain() => {
            match drained {
                Drained::Whole => tracing::info!("drained"),
                Drained::CutOff(connections) => {
                    tracing::warn!(connections, "the grace has ended; connections were cut off");
                }
            }
            ExitCode::SUCCESS
        }
        second = signals.next(&sidecar) => {
            tracing::warn!(signal = second.name, "ending at once");
            ExitCode::from(second.exit)
        }
    }
}

fn announce(sidecar: &Sidecar) {
    let running = sidecar.state().running.load();
    let config = &running.config;
    for address in sidecar.addresses() {
        tracing::info!(%address, "listening");
    }
    tracing::info!(address = %sidecar.admin_address(), "admin: / (the live page) /metrics /ready /status.json");
    for upstream in &config.upstreams {
        tracing::info!(
            upstream = upstream.name,
            url = upstream.url(),
            max_in_flight = %upstream.max_in_flight,
            "forwarding"
        );
    }
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// One of them: its name, and the exit status that a shell gives to a process ended by it.
struct Ending {
    name: &'static str,
    exit: u8,
}

// === impl Signals ===

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        Ok(Signals { terminate, interrupt, hangup })
    }

    /// The next one that ends the process; SIGHUP loads the configuration again.
    async fn next(&mut self, sidecar: &Sidecar) -> Ending {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Ending { name: "SIGTERM", exit: 143 },
                _ = self.interrupt.recv() => return Ending { name: "SIGINT", exit: 130 },
                _ = self.hangup.recv() => {
                    // What comes of it is in the log.
                    let _ = sidecar.reload().await;
                }
            }
        }
    }
}
