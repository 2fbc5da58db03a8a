//! The simulator against what is known: theory, itself, and its own scenario files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tidegate::config::scenario::{Law, Window};
use tidegate::gate::{Budget, LaneLimits, Limits};
use tidegate::simulate::figures::{Figure, Figures};
use tidegate::simulate::scenario::{App, Churn, Group, Protection, Route, Scenario};
use tidegate::simulate::{run, suite};

const SECOND: Duration = Duration::from_secs(1);

fn scenario(app: App, group: Group, limit: u32, seconds: u32) -> Scenario {
    let duration = seconds * SECOND;
    Scenario {
        name: "test".to_owned(),
        app,
        routes: vec![Route { name: "default".to_owned() }],
        groups: vec![group],
        limits: Limits {
            budget: Budget::Fixed(limit),
            floor_period: 20,
            hold: Duration::ZERO,
            lanes: vec![LaneLimits::plain(1_000, 100 * SECOND)],
        },
        protection: Protection::Gate,
        churn: Churn::default(),
        duration,
        windows: vec![Window { from: duration / 10, to: duration }],
        recover_from: None,
    }
}

fn scenario_files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect()
}

/// Runs the program: what it wrote to standard output, and how it ended.
fn tidegate(args: &[&str]) -> (String, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("simulate").args(args);
    let output = command.output().unwrap();
    (String::from_utf8(output.stdout.clone()).unwrap(), output)
}

/// The mean wait of M/M/k (Erlang C), in seconds.
fn erlang_c_wait(k: u32, rate: f64, mean_service: f64) -> f64 {
    let load = rate * mean_service;
    let term = |n: u32| (1..=n).fold(1.0, |product, i| product * load / f64::from(i));
    let last = term(k) * f64::from(k) / (f64::from(k) - load);
    let waits = last / ((0..k).map(term).sum::<f64>() + last);
    waits / (f64::from(k) / mean_service - rate)
}

#[test]
fn waits_agree_with_theory_inside_the_application_and_in_the_gate() {
    let service = Law::Exponential(Duration::from_millis(50));
    // One client, so that nobody is put before who came first.
    let timeout = 1_000 * SECOND;
    let group = Group { service, timeout, clients: 1, ..Group::plain("clients", 64.0) };
    let app = App { workers: 4, knee: 0, contention: 0.0, cancel: false, steps: Vec::new() };
    let expected = erlang_c_wait(4, 64.0, 0.05);
    let gated = scenario(app, group, 4, 1_200);
    let unprotected = Scenario { protection: Protection::None, ..gated.clone() };
    for seed in 1..=2 {
        let total = run(&gated, seed).windows[0].total();
        let wait = total.wait.mean().unwrap().as_secs_f64();
        assert!((wait / expected - 1.0).abs() < 0.1, "in the gate {wait}, not {expected}");
        let alone = run(&unprotected, seed).windows[0].total();
        let wait = alone.latency.mean().unwrap().as_secs_f64() - 0.05;
        assert!((wait / expected - 1.0).abs() < 0.1, "in the application {wait}, not {expected}");
        // The same traffic, the same order: it does not matter where one waits.
        assert_eq!(total.latency, alone.latency);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for file in ["churn", "classes", "metastable"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join(format!("config/scenarios/{file}.toml"));
        for case in suite::load(&path, None).unwrap() {
            let scenario = Scenario { duration: 6 * SECOND, ..case.scenario };
            let counted = run(&scenario, 7);
            assert_eq!(counted, run(&scenario, 7), "{}", case.name);
            assert_ne!(counted, run(&scenario, 8), "{}", case.name);
        }
    }
}

#[test]
fn traffic_does_not_depend_on_what_protects_the_application() {
    let group = Group { retries: 2, ..Group::plain("clients", 1_600.0) };
    let gated = scenario(App::base(), group, 16, 5);
    let unprotected = Scenario { protection: Protection::None, ..gated.clone() };
    let calls =
        |scenario| -> Vec<u32> { run(scenario, 3).series.iter().map(|bin| bin.calls).collect() };
    assert_eq!(calls(&gated), calls(&unprotected));
}

#[test]
fn an_unprotected_application_never_recovers_and_a_protected_one_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scenarios/metastable.toml");
    let recovery = |name: &str| {
        let cases = suite::load(&path, None).unwrap();
        let case = cases.into_iter().find(|case| case.name == name).unwrap();
        let counted = run(&case.scenario, 1);
        Figures::new(&case.scenario, &counted).value(Figure::Recovery, 0, None).unwrap()
    };
    assert_eq!(recovery("metastable/without none"), f64::INFINITY);
    assert!(recovery("metastable/with a gate fixed") < 10.0);
}

