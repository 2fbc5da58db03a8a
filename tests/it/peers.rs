//! Beside what its users have: real applications behind it, real tools in front of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Process, Running, free_port, listens, output, printed, scratch, start};

/// Debian's nginx, serving the files of a directory.
async fn nginx(directory: &Path) -> (Running, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let files = directory.join("files");
    std::fs::create_dir_all(&files).unwrap();
    let (here, files) = (directory.display(), files.display());
    let text = format!(
        "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
         fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
         keepalive_requests 1000000; server {{ listen {address}; root {files}; }} }}\n"
    );
    let configuration = directory.join("nginx.conf");
    std::fs::write(&configuration, text).unwrap();
    let running = start("nginx", &["-c", configuration.to_str().unwrap()]);
    listens(address).await;
    (running, address)
}

#[tokio::test]
#[ignore = "needs nginx and curl"]
async fn files_of_nginx_come_through_curl_unchanged() {
    let directory = scratch("files");
    let (_nginx, upstream) = nginx(&directory).await;
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(directory.join("files/big"), &big).unwrap();
    std::fs::write(directory.join("files/small.txt"), "hello\n").unwrap();
    let tide = Process::start(upstream, "[upstream]\nmax_in_flight = 4\n");
    let url = |path: &str| format!("http://{}/{path}", tide.address);

    assert_eq!(printed("curl", &["-sS", &url("small.txt")]), "hello\n");
    let got = directory.join("got");
    printed("curl", &["-sS", "-o", got.to_str().unwrap(), &url("big")]);
    assert!(std::fs::read(&got).unwrap() == big, "12 MB, byte for byte");
    let range = printed("curl", &["-sS", "-r", "1-3", &url("small.txt")]);
    assert_eq!(range, "ell", "ranges pass through");
    let head = printed("curl", &["-sSI", &url("big")]);
    assert!(head.contains("content-length: 12000000\r\n"), "{head}");
    let status = ["-s", "-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(printed("curl", &[&status[..], &[&url("missing")]].concat()), "404");
    let old = printed("curl", &["-sS", "--http1.0", &url("small.txt")]);
    assert_eq!(old, "hello\n");
    let twice = printed("curl", &["-sS", &url("small.txt"), &url("small.txt")]);
    assert_eq!(twice, "hello\nhello\n");
}

#[tokio::test]
#[ignore = "needs python3 and curl"]
async fn pythons_http_server_is_protected() {
    let directory = scratch("python");
    std::fs::write(directory.join("a.txt"), "from python\n").unwrap();
    let port = free_port().to_string();
    let here = directory.to_str().unwrap();
    let _python =
        start("python3", &["-m", "http.server", "--bind", "127.0.0.1", "--directory", here, &port]);
    let upstream = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    listens(upstream).await;
    let tide = Process::start(upstream, "[upstream]\nmax_in_flight = 2\n");
    let url = format!("http://{}/a.txt", tide.address);
    // HTTP/1.0 without keep-alive: every request is a connection of its own.
    for _ in 0..20 {
        assert_eq!(printed("curl", &["-sS", &url]), "from python\n");
    }
    let metrics = tide.until("at rest", |m| m.is_at_rest()).await;
    metrics.assert_conserved();
    assert_eq!(metrics.answered(200), 20.0);
}

#[tokio::test]
#[ignore = "needs nginx and wrk"]
async fn what_wrk_counts_is_what_the_metrics_say() {
    let directory = scratch("wrk");
    let (_nginx, upstream) = nginx(&directory).await;
    std::fs::write(directory.join("files/x"), "x").unwrap();
    let toml = "[upstream]\nmax_in_flight = 2\n[defaults]\nmax_queue = 4\nmax_wait = \"50ms\"\n";
    let tide = Process::start(upstream, toml);
    let url = format!("http://{}/x", tide.address);
    let report = printed("wrk", &["-t2", "-c32", "-d3s", &url]);
    println!("{report}");
    let number = |mark: &str| -> f64 {
        let line = report.lines().find(|line| line.contains(mark));
        let words = line.unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).next().unwrap_or_default()
    };
    let metrics = tide.until("at rest", |m| m.is_at_rest()).await;
    metrics.assert_conserved();
    let (served, refused) = (metrics.answered(200), metrics.answered(503));
    let aborted = metrics.answered(499);
    let requests = number("requests in");
    let errors: f64 = report
        .lines()
        .find(|line| line.contains("Non-2xx"))
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_default();
    assert!(errors > 0.0 && refused > 0.0, "32 clients are too many for 2 slots and 4 places");
    // wrk does not count the requests that it leaves unanswered at its end: one a connection at
    // most.
    assert!((served + refused + aborted - requests).abs() <= 64.0, "{served} {refused} {requests}");
    assert!((refused - errors).abs() <= 64.0, "{refused} {errors}");
}

#[tokio::test]
#[ignore = "needs promtool and curl"]
async fn promtool_is_content_with_a_live_scrape() {
    let directory = scratch("promtool");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let tide = Process::start(nowhere, "");
    let refused = format!("http://{}/", tide.address);
    let status = ["-s", "-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(printed("curl", &[&status[..], &[&refused]].concat()), "502");
    let page = directory.join("page");
    let url = format!("http://{}/metrics", tide.admin);
    let head = printed("curl", &["-sS", "-D", "-", "-o", page.to_str().unwrap(), &url]);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let check = format!("promtool check metrics < {}", page.display());
    let output = output("sh", &["-c", &check]);
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
#[ignore = "needs prometheus and curl"]
async fn the_real_prometheus_scrapes_it() {
    let directory = scratch("prometheus");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let tide = Process::start(nowhere, "");
    let page = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let text = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: tidegate\n    \
         static_configs: [ {{ targets: [ '{}' ] }} ]\n",
        tide.admin
    );
    let configuration = directory.join("prometheus.yml");
    std::fs::write(&configuration, text).unwrap();
    let _prometheus = start(
        "prometheus",
        &[
            &format!("--config.file={}", configuration.display()),
            &format!("--storage.tsdb.path={}/data", directory.display()),
            &format!("--web.listen-address={page}"),
        ],
    );
    listens(page).await;
    let ask = |query: &str| {
        let url = format!("http://{page}/api/v1/query?query={query}");
        let output = output("curl", &["-sS", &url]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let patience = Instant::now() + Duration::from_secs(30);
    let mut up = String::new();
    while Instant::now() < patience && !up.contains("\"1\"") {
        up = ask("up");
    }
    assert!(up.contains("\"1\""), "the target is up: {up}");
    let limit = ask("tidegate_in_flight_limit");
    assert!(limit.contains("\"route\":\"default\"") && limit.contains("\"8\""), "{limit}");
}
