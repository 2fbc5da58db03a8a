//! The Prometheus page: names, types, labels and help are an interface.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate::config::*;
use tidegate::telemetry::metrics::{
    AbortStage, Labels, LimitReading, Metrics, Reading, RouteMetrics, RouteReading, UpstreamReading,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");
const REASONS: &[&str] = &["queue_full", "max_wait"];
const ERRORS: &[&str] = &["connection_refused", "http_response_timeout"];
const LABELS: Labels = Labels { reasons: REASONS, errors: ERRORS, decisions: &["hold", "grow"] };

/// Two upstreams, three routes, two workers.
fn config() -> Config {
    Config {
        server: Server {
            listen: vec![Listen::Tcp(([127, 0, 0, 1], 0).into())],
            workers: 2,
            max_connections: 16,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_streams: 100,
            max_header_bytes: 32 << 10,
            drain_delay: Duration::ZERO,
            shutdown_grace: Duration::from_secs(8),
            trusted_proxies: Vec::new(),
            forwarded: Forwarded::XForwarded,
            proxy_protocol: false,
            watch_config: true,
            tls: None,
        },
        admin: Admin { listen: ([127, 0, 0, 1], 0).into(), control: true },
        log: Log { level: LogLevel::Info, format: LogFormat::Auto, access: AccessLog::Errors },
        upstreams: vec![upstream("app"), upstream("search")],
        routes: vec![route("api", 0, 503), route("find", 1, 429), route("default", 0, 503)],
    }
}

fn upstream(name: &str) -> Upstream {
    Upstream {
        name: name.to_owned(),
        endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 8000 },
        scheme: Scheme::Http,
        dns_refresh: Duration::from_secs(5),
        max_in_flight: Budget::Fixed(8),
        class_floor: 5,
        enforce: true,
        max_connections: 512,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(4),
        hold: Duration::ZERO,
    }
}

fn route(name: &str, upstream: usize, status: u16) -> Route {
    Route {
        name: name.to_owned(),
        matches: Match {
            path: "/".to_owned(),
            exact: false,
            methods: Vec::new(),
            hosts: Vec::new(),
        },
        upstream,
        admission: AdmissionMode::Queue,
        kind: RouteKind::Request,
        max_in_flight: None,
        reserved: 0,
        max_queue: 64,
        max_wait: Duration::from_secs(1),
        order: Order::Adaptive,
        standing_after: Standing::Auto,
        class: 3,
        class_header: None,
        deadline_header: None,
        fair_by: FairBy::Client,
        enforce: true,
        response_timeout: None,
        idle_body_timeout: None,
        tunnel_idle_timeout: None,
        paths: Paths::Any,
        on_client_abort: ClientAbort::Cancel,
        reject: Reject { status, body: RejectBody::ProblemJson, retry_after: RetryAfter::Auto },
    }
}

/// A reading of a process that has seen nothing.
fn nothing(config: &Config) -> Reading {
    let route = |route: &Route| RouteReading {
        name: route.name.clone(),
        rejected: vec![0; REASONS.len()],
        shadow_rejected: vec![0; REASONS.len()],
        ..RouteReading::default()
    };
    let upstream = |upstream: &Upstream| UpstreamReading {
        name: upstream.name.clone(),
        rejected_class: vec![0; 8],
        limit: LimitReading { decisions: vec![0; 2], ..LimitReading::default() },
        ..UpstreamReading::default()
    };
    Reading {
        routes: config.routes.iter().map(route).collect(),
        upstreams: config.upstreams.iter().map(upstream).collect(),
        certificates: vec![(
            "/etc/tidegate/tls.crt".to_owned(),
            Duration::from_secs(4_102_444_799),
        )],
        ..Reading::default()
    }
}

fn page(metrics: &Metrics, reading: &Reading) -> String {
    String::from_utf8(metrics.encode(reading)).expect("the page is UTF-8")
}

/// The metrics, with the handles of every route.
fn metrics_of(config: &Config, labels: Labels) -> (Metrics, Vec<RouteMetrics>) {
    let metrics = Metrics::new(config, labels);
    let routes = config.routes.iter().map(|route| metrics.route(route)).collect();
    (metrics, routes)
}

/// The value of the series written exactly like this.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().expect("a value is a number")
}

/// The names of all series, without their values.
fn series(page: &str) -> BTreeSet<&str> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').expect("a sample has a value").0).collect()
}

#[test]
fn the_page_is_the_golden_one() {
    let config = config();
    let (metrics, _routes) = metrics_of(&config, LABELS);
    let page = page(&metrics, &nothing(&config));
    // What differs between runs and releases is masked.
    let masked: String = page
        .lines()
        .map(|line| match line.rsplit_once(' ') {
            _ if line.starts_with('#') => format!("{line}\n"),
            Some((series, _)) if series.starts_with("process_") => format!("{series} *\n"),
            Some((series, _)) if series.ends_with("_timestamp_seconds") => format!("{series} *\n"),
            _ => format!("{}\n", line.replace(env!("CARGO_PKG_VERSION"), "*")),
        })
        .collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &masked).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    let difference = masked.lines().zip(golden.lines()).find(|(now, then)| now != then);
    assert!(
        masked == golden,
        "the page changed, first at {difference:?}; names are an interface. \
         If it is meant to, run with UPDATE_GOLDEN=1."
    );
}

