//! `tidegate demo`: overload, seen on this machine in half a minute, with nothing to set up.
//!
//! Everything is real: an application on a socket, tidegate in front of it, clients, clocks. The
//! figures are measured by the clients.

mod app;
mod load;
mod serve;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::runtime::Handle;

use super::fail;
use super::table::Table;
use crate::config::{self, Overrides};
use crate::gate::RejectReason;
use crate::sidecar::{Sidecar, raise_descriptors};
use app::App;
use load::{End, Load, Outcome, play};

/// See overload, and what tidegate does about it, on this machine: under 30 seconds, nothing to set
/// up.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Keep an application, its clients and the live page running until Ctrl-C, and turn the load
    /// up and down with + and - (lines of them, where standard input is no terminal)
    #[arg(long)]
    serve: bool,
}

/// The first act: the experiment that tidegate grew out of.
const EXPERIMENT: Load = Load {
    clients: 500,
    every: Duration::from_millis(6),
    patience: Duration::from_secs(10),
    retries: 0,
};
const EXPERIMENT_SERVICE: Duration = Duration::from_millis(10);

/// The second act: three times what the application can do, by clients that do not give up at once.
const OVERLOAD: Load = Load {
    clients: 3_000,
    every: Duration::from_nanos(1_666_667),
    patience: Duration::from_millis(500),
    retries: 2,
};
const OVERLOAD_WORKERS: usize = 4;
const OVERLOAD_SERVICE: Duration = Duration::from_millis(20);
/// Half of the load passes before anything is counted, so that a queue has time to build up.
const WARM_UP: Duration = Duration::from_millis(2_500);

/// Plays both acts and prints what the clients saw, or serves the live page.
#[must_use]
pub fn run(args: &DemoArgs) -> ExitCode {
    match if args.serve { serve::serve() } else { play_all() } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error),
    }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn play_all() -> Result<()> {
    // Clients, proxy and application share one process. Were it too few, some clients would fail,
    // and the table would show it.
    let _ = raise_descriptors();
    let background = background()?;
    let began = Instant::now();
    experiment(&background)?;
    overload(&background)?;
    println!(
        "Done in {:.0} s. Put it before an application of your own:",
        began.elapsed().as_secs_f64()
    );
    println!();
    println!("  tidegate run --upstream http://127.0.0.1:8000");
    println!();
    Ok(())
}

/// A thread that accepts and serves the admin listener; requests are served by the sidecar's
/// workers.
fn background() -> Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let forever = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("demo-main".into()).spawn(forever)?;
    Ok(handle)
}

// === The first act ===

fn experiment(background: &Handle) -> Result<()> {
    println!("1. A burst that is too long");
    println!();
    println!(
        "  One worker that takes 10 ms; 500 requests, one every 6 ms; room for 100 that wait: 99 in"
    );
    println!("  tidegate's queue and one at the worker's door, so that it never idles.");
    println!();
    let mut table =
        Table::new(["", "served", "turned away", "first at", "longest wait", "served/s"]);
    for (name, max_wait) in [("max_wait = 10 s", "10s"), ("max_wait = 100 ms", "100ms")] {
        let app = App::start(1, EXPERIMENT_SERVICE)?;
        let sidecar = start(background, app.address(), 2, 99, max_wait)?;
        let outcomes = watch(name, sidecar.addresses()[0], EXPERIMENT)?;
        let of = |end| outcomes.iter().filter(move |outcome| outcome.end == end);
        let first = of(End::TurnedAway).map(|outcome| outcome.came).min();
        let longest = of(End::Served).map(|outcome| outcome.took).max().unwrap_or_default();
        let last = of(End::Served).map(|outcome| outcome.came + outcome.took).max();
        let seconds = last.unwrap_or_default().as_secs_f64();
        let served = of(End::Served).count();
        table.row([
            name.to_owned(),
            served.to_string(),
            of(End::TurnedAway).count().to_string(),
            first.map_or("-".to_owned(), |first| format!("{:.2} s", first.as_secs_f64())),
            // The wait in the queue: without the work itself.
            millis(longest.saturating_sub(EXPERIMENT_SERVICE)),
            format!("{:.0}", served as f64 / seconds),
        ]);
    }
    println!("{}", table.text());
    println!(
        "  The same throughput; but with a bound on the wait nobody stands in a queue for a second."
    );
    println!();
    Ok(())
}

// === The second act ===

