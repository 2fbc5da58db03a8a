//! The Grafana dashboard, held to the rules that make one usable: units and descriptions
//! everywhere, nothing bound to one data source, nothing on top of something else.
//!
//! Grafana itself is not run: this reads the JSON that it would read.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::deploy::{deployed, named};

fn dashboard() -> Value {
    let text = fs::read_to_string(deployed("grafana/dashboards/tidegate.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Every query, with what Grafana puts in the place of its variables.
pub fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let targets = list(&dashboard["panels"]).iter().flat_map(|panel| list(&panel["targets"]));
    let put = |query: &str| {
        let query = query.replace("$__rate_interval", "20s");
        query.replace("$job", ".+").replace("$instance", ".+").replace("$route", ".+")
    };
    targets.map(|target| put(text(&target["expr"]))).collect()
}

/// Units that Grafana knows and that are in use here.
const UNITS: [&str; 8] = ["short", "none", "reqps", "ops", "percentunit", "s", "bytes", "bool"];

/// What is wrong with a dashboard.
fn complaints(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in list(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        let mut wrong = |what: &str| found.push(format!("{title}: {what}"));
        if title.is_empty() || !titles.insert(title) {
            wrong("no title of its own");
        }
        if panel["id"].as_u64().is_none_or(|id| !ids.insert(id)) {
            wrong("no id of its own");
        }
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap_or(99);
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        if x + w > 24 {
            wrong("beyond the 24 columns");
        }
        let mut cells = (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y)));
        if !cells.all(|cell| taken.insert(cell)) {
            wrong("on top of another");
        }
        if panel["type"] == "row" {
            continue;
        }
        if text(&panel["description"]).len() < 7 {
            wrong("no description");
        }
        if !UNITS.contains(&text(&panel["fieldConfig"]["defaults"]["unit"])) {
            wrong("no unit");
        }
        let targets = list(&panel["targets"]);
        if targets.is_empty() {
            wrong("no query");
        }
        let mut references = BTreeSet::new();
        for target in targets {
            let query = text(&target["expr"]);
            for part in [panel, target] {
                if part["datasource"]["uid"] != "${datasource}" {
                    wrong("a data source that cannot be chosen");
                }
            }
            if !references.insert(text(&target["refId"]))
                || text(&target["legendFormat"]).is_empty()
            {
                wrong("a query without a name or a legend of its own");
            }
            for selector in query.split('{').skip(1) {
                let selector = selector.split('}').next().unwrap_or_default();
                if !selector.contains("job=~\"$job\"")
                    || !selector.contains("instance=~\"$instance\"")
                {
                    wrong("a query that does not look at the job and the instance");
                }
                let per_route = selector.contains("route=~\"$route\"");
                if selector.contains("route") && !per_route {
                    wrong("a route that cannot be chosen");
                }
            }
            // Every name has a selector, so that nothing is summed over other people's jobs.
            let selectors = query.matches('{').count();
            if named(query).is_empty() || selectors < named(query).len() {
                wrong("a metric without a selector");
            }
            if query.matches("rate(").count() != query.matches("[$__rate_interval]").count() {
                wrong("a rate over a window of its own");
            }
        }
    }
    let variables = list(&dashboard["templating"]["list"]);
    let names: Vec<&str> = variables.iter().map(|variable| text(&variable["name"])).collect();
    if names != ["datasource", "job", "instance", "route"] {
        found.push(format!("the variables are {names:?}"));
    }
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let chosen = variable["datasource"]["uid"] == "${datasource}";
        let query = text(&variable["query"]["query"]);
        if !chosen || variable["definition"] != query || !query.starts_with("label_values(") {
            found.push(format!("the variable {} is not asked for", variable["name"]));
        }
    }
    if dashboard["id"].is_u64() || text(&dashboard["uid"]).is_empty() {
        found.push("an id of one Grafana, or no uid".to_owned());
    }
    found
}

#[test]
fn the_dashboard_keeps_the_rules() {
    let dashboard = dashboard();
    assert_eq!(complaints(&dashboard), Vec::<String>::new());
    let rows = list(&dashboard["panels"]).iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<&str> = rows.map(|row| text(&row["title"])).collect();
    assert_eq!(rows, ["Overload", "Latency", "Application", "tidegate itself"]);
}

#[test]
fn what_breaks_a_rule_is_found() {
    for (place, value, complaint) in [
        ("/panels/1/description", json!(""), "no description"),
        ("/panels/1/fieldConfig/defaults/unit", json!("requests"), "no unit"),
        ("/panels/1/datasource/uid", json!("prometheus"), "cannot be chosen"),
        ("/panels/1/targets/0/datasource/uid", json!("prometheus"), "cannot be chosen"),
        ("/panels/1/targets", json!([]), "no query"),
        ("/panels/1/gridPos/w", json!(25), "24 columns"),
        ("/panels/2/gridPos/x", json!(0), "on top of another"),
        ("/panels/2/id", json!(2), "no id of its own"),
        ("/panels/1/targets/1/refId", json!("A"), "a name or a legend"),
        ("/panels/1/targets/0/expr", json!("sum(tidegate_in_flight)"), "without a selector"),
        ("/panels/1/targets/0/expr", json!("tidegate_in_flight{job=~\"$job\"}"), "the instance"),
        (
            "/panels/1/targets/0/expr",
            json!("rate(tidegate_arrivals_total{job=~\"$job\", instance=~\"$instance\"}[1m])"),
            "a window of its own",
        ),
        ("/templating/list/3/name", json!("path"), "the variables are"),
        ("/templating/list/2/datasource/uid", json!("prometheus"), "is not asked for"),
        ("/uid", json!(""), "no uid"),
    ] {
        let mut dashboard = dashboard();
        *dashboard.pointer_mut(place).unwrap_or_else(|| panic!("{place} exists")) = value;
        let found = complaints(&dashboard);
        assert!(found.iter().any(|found| found.contains(complaint)), "{place}: {found:?}");
    }
}

/// The provisioning files are few lines; what they point at must be there.
#[test]
fn what_grafana_is_told_to_load_is_there() {
    let read = |path: &str| fs::read_to_string(deployed(path)).unwrap();
    let provider = read("grafana/provisioning/dashboards/tidegate.yml");
    let source = read("grafana/provisioning/datasources/prometheus.yml");
    let compose = read("compose/compose.yaml");
    assert!(provider.contains("      path: /etc/grafana/dashboards\n"), "{provider}");
    assert!(compose.contains("../grafana/dashboards:/etc/grafana/dashboards:ro"), "{compose}");
    assert!(compose.contains("../grafana/provisioning:/etc/grafana/provisioning:ro"), "{compose}");
    assert!(source.contains("    url: http://prometheus:9090\n"), "{source}");
    let scrapes = read("prometheus/prometheus.yml");
    assert!(source.contains("timeInterval: 5s") && scrapes.contains("scrape_interval: 5s"));
}
