//! `tidegate check`: what it prints and how it exits.
//!
//! The outputs stand in `tests/config_fixtures/check/`; `UPDATE_GOLDEN=1` rewrites them.

#![allow(clippy::unwrap_used)] // in the helpers; clippy.toml covers test functions only

use std::fs;
use std::path::PathBuf;

use tidegate::commands::check::{CheckArgs, Outcome, ReportFormat, check};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config_fixtures/check")
}

fn args(file: &str) -> CheckArgs {
    CheckArgs {
        config: directory().join(file),
        explain: None,
        print_effective: false,
        format: ReportFormat::Human,
        deny_warnings: false,
    }
}

fn outcome(args: &CheckArgs) -> Outcome {
    check(args, &[("TIDEGATE_LOG_LEVEL".to_owned(), "warn".to_owned())], false)
}

/// Compares with the file, in which the directory is left out.
fn assert_golden(name: &str, text: &str) {
    let text = text.replace(&format!("{}/", directory().display()), "");
    let path = directory().join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name} (UPDATE_GOLDEN=1 rewrites it)");
}

#[test]
fn a_valid_file_is_ok() {
    let outcome = outcome(&args("shop.toml"));
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    assert_golden("ok.txt", &outcome.stdout);
}

#[test]
fn an_invalid_file_exits_with_78() {
    let outcome = outcome(&args("bad.toml"));
    assert_eq!((outcome.status, outcome.stdout.as_str()), (78, ""));
    assert_golden("bad.txt", &outcome.stderr);
}

#[test]
fn machines_get_their_forms_on_standard_output() {
    for (format, name) in [(ReportFormat::Json, "bad.json"), (ReportFormat::Github, "bad.github")] {
        let outcome = outcome(&CheckArgs { format, ..args("bad.toml") });
        assert_eq!((outcome.status, outcome.stderr.as_str()), (78, ""));
        assert_golden(name, &outcome.stdout);
    }
    let outcome = outcome(&CheckArgs { format: ReportFormat::Json, ..args("shop.toml") });
    assert_eq!(outcome.stdout, "[]\n");
}

#[test]
fn warnings_pass_unless_denied() {
    let args = args("warned.toml");
    let allowed = outcome(&args);
    assert_eq!(allowed.status, 0);
    assert!(allowed.stderr.contains("stale-connections"), "{}", allowed.stderr);
    assert!(allowed.stdout.starts_with("ok: "), "{}", allowed.stdout);
    let denied = outcome(&CheckArgs { deny_warnings: true, ..args });
    assert_eq!((denied.status, denied.stdout.as_str()), (78, ""));
}

#[test]
fn a_request_is_explained() {
    let explain = |request: &str| {
        outcome(&CheckArgs { explain: Some(request.to_owned()), ..args("shop.toml") })
    };
    let outcome = explain("GET http://shop.example.org/api/search?q=x");
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    assert_golden("explain.txt", &outcome.stdout);
    assert_golden("explain-default.txt", &explain("GET /").stdout);
    let wrong = explain("api");
    assert_eq!(wrong.status, 2);
    assert!(wrong.stderr.contains("write \"GET /path\""), "{}", wrong.stderr);
}

#[test]
fn the_effective_configuration_names_every_origin() {
    // Worker threads depend on the machine, so the file sets them.
    let outcome = outcome(&CheckArgs { print_effective: true, ..args("shop.toml") });
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    assert_golden("effective.txt", &outcome.stdout);
}

#[test]
fn an_absent_file_exits_with_78() {
    let outcome = outcome(&args("absent.toml"));
    assert_eq!(outcome.status, 78);
    assert!(outcome.stderr.contains("cannot read"), "{}", outcome.stderr);
}