fn overload(background: &Handle) -> Result<()> {
    let capacity = OVERLOAD_WORKERS as f64 / OVERLOAD_SERVICE.as_secs_f64();
    println!("2. Three times too much, by clients that time out and try again");
    println!();
    println!(
        "  {OVERLOAD_WORKERS} workers that take 20 ms: {capacity:.0} requests/s at best. \
         600 clients/s come, give up after 500 ms,"
    );
    println!("  and try again twice. Counted: what ended in the second half.");
    println!();
    let mut table =
        Table::new(["", "answered/s", "of capacity", "p50", "p99", "no after", "work wasted"]);

    let app = App::start(OVERLOAD_WORKERS, OVERLOAD_SERVICE)?;
    let outcomes = watch("without tidegate", app.address(), OVERLOAD)?;
    table.row(verdict("without tidegate", &outcomes, capacity, &app));

    let app = App::start(OVERLOAD_WORKERS, OVERLOAD_SERVICE)?;
    let sidecar = start(background, app.address(), OVERLOAD_WORKERS, 100, "100ms")?;
    let admin = sidecar.admin_address();
    println!("  Look at it while it runs: http://{admin}/");
    println!();
    io::stdout().flush()?;
    let outcomes = watch("with tidegate", sidecar.addresses()[0], OVERLOAD)?;
    table.row(verdict("with tidegate", &outcomes, capacity, &app));

    println!("{}", table.text());
    println!(
        "  Without it the application works for clients that have left; with it, for those who wait."
    );
    println!();
    println!("  What tidegate itself counted (/metrics has the same numbers):");
    println!();
    println!("{}", counted(&sidecar));
    Ok(())
}

fn verdict(name: &str, outcomes: &[Outcome], capacity: f64, app: &App) -> [String; 7] {
    let whole = OVERLOAD.every * OVERLOAD.clients as u32;
    let window = WARM_UP..whole;
    let ended = |outcome: &&Outcome| window.contains(&(outcome.came + outcome.took_in_all));
    let counted: Vec<_> = outcomes.iter().filter(ended).collect();
    let seconds = whole.saturating_sub(WARM_UP).as_secs_f64();
    let served = counted.iter().filter(|outcome| outcome.end == End::Served);
    let mut times: Vec<_> = served.map(|outcome| outcome.took).collect();
    times.sort_unstable();
    let others = counted.iter().filter(|outcome| outcome.end != End::Served);
    let mut refusals: Vec<_> = others.map(|outcome| outcome.took_in_all).collect();
    refusals.sort_unstable();
    let rate = times.len() as f64 / seconds;
    let (done, wasted) = app.done_and_wasted();
    [
        name.to_owned(),
        format!("{rate:.0}"),
        format!("{:.0} %", 100.0 * rate / capacity),
        percentile(&times, 50),
        percentile(&times, 99),
        percentile(&refusals, 50),
        format!("{:.0} %", 100.0 * wasted as f64 / (done.max(1)) as f64),
    ]
}

/// Both sides of the balance, from the gate itself.
fn counted(sidecar: &Sidecar) -> String {
    let reading = sidecar.state().proxy().reading();
    let mut table = Table::new(["", "requests"]);
    for route in &reading.routes {
        table.row(["arrivals".to_owned(), route.arrivals.to_string()]);
        table.row(["= admitted".to_owned(), route.admitted.to_string()]);
        for (reason, count) in RejectReason::LABELS.iter().zip(&route.rejected) {
            table.row([format!("+ rejected: {reason}"), count.to_string()]);
        }
        table.row(["+ abandoned by the client".to_owned(), route.abandoned.to_string()]);
        table.row(["+ still queued".to_owned(), route.queue_depth.to_string()]);
    }
    table.text()
}

// === Both ===

fn start(
    background: &Handle,
    app: SocketAddr,
    max_in_flight: usize,
    max_queue: usize,
    max_wait: &str,
) -> Result<Sidecar> {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [log]\naccess = \"off\"\n\
         [upstream]\nurl = \"http://{app}\"\nmax_in_flight = {max_in_flight}\n\
         [defaults]\nmax_queue = {max_queue}\nmax_wait = \"{max_wait}\"\n"
    );
    let loaded = config::parse("demo.toml", &text, &[], &Overrides::default());
    let loaded = loaded.map_err(|report| report.render(config::Format::Human, false))?;
    let _inside = background.enter();
    Ok(Sidecar::start(loaded.config, text, None)?)
}

/// Plays a load and shows how far it is, if somebody watches.
fn watch(name: &str, target: SocketAddr, load: Load) -> Result<Vec<Outcome>> {
    let watched = io::stderr().is_terminal();
    let mut shown = Instant::now();
    let outcomes = play(target, load, |ended| {
        if watched && shown.elapsed() >= Duration::from_millis(100) {
            shown = Instant::now();
            eprint!("\r  {name}: {ended} of {} clients\x1b[K", load.clients);
            let _ = io::stderr().flush();
        }
    });
    if watched {
        eprint!("\r\x1b[K");
    }
    Ok(outcomes?)
}

fn percentile(sorted: &[Duration], percent: usize) -> String {
    match sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))) {
        Some(value) => millis(*value),
        None => "-".to_owned(),
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1e3)
}