#[test]
fn every_scenario_file_has_cases_with_bars() {
    let rows = scenario_files("config/scenarios");
    let held_out = scenario_files("config/scenarios/held-out");
    assert_eq!(rows.len(), 13, "one for each row of the promises");
    let mut kept_aside = 0;
    for path in rows.iter().chain(&held_out) {
        let cases = suite::load(path, None).unwrap_or_else(|error| panic!("{error}"));
        assert!(!cases.is_empty(), "{}", path.display());
        assert!(cases.iter().all(|case| !case.bars.is_empty()), "{}", path.display());
        kept_aside += if held_out.contains(path) { cases.len() } else { 0 };
    }
    assert!(kept_aside >= 10, "{kept_aside}");
}

#[test]
fn a_simulation_is_shown_as_text_json_and_a_page() {
    let page = std::env::temp_dir().join(format!("tidegate-simulate-{}.html", std::process::id()));
    let flags = ["--rate", "1600/s", "--max-in-flight", "16", "--duration", "3s"];
    let page_flag = ["--html", page.to_str().unwrap()];
    let (text, output) = tidegate(&[&flags[..], &["--compare", "none"], &page_flag].concat());
    assert!(output.status.success());
    for part in ["goodput, of capacity", "16, 300ms..3s", "none, 300ms..3s", "Over time: none"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("<svg viewBox"));
    assert!(!html.contains("http:") && !html.contains("<script"), "nothing is loaded or runs");

    let (json, _) = tidegate(&[&flags[..], &["--format", "json", "--seeds", "2"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let report = &json["reports"][0];
    assert_eq!(report["seeds"], serde_json::json!([1, 2]));
    assert_eq!(report["series"]["attempts"].as_array().unwrap().len(), 12);
    assert!(report["windows"][0]["figures"]["goodput"]["worst"].as_f64().unwrap() > 0.0);
    assert_eq!(report["windows"][0]["figures"]["violations"]["worst"], 0.0);
}

#[test]
fn a_sweep_marks_the_smallest_value_that_is_enough() {
    let flags = ["--rate", "1200/s", "--duration", "3s", "--sweep", "max_in_flight=4,16,24"];
    let (text, output) = tidegate(&flags);
    assert!(output.status.success());
    let marked: Vec<_> = text.lines().filter(|line| line.ends_with("<- enough")).collect();
    assert!(marked.len() == 1 && marked[0].trim_start().starts_with("16 "), "{text}");
}

#[test]
fn a_bar_that_does_not_hold_fails_and_says_how_to_see_it() {
    let file = std::env::temp_dir().join(format!("tidegate-bars-{}.toml", std::process::id()));
    let bars = "bars = [{ figure = \"goodput\", min = 2 }, { figure = \"violations\", max = 0 }]";
    let text =
        format!("duration = \"2s\"\n[[group]]\nload = 0.5\n[[case]]\nname = \"x\"\n{bars}\n");
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let (text, output) = tidegate(&["--suite", path, "--seeds", "2", "--limit", "fixed"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("1 of 2 bars hold, 1 do not"), "{text}");
    let replay = text.lines().find(|line| line.contains("tidegate simulate --scenario")).unwrap();
    assert!(replay.contains("--case \"x\" --limit fixed --seed "), "{replay}");

    std::fs::write(&file, "[app]\nworker = 3\n").unwrap();
    let (_, output) = tidegate(&["--scenario", path]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(":2:1: unknown field `worker`, expected one of `workers`"), "{error}");
}
