//! The alerts of `deploy/prometheus`, in a real Prometheus and on real trouble.
//!
//! The durations are shortened in a copy; `rules.test.yml` holds those of production.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{interval, sleep};

use crate::dashboard::queries;
use crate::deploy::deployed;
use crate::support::Wire;
use crate::support::{Echo, Process, Running, free_port, listens, printed, scratch, start};

struct Prometheus {
    address: SocketAddr,
    _running: Running,
}

impl Prometheus {
    /// With the files of `deploy/prometheus`, less what takes long.
    async fn start(target: SocketAddr) -> Prometheus {
        let directory = scratch("alerts");
        let read = |name: &str| fs::read_to_string(deployed("prometheus").join(name)).unwrap();
        let config = read("prometheus.yml").replace("tidegate:9909", &target.to_string());
        let config = config.replace("interval: 5s", "interval: 1s");
        let config = config.replace("interval: 15s", "interval: 1s");
        let mut rules = read("rules.yml");
        for window in ["[1m]", "[5m]"] {
            rules = rules.replace(window, "[6s]");
        }
        let short = |line: &str| match line.split_once("for: ") {
            Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 2s"),
            _ => line.to_owned(),
        };
        let rules: Vec<String> = rules.lines().map(short).collect();
        fs::write(directory.join("prometheus.yml"), config).unwrap();
        fs::write(directory.join("rules.yml"), rules.join("\n")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let running = start(
            "prometheus",
            &[
                &format!("--config.file={}/prometheus.yml", directory.display()),
                &format!("--storage.tsdb.path={}/data", directory.display()),
                &format!("--web.listen-address={address}"),
            ],
        );
        listens(address).await;
        Prometheus { address, _running: running }
    }

    fn ask(&self, query: &str) -> Vec<Value> {
        let url = format!("http://{}/api/v1/query", self.address);
        let query = format!("query={query}");
        let answer = printed("curl", &["-sS", "--get", "--data-urlencode", &query, &url]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    fn firing(&self) -> BTreeSet<String> {
        let alerts = self.ask("ALERTS{alertstate=\"firing\"}");
        let name = |alert: &Value| alert["metric"]["alertname"].as_str().unwrap().to_owned();
        alerts.iter().map(name).collect()
    }

    /// Waits until all of them have fired, not necessarily at once.
    async fn fires(&self, alerts: &[&str]) {
        let began = Instant::now();
        let mut seen = BTreeSet::new();
        while !alerts.iter().all(|alert| seen.contains(*alert)) {
            assert!(began.elapsed().as_secs() < 60, "of {alerts:?} only {seen:?} fire");
            sleep(Duration::from_millis(300)).await;
            seen.extend(self.firing());
        }
        println!("{alerts:?} after {:.1?}", began.elapsed());
    }
}

/// 120 clients a second, three times what comes through, until it is dropped.
async fn overload(address: SocketAddr) {
    let mut every = interval(Duration::from_millis(8));
    for _ in 0..120 * 60 {
        every.tick().await;
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            let _ = wire.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        });
    }
}

/// As a container whose CPU quota is far too small: it runs for a while, and stands for a while.
async fn throttle(tide: &Process) {
    loop {
        tide.signal(Signal::STOP);
        sleep(Duration::from_millis(60)).await;
        tide.signal(Signal::CONT);
        sleep(Duration::from_millis(40)).await;
    }
}

#[tokio::test]
#[ignore = "needs prometheus and curl"]
async fn every_alert_fires_on_the_trouble_that_it_is_for() {
    let app = Echo::start(Duration::from_millis(50)).await;
    // A queue in the order of arrival that may stand: the one in which everybody waits for long.
    let toml = "[server]\ndrain_delay = \"10m\"\n\
                [upstream]\nmax_in_flight = 2\nidle_timeout = \"1s\"\n\
                [defaults]\nmax_wait = \"1s\"\norder = \"fifo\"\nstanding_after = \"off\"\n";
    let mut tide = Process::start(app.address, toml);
    let prometheus = Prometheus::start(tide.admin).await;
    let mut expected = BTreeSet::new();

    // At rest nothing is wrong.
    let began = Instant::now();
    while prometheus.ask("up{job=\"tidegate\"} == 1").is_empty() {
        assert!(began.elapsed().as_secs() < 30, "the target is up");
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(5)).await;
    // Of its own CPU on a machine that others use too there is nothing to be said.
    let alerts = prometheus.ask("ALERTS{alertname!=\"TidegateWorkerShortOfCpu\"}");
    assert!(alerts.is_empty(), "{alerts:?}");

    let load = tokio::spawn(overload(tide.address));
    let of_load = ["QueueFilling", "Shedding", "WaitsNearBound", "LimitPinned"];
    let of_load = of_load.map(|name| format!("Tidegate{name}"));
    prometheus.fires(&of_load.each_ref().map(String::as_str)).await;
    expected.extend(of_load);
    // While there is something to be seen, the dashboard shows it.
    for query in queries() {
        let answer = prometheus.ask(&query);
        let quiet = query.ends_with("> 0");
        assert!(quiet || !answer.is_empty(), "nothing to be seen: {query}");
    }
    tokio::select! {
        () = throttle(&tide) => {}
        () = prometheus.fires(&["TidegateWorkerShortOfCpu"]) => {}
    }
    tide.signal(Signal::CONT);
    load.abort();

    // It accepts nobody any more; what is idle towards it closes before the next client comes.
    drop(app);
    let refused = async {
        let mut every = interval(Duration::from_millis(1500));
        loop {
            every.tick().await;
            let mut wire = Wire::connect(tide.address).await;
            let _ = wire.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        }
    };
    tokio::select! {
        () = refused => {}
        () = prometheus.fires(&["TidegateApplicationDown"]) => {}
    }
    tide.replace_config("surprise = true\n");
    prometheus.fires(&["TidegateReloadFailed"]).await;
    tide.signal(Signal::TERM);
    prometheus.fires(&["TidegateDrainStuck"]).await;
    tide.signal(Signal::TERM);
    tide.exit().await;
    prometheus.fires(&["TidegateDown"]).await;

    let others = ["WorkerShortOfCpu", "ApplicationDown", "ReloadFailed", "DrainStuck", "Down"];
    expected.extend(others.map(|name| format!("Tidegate{name}")));
    let rules = fs::read_to_string(deployed("prometheus/rules.yml")).unwrap();
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    assert_eq!(expected, alerts.map(str::to_owned).collect(), "all alerts have been tried");
}
