//! The rules of the house, read off the sources: which layer may name which, and what nobody may
//! do.

use std::fs;
use std::path::{Path, PathBuf};

/// Who may name whom within the crate, from the bottom up. A layer may name itself.
const LAYERS: [(&str, &[&str]); 15] = [
    ("gate", &[]),
    ("net", &[]),
    ("certificate", &[]),
    // It judges the files that it names.
    ("config", &["certificate"]),
    ("simulate", &["config", "gate"]),
    ("telemetry", &["config"]),
    ("timer", &[]),
    ("message", &["timer"]),
    ("upstream", &["certificate", "message", "timer"]),
    ("admission", &["gate"]),
    ("proxy", &["admission", "config", "gate", "message", "net", "telemetry", "timer", "upstream"]),
    ("server", &["certificate", "config", "message", "net", "proxy", "timer"]),
    ("admin", &["config", "gate", "proxy", "server", "telemetry"]),
    ("sidecar", &["admin", "config", "gate", "proxy", "server", "telemetry", "upstream"]),
    ("commands", &["config", "gate", "proxy", "sidecar", "simulate", "telemetry", "upstream"]),
];

/// Words that only some layers may use.
const RESERVED: [(&str, &[&str]); 9] = [
    // Reading belongs to the configuration; the admin pages only write.
    ("serde::", &["config", "admin"]),
    ("toml::", &["config"]),
    ("schemars::", &["config"]),
    ("rustls::", &["certificate", "upstream", "server"]),
    ("h2::", &["message", "upstream", "server"]),
    ("prometheus::", &["telemetry", "admin"]),
    // Status codes of our own responses are chosen in one place (and for the admin pages).
    ("status_mut()", &["proxy/respond.rs", "admin"]),
    ("clap::", &["commands", "main.rs"]),
    ("rustix::", &["server", "sidecar", "commands"]),
];

/// What the decision core must not know.
const NOT_IN_THE_GATE: [&str; 12] = [
    "tokio",
    "hyper",
    "http::",
    "prometheus",
    "tracing",
    "Instant",
    "SystemTime",
    "async ",
    "std::net",
    "std::fs",
    "std::io",
    "std::thread::s",
];

const MAX_LINES: usize = 600;
const MAX_WIDTH: usize = 100;

/// What breaks a rule in one file; `path` is relative to `src`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let code = without_tests_and_comments(text);
    let layer = path.split(['/', '.']).next().unwrap_or_default();
    let mut found = Vec::new();
    if let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) {
        for named in crate_names(&code) {
            let fine = named == layer || allowed.contains(&named.as_str());
            let known = LAYERS.iter().any(|(name, _)| *name == named);
            if known && !fine {
                found.push(format!("{path}: {layer} may not name {named}"));
            }
        }
    } else if !["lib", "main"].contains(&layer) {
        found.push(format!("{path}: {layer} is no known layer"));
    }
    for (word, allowed) in RESERVED {
        let fine = allowed.iter().any(|place| path == *place || layer == *place);
        if contains_word(&code, word) && !fine {
            found.push(format!("{path}: only {allowed:?} may use {word}"));
        }
    }
    if layer == "gate" {
        let words = NOT_IN_THE_GATE.iter().filter(|word| contains_word(&code, word));
        found.extend(words.map(|word| format!("{path}: the gate may not know {word:?}")));
    }
    if code.contains(".unwrap()") {
        found.push(format!("{path}: unwrap outside of tests; an expect states the invariant"));
    }
    if !text.starts_with("//!") {
        found.push(format!("{path}: the file does not say what it is for (//!)"));
    }
    // rustfmt holds the code to the width, but not the comments.
    let comments = text.lines().filter(|line| line.trim_start().starts_with("//"));
    if let Some(long) = comments.into_iter().find(|line| line.chars().count() > MAX_WIDTH) {
        found.push(format!("{path}: a comment wider than {MAX_WIDTH} columns: {long}"));
    }
    if text.lines().count() > MAX_LINES {
        found.push(format!("{path}: more than {MAX_LINES} lines"));
    }
    found
}

fn without_tests_and_comments(text: &str) -> String {
    let tests = text.match_indices("#[cfg(test)]\n").map(|(at, _)| at);
    let begins = |at: &usize| text[*at..].lines().nth(1).is_some_and(|l| l.contains("mod tests {"));
    let code = &text[..tests.into_iter().find(begins).unwrap_or(text.len())];
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The modules named by `crate::`.
fn crate_names(code: &str) -> Vec<String> {
    let rest = code.split("crate::").skip(1);
    rest.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

/// Whether a word stands there on its own and not as the end of another.
fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src is there") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_keeps_to_its_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 30, "the sources were found");
    let mut found = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        found.extend(violations(&path, &fs::read_to_string(&file).expect("a source is UTF-8")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_forbidden_import_is_found() {
    let forbidden = [
        ("gate/lane.rs", "use tokio::sync::Notify;"),
        ("gate.rs", "let now = std::time::Instant::now();"),
        ("gate.rs", "pub async fn arrive() {}"),
        ("gate.rs", "use crate::config::Config;"),
        ("upstream/pool.rs", "use crate::admission::Permit;"),
        ("upstream.rs", "let x = crate::proxy::MAX_EXEMPT;"),
        ("proxy/body.rs", "use crate::server::Server;"),
        ("proxy.rs", "use prometheus::IntCounter;"),
        ("proxy.rs", "use serde::Deserialize;"),
        ("server.rs", "let value: toml::Value = x;"),
        ("proxy/forward.rs", "*response.status_mut() = StatusCode::OK;"),
        ("admission.rs", "let x = y.unwrap();"),
        ("newcomer.rs", "fn nothing() {}"),
    ];
    for (path, line) in forbidden {
        assert_eq!(violations(path, &format!("//! A file.\n{line}\n")).len(), 1, "{path}: {line}");
    }
    assert_eq!(violations("gate.rs", "fn undocumented() {}\n").len(), 1);
    assert_eq!(violations("gate.rs", &format!("//! A file.\n// {}\n", "x".repeat(98))).len(), 1);
    assert_eq!(violations("gate.rs", &format!("//! Long.\n{}", "\n".repeat(600))).len(), 1);
}

#[test]
fn what_is_allowed_is_not_found() {
    let fine = [
        ("proxy.rs", "use crate::gate::Gate;"),
        ("telemetry/metrics.rs", "use prometheus::IntCounter;"),
        ("admin/status.rs", "use serde_json::json;"),
        ("gate.rs", "// tokio does this otherwise\n"),
        ("gate.rs", "#[cfg(test)]\nmod tests {\n let x = y.unwrap();"),
    ];
    for (path, line) in fine {
        assert_eq!(violations(path, &format!("//! A file.\n{line}\n")), [""; 0], "{path}: {line}");
    }
}