#[test]
fn events_arrive_where_they_belong() {
    let config = config();
    let (metrics, routes) = metrics_of(&config, LABELS);
    let find = &routes[1];
    for code in [200, 200, 204, 429, 599, 600, 999, 0] {
        find.request(code);
    }
    find.queue_wait(Duration::from_millis(3));
    find.upstream_duration(Duration::from_secs(2));
    find.upstream_error(1);
    find.upstream_retry();
    find.client_abort(AbortStage::RequestBody);
    metrics.server().connection_accepted();
    metrics.server().connection_accepted();
    metrics.server().connection_refused();
    metrics.worker(1).busy(Duration::from_millis(1500));
    metrics.worker(1).lag(Duration::from_millis(2));

    let page = page(&metrics, &nothing(&config));
    for (series, expected) in [
        ("tidegate_requests_total{code=\"200\",route=\"find\"}", 2.0),
        ("tidegate_requests_total{code=\"204\",route=\"find\"}", 1.0),
        ("tidegate_requests_total{code=\"429\",route=\"find\"}", 1.0),
        ("tidegate_requests_total{code=\"599\",route=\"find\"}", 1.0),
        ("tidegate_requests_total{code=\"other\",route=\"find\"}", 3.0),
        ("tidegate_requests_total{code=\"200\",route=\"api\"}", 0.0),
        ("tidegate_queue_wait_seconds_bucket{route=\"find\",le=\"0.0025\"}", 0.0),
        ("tidegate_queue_wait_seconds_bucket{route=\"find\",le=\"0.005\"}", 1.0),
        ("tidegate_queue_wait_seconds_sum{route=\"find\"}", 0.003),
        ("tidegate_upstream_duration_seconds_sum{route=\"find\"}", 2.0),
        ("tidegate_upstream_errors_total{error=\"connection_refused\",route=\"find\"}", 0.0),
        ("tidegate_upstream_errors_total{error=\"http_response_timeout\",route=\"find\"}", 1.0),
        ("tidegate_upstream_retries_total{route=\"find\"}", 1.0),
        ("tidegate_client_aborts_total{route=\"find\",stage=\"request_body\"}", 1.0),
        ("tidegate_client_aborts_total{route=\"find\",stage=\"queued\"}", 0.0),
        ("tidegate_connections_total", 2.0),
        ("tidegate_connections_refused_total", 1.0),
        ("tidegate_worker_busy_seconds_total{worker=\"1\"}", 1.5),
        ("tidegate_worker_busy_seconds_total{worker=\"0\"}", 0.0),
        ("tidegate_worker_lag_seconds_count{worker=\"1\"}", 1.0),
    ] {
        assert_eq!(value(&page, series), expected, "{series}");
    }
}

