//! `tidegate tune`: looks at a running tidegate for a while, and says which limits the evidence
//! supports.

mod advice;
mod evidence;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::order::with_address;
use super::remote::{self, Remote};
use super::{EXIT_FAILED, fail};
use advice::advise;
use evidence::Evidence;

/// Look at a running tidegate, and say which limit, queue and wait the evidence supports, as TOML
/// with the evidence in its comments. Exits with 0 also where the evidence is too thin, 1 if there
/// is no answer.
#[derive(Args, Clone, Debug)]
pub struct TuneArgs {
    #[command(flatten)]
    remote: Remote,
    /// How long to look, such as 60s or 5m; the load should be the usual one meanwhile, peaks
    /// included
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    length: Duration,
    /// Judge what was recorded earlier instead: one /status.json a line, a second apart
    #[arg(long, value_name = "FILE", conflicts_with_all = ["admin", "length"])]
    from: Option<PathBuf>,
    /// Keep what was seen, for --from
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Looks, and advises.
#[must_use]
pub fn run(args: &TuneArgs) -> ExitCode {
    match &args.from {
        Some(path) => {
            match std::fs::File::open(path).and_then(|file| recorded(io::BufReader::new(file))) {
                Ok(looks) => judge(args, &looks),
                Err(error) => fail(&error),
            }
        }
        None => with_address(&args.remote, |admin| match look(admin, args.length) {
            Ok(looks) => judge(args, &looks),
            Err(error) => remote::unanswered(admin, &error),
        }),
    }
}

fn judge(args: &TuneArgs, looks: &[Value]) -> ExitCode {
    if let Some(path) = &args.record
        && let Err(error) = record(path, looks)
    {
        eprintln!("tidegate: cannot write {}: {error}", path.display());
        return ExitCode::from(EXIT_FAILED);
    }
    let Some(evidence) = Evidence::of(looks) else {
        eprintln!("tidegate: nothing to judge: it takes two looks at the same configuration");
        return ExitCode::from(EXIT_FAILED);
    };
    super::print(&advise(&evidence));
    ExitCode::SUCCESS
}

/// Looks once a second. Looks that failed are left out: it may be restarted meanwhile.
fn look(admin: &str, length: Duration) -> io::Result<Vec<Value>> {
    let (began, shown) = (Instant::now(), io::stderr().is_terminal());
    let mut looks = vec![remote::status(admin)?];
    while began.elapsed() < length {
        sleep(Duration::from_secs(1).min(length.saturating_sub(began.elapsed())));
        looks.extend(remote::status(admin));
        if shown {
            let (seconds, of) = (began.elapsed().as_secs(), length.as_secs());
            eprint!("\r  looking: {} of {of} s\x1b[K", seconds.min(of));
            let _ = io::stderr().flush();
        }
    }
    if shown {
        eprint!("\r\x1b[K");
    }
    Ok(looks)
}

fn recorded(file: impl BufRead) -> io::Result<Vec<Value>> {
    let mut looks = Vec::new();
    for line in file.lines() {
        looks.push(serde_json::from_str(&line?).map_err(io::Error::from)?);
    }
    Ok(looks)
}

fn record(path: &std::path::Path, looks: &[Value]) -> io::Result<()> {
    let lines = looks.iter().map(|look| format!("{look}\n"));
    std::fs::write(path, lines.collect::<String>())
}

/// `90s`, `5m`, or seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| "write 60s or 5m".to_owned())?;
    match number.saturating_mul(unit) {
        seconds @ 1..=86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err("1s to 1440m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("0s").is_err() && duration("1h").is_err() && duration("").is_err());
    }
}
