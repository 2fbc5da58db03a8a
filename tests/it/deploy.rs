//! What the files under `deploy/` say about tidegate must be so: every metric that one of them
//! names exists in the binary, and the rules are read by Prometheus's own tool.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tidegate::gate::RejectReason;

use crate::support::{Metrics, Process, free_port, output, scratch};

/// Named under `deploy/` and not exported yet. Each stands here until the day it is, when this test
/// fails and the name has to go.
const NOT_YET: [&str; 0] = [];

/// The directory, or a file of it.
pub fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// All files, with their text.
fn files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![deployed("")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 5, "deploy/ is not empty");
    found
}

/// The names of metrics in a text. A name with a colon is a recorded one.
pub fn named(text: &str) -> BTreeSet<&str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !inside(c)).map(|word| word.trim_matches(':'));
    words
        .filter(|word| {
            let own = word.starts_with("tidegate_") || word.starts_with("process_");
            own || (word.contains(":tidegate_"))
        })
        .collect()
}

/// What the rules record, and the adapter for the autoscaler calls anew.
fn recorded(rules: &str) -> BTreeSet<&str> {
    let lines = rules.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("- record: ").or_else(|| line.strip_prefix("as: ")))
        .collect()
}

/// Names that are in none of the two.
fn unknown<'a>(text: &'a str, exported: &BTreeSet<String>, rules: &str) -> Vec<&'a str> {
    let recorded = recorded(rules);
    let known = |name: &str| recorded.contains(name) || exported.contains(name);
    named(text).into_iter().filter(|name| !known(name)).collect()
}

/// The names of every series of a running tidegate.
async fn exported() -> BTreeSet<String> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let tide = Process::start(nowhere, "");
    Metrics::scrape(tide.admin).await.names()
}

#[tokio::test]
async fn every_metric_that_is_named_exists() {
    let exported = exported().await;
    let adapter = "kubernetes/overlays/hpa/prometheus-adapter-values.yaml";
    let rules = ["prometheus/rules.yml", adapter].map(|path| fs::read_to_string(deployed(path)));
    let rules = rules.map(Result::unwrap).join("\n");
    let mut count = 0;
    for (path, text) in files() {
        let mut missing = unknown(&text, &exported, &rules);
        missing.retain(|name| !NOT_YET.contains(name));
        assert!(missing.is_empty(), "{}: {missing:?} do not exist", path.display());
        count += named(&text).len();
    }
    assert!(count > 80, "the names are found: {count}");
    for name in NOT_YET {
        assert!(!exported.contains(name), "{name} exists now: take it off the list");
    }
    // And what does not exist would be seen.
    let text = "rate(tidegate_nothing_total[1m]) / route:tidegate_nothing:mean1m + process_nothing";
    let expected = ["process_nothing", "route:tidegate_nothing:mean1m", "tidegate_nothing_total"];
    assert_eq!(unknown(text, &exported, &rules), expected);
}

/// The first columns of the guide's tables.
fn rows(guide: &str) -> BTreeSet<&str> {
    guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|row| row.0)
        .collect()
}

#[test]
fn the_guide_has_every_alert_and_every_reason() {
    let guide = fs::read_to_string(deployed("README.md")).unwrap();
    let rules = fs::read_to_string(deployed("prometheus/rules.yml")).unwrap();
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let expected: BTreeSet<&str> = alerts.chain(RejectReason::LABELS).collect();
    assert_eq!(rows(&guide), expected);
}

#[test]
fn what_the_guide_simulates_can_be_simulated() {
    let guide = fs::read_to_string(deployed("README.md")).unwrap();
    let commands: Vec<&str> =
        guide.lines().filter_map(|line| line.trim().strip_prefix("tidegate ")).collect();
    assert_eq!(commands.len(), 1, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = output(env!("CARGO_BIN_EXE_tidegate"), &words);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn promtool(arguments: &[&str], file: &Path) -> (bool, String) {
    let output = output("promtool", &[arguments, &[file.to_str().unwrap()]].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
#[ignore = "needs promtool"]
fn promtool_accepts_the_rules_and_finds_what_is_wrong() {
    let directory = scratch("rules");
    let copy = |name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(deployed("prometheus").join(name)).unwrap();
        assert!(from.is_empty() || text.contains(from), "{name} has {from}");
        fs::write(directory.join(name), text.replacen(from, to, 1)).unwrap();
    };
    let all = || {
        copy("prometheus.yml", "", "");
        copy("rules.yml", "", "");
        copy("rules.test.yml", "", "");
    };
    all();
    for (arguments, name) in [
        (["check", "config"], "prometheus.yml"),
        (["check", "rules"], "rules.yml"),
        (["test", "rules"], "rules.test.yml"),
    ] {
        let (fine, said) = promtool(&arguments, &directory.join(name));
        assert!(fine, "{said}");
        println!("{said}");
    }
    // Mistakes that must not pass: of syntax, of a threshold, of a duration, of a label.
    let (config, rules, test) = ("prometheus.yml", "rules.yml", "rules.test.yml");
    for (name, from, to, arguments, checked) in [
        (config, "scrape_interval", "scrape_intervall", ["check", "config"], config),
        (rules, "histogram_quantile(", "histogram_quantil(", ["check", "rules"], rules),
        (rules, "mean1m > 0.5", "mean1m > 0.52", ["test", "rules"], test),
        (rules, "ratio_rate5m > 0.01", "ratio_rate5m > 0.009", ["test", "rules"], test),
        (rules, "for: 15m", "for: 17m", ["test", "rules"], test),
        (rules, "severity: critical", "severity: page", ["test", "rules"], test),
    ] {
        copy(name, from, to);
        let (fine, said) = promtool(&arguments, &directory.join(checked));
        assert!(!fine, "{from} -> {to} is not noticed: {said}");
        all();
    }
}

#[test]
#[ignore = "needs promtool"]
fn every_query_of_the_dashboard_is_promql() {
    let directory = scratch("queries");
    let check = |queries: &[String]| {
        let rules = queries.iter().enumerate().map(|(number, query)| {
            let query = serde_json::Value::String(query.clone());
            format!("      - record: query:{number}\n        expr: {query}\n")
        });
        let text: String = rules.collect();
        let file = directory.join("queries.yml");
        fs::write(&file, format!("groups:\n  - name: queries\n    rules:\n{text}")).unwrap();
        promtool(&["check", "rules"], &file)
    };
    let mut queries = crate::dashboard::queries();
    assert!(queries.len() > 30, "{}", queries.len());
    let (fine, said) = check(&queries);
    assert!(fine, "{said}");
    queries.push("sum by (route) (rate(tidegate_arrivals_total[1m])".to_owned());
    assert!(!check(&queries).0, "a parenthesis that is missing is noticed");
}
