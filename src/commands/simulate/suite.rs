//! `--suite`: all cases of the scenario files, each held to its bars.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

use super::{EXIT_FAILED, ReportFormat, SimulateArgs, print};
use crate::simulate::suite::{self, Case, Judged};

/// Runs the cases and prints a line for each bar.
pub(super) fn run(args: &SimulateArgs, path: &Path) -> Result<ExitCode, String> {
    let began = Instant::now();
    let (mut bars, mut failed) = (0, 0);
    let mut report = Vec::new();
    for file in files(path)? {
        let cases = suite::load(&file, args.limit).map_err(|error| error.to_string())?;
        for mut case in cases {
            if args.case.as_ref().is_some_and(|name| !case.name.contains(name.as_str())) {
                continue;
            }
            choose_seeds(args, &mut case);
            let mut judged = case.judge(args.threads(), |seed| {
                if args.announce {
                    eprintln!("{}", replay(&file, &case, seed));
                }
            });
            judged.retain(|judged| !judged.holds || !judged.bar.implied);
            bars += judged.len();
            failed += judged.iter().filter(|judged| !judged.holds).count();
            match args.format {
                ReportFormat::Text => print(&text(&file, &case, &judged)),
                ReportFormat::Json => report.push(object(&file, &case, &judged)),
            }
        }
    }
    match args.format {
        ReportFormat::Text => print(&format!(
            "\n{} of {bars} bars hold, {failed} do not; {:.1} s\n",
            bars - failed,
            began.elapsed().as_secs_f64()
        )),
        ReportFormat::Json => {
            let all = json!({ "bars": bars, "failed": failed, "cases": report });
            print(&format!("{all:#}\n"));
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

/// A file, or those of a directory, in order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let problem = |error: io::Error| format!("{}: {error}", path.display());
    let entries = path.read_dir().map_err(problem)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut files = paths.collect::<Result<Vec<_>, _>>().map_err(problem)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    if files.is_empty() {
        return Err(format!("{}: no scenario file (*.toml) is in there", path.display()));
    }
    Ok(files)
}

fn choose_seeds(args: &SimulateArgs, case: &mut Case) {
    let first = args.seed.unwrap_or(case.seeds[0]);
    let count = args.seeds.map_or(case.seeds.len(), |count| count.max(1) as usize);
    case.seeds = (first..).take(count).collect();
}

fn text(file: &Path, case: &Case, judged: &[Judged]) -> String {
    let mut lines = String::new();
    for judged in judged {
        let verdict = if judged.holds { "ok  " } else { "FAIL" };
        lines.push_str(&format!(
            "{verdict} {:<32} {:<34} worst {:>9} (seed {:>4})   median {:>9}\n",
            case.name,
            judged.bar.text(),
            value(judged.worst),
            judged.worst_seed,
            value(judged.median)
        ));
        if !judged.holds {
            lines.push_str(&format!("       {}\n", replay(file, case, judged.worst_seed)));
        }
    }
    lines
}

fn value(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_infinite() => "never".to_owned(),
        Some(value) if value != 0.0 && value.abs() < 10.0 => format!("{value:.4}"),
        Some(value) => format!("{value:.1}"),
        None => "-".to_owned(),
    }
}

/// The command that shows the worst seed.
fn replay(file: &Path, case: &Case, seed: u64) -> String {
    let mut line = format!("tidegate simulate --scenario {}", file.display());
    if let Some(name) = &case.case {
        line.push_str(&format!(" --case \"{name}\""));
    }
    line.push_str(&format!(" --limit {} --seed {seed}", case.limit.name()));
    line
}

fn object(file: &Path, case: &Case, judged: &[Judged]) -> Value {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    let bars: Vec<_> = judged
        .iter()
        .map(|judged| {
            json!({
                "bar": judged.bar.text(),
                "figure": judged.bar.figure.name(),
                "worst": finite(judged.worst),
                "worst_seed": judged.worst_seed,
                "median": finite(judged.median),
                "holds": judged.holds,
                "replay": replay(file, case, judged.worst_seed),
            })
        })
        .collect();
    let seeds = case.seeds.len();
    json!({ "case": case.name, "limit": case.limit.name(), "seeds": seeds, "bars": bars })
}