#[test]
fn a_reading_is_put_out_as_given() {
    let config = config();
    let (metrics, _routes) = metrics_of(&config, LABELS);
    let mut reading = nothing(&config);
    reading.routes[2] = RouteReading {
        name: config.routes[2].name.clone(),
        arrivals: 106,
        admitted: 80,
        abandoned: 6,
        rejected: vec![7, 8],
        shadow_rejected: vec![0, 9],
        queue_depth: 5,
        queue_capacity: 64,
        queue_wait_limit: Duration::from_millis(750),
        in_flight: 3,
        in_flight_limit: 4,
        queue_depth_seconds: 1.25,
        in_flight_seconds: 2.5,
        ..RouteReading::default()
    };
    reading.upstreams[0].rejected_class = vec![0, 0, 0, 4, 0, 0, 0, 1];
    reading.upstreams[1] = UpstreamReading {
        name: config.upstreams[1].name.clone(),
        in_flight: 2,
        in_flight_limit: 8,
        up: true,
        connections: 9,
        open_responses: 2,
        paused: true,
        hold_left: Duration::from_millis(1_500),
        rejected_class: vec![0, 0, 0, 5, 0, 0, 0, 0],
        limit: LimitReading {
            auto: true,
            decision: 1,
            decisions: vec![6, 3],
            throughput: 410.0,
            latency: 0.25,
            baseline: 0.125,
            elasticity: 0.5,
        },
    };
    reading.connections = 11;
    reading.ready = true;

    let page = page(&metrics, &reading);
    for (series, expected) in [
        ("tidegate_arrivals_total{route=\"default\"}", 106.0),
        ("tidegate_admitted_total{route=\"default\"}", 80.0),
        ("tidegate_abandoned_total{route=\"default\"}", 6.0),
        ("tidegate_rejected_total{reason=\"queue_full\",route=\"default\"}", 7.0),
        ("tidegate_rejected_total{reason=\"max_wait\",route=\"default\"}", 8.0),
        ("tidegate_shadow_rejected_total{reason=\"queue_full\",route=\"default\"}", 0.0),
        ("tidegate_shadow_rejected_total{reason=\"max_wait\",route=\"default\"}", 9.0),
        ("tidegate_rejected_class_total{class=\"0\"}", 0.0),
        ("tidegate_rejected_class_total{class=\"3\"}", 9.0),
        ("tidegate_rejected_class_total{class=\"7\"}", 1.0),
        ("tidegate_upstream_limit_decisions_total{decision=\"grow\",upstream=\"search\"}", 3.0),
        ("tidegate_upstream_limit_decisions_total{decision=\"hold\",upstream=\"app\"}", 0.0),
        ("tidegate_upstream_limit_throughput{upstream=\"search\"}", 410.0),
        ("tidegate_upstream_limit_latency_seconds{upstream=\"search\"}", 0.25),
        ("tidegate_upstream_limit_baseline_seconds{upstream=\"search\"}", 0.125),
        ("tidegate_upstream_limit_elasticity{upstream=\"search\"}", 0.5),
        ("tidegate_upstream_limit_elasticity{upstream=\"app\"}", 0.0),
        ("tidegate_queue_depth{route=\"default\"}", 5.0),
        ("tidegate_queue_capacity{route=\"default\"}", 64.0),
        ("tidegate_queue_wait_limit_seconds{route=\"default\"}", 0.75),
        ("tidegate_in_flight{route=\"default\"}", 3.0),
        ("tidegate_in_flight_limit{route=\"default\"}", 4.0),
        ("tidegate_queue_depth_seconds_total{route=\"default\"}", 1.25),
        ("tidegate_in_flight_seconds_total{route=\"default\"}", 2.5),
        ("tidegate_arrivals_total{route=\"api\"}", 0.0),
        ("tidegate_upstream_in_flight{upstream=\"search\"}", 2.0),
        ("tidegate_upstream_in_flight_limit{upstream=\"search\"}", 8.0),
        ("tidegate_upstream_up{upstream=\"search\"}", 1.0),
        ("tidegate_upstream_up{upstream=\"app\"}", 0.0),
        ("tidegate_upstream_connections{upstream=\"search\"}", 9.0),
        ("tidegate_connections", 11.0),
        ("tidegate_ready", 1.0),
        ("tidegate_draining", 0.0),
    ] {
        assert_eq!(value(&page, series), expected, "{series}");
    }
}

/// Whatever happens, only a status code can add a series.
#[test]
fn label_values_come_from_the_configuration_alone() {
    let config = config();
    let (metrics, routes) = metrics_of(&config, LABELS);
    let before = page(&metrics, &nothing(&config));
    for route in &routes {
        for code in 0..=1000 {
            route.request(code);
        }
        (0..ERRORS.len()).for_each(|error| route.upstream_error(error));
        AbortStage::ALL.iter().for_each(|stage| route.client_abort(*stage));
        route.queue_wait(Duration::MAX);
        route.upstream_duration(Duration::MAX);
    }
    let after = page(&metrics, &nothing(&config));
    let (before, after) = (series(&before), series(&after));
    assert!(before.is_subset(&after));
    assert!(after.difference(&before).all(|series| series.starts_with("tidegate_requests_total{")));
    // 100 to 599 and "other".
    let codes = after.iter().filter(|series| series.starts_with("tidegate_requests_total{"));
    assert_eq!(codes.count(), 501 * config.routes.len());
    for series in &after {
        let Some((_, route)) = series.split_once("route=\"") else {
            continue;
        };
        let route = route.split('"').next().unwrap();
        assert!(config.routes.iter().any(|known| known.name == route), "{series}");
    }
}

#[test]
fn a_page_with_odd_names_is_still_lines_of_samples() {
    let mut config = config();
    config.routes[0].name = "a\"b\\c\nd".to_owned();
    let (metrics, routes) = metrics_of(&config, LABELS);
    routes[0].request(418);
    let page = page(&metrics, &nothing(&config));
    assert_eq!(
        value(&page, "tidegate_requests_total{code=\"418\",route=\"a\\\"b\\\\c\\nd\"}"),
        1.0
    );
    assert!(page.lines().all(|line| line.starts_with('#') || line.rsplit_once(' ').is_some()));
}

/// No reason, no error, no worker: such families are absent rather than the page broken.
#[test]
fn families_without_series_are_left_out() {
    let mut config = config();
    config.server.workers = 0;
    let (metrics, _) = metrics_of(&config, Labels::default());
    let mut reading = nothing(&config);
    for route in &mut reading.routes {
        route.rejected.clear();
        route.shadow_rejected.clear();
    }
    let page = page(&metrics, &reading);
    assert!(!page.contains("tidegate_rejected_total") && page.contains("tidegate_ready 0"));
}
