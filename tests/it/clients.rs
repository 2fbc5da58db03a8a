//! Real clients and applications of protocols that live long: gRPC, WebSocket, a browser.
//!
//! Python is the one of `target/tools/venv`, into which `.ci/run` installs the packages.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::certificates::Certificates;
use crate::support::http2::H2c;
use crate::support::{App, Tide, soon, tls};

/// A script that runs until its test ends.
struct Script {
    /// Killed when dropped.
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(program: PathBuf, arguments: &[&str]) -> Script {
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let stdout = child.stdout.take().expect("piped");
    Script { _child: child, lines: BufReader::new(stdout).lines() }
}

/// A script of `tests/clients`.
fn python(script: &str, arguments: &[&str]) -> Script {
    let script = here("tests/clients").join(script);
    let script = script.to_str().expect("a path in UTF-8");
    run(here("target/tools/venv/bin/python"), &[&[script], arguments].concat())
}

impl Script {
    async fn line(&mut self) -> String {
        let line = soon("a line of the script", self.lines.next_line()).await;
        line.expect("text").expect("it failed: see its standard error")
    }

    async fn port(&mut self) -> u16 {
        self.line().await.parse().expect("a port")
    }
}

#[tokio::test]
#[ignore = "needs target/tools/venv with grpcio"]
async fn every_kind_of_call_of_grpc() {
    let mut app = python("grpc_peer.py", &["serve"]);
    let address = ([127, 0, 0, 1], app.port().await).into();
    let tide = Tide::connecting(address, "", &|_| Box::new(H2c(address)));
    let through = tide.address.to_string();
    assert_eq!(python("grpc_peer.py", &["call", &through]).line().await, "all calls passed");
    // One by its deadline, one by the client.
    assert_eq!(app.line().await, "taken back");
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_rejected_total", &[]), 0.0);

    let one = "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 0\n";
    let tide = Tide::connecting(address, one, &|_| Box::new(H2c(address)));
    let through = tide.address.to_string();
    let told = python("grpc_peer.py", &["overload", &through]).line().await;
    assert_eq!(told, "all others were told to come back");
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.rejected("queue_full"), 7.0);
}

#[tokio::test]
#[ignore = "needs target/tools/venv with websockets"]
async fn websockets_of_python() {
    let mut app = python("websocket_peer.py", &["serve"]);
    let tide = Tide::before(([127, 0, 0, 1], app.port().await).into(), "");
    let through = tide.address.to_string();
    let told = python("websocket_peer.py", &["call", &through]).line().await;
    assert_eq!(told, "every message came back");
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_requests_total", &[("code", "101")]), 9.0, "{metrics}");
}

#[tokio::test]
#[ignore = "needs chromium, and target/tools/venv with websockets"]
async fn websockets_of_a_browser() {
    let mut app = python("websocket_peer.py", &["serve"]);
    let tide = Tide::before(([127, 0, 0, 1], app.port().await).into(), "");
    let _browser = chromium("websockets", &format!("http://{}/page", tide.address));
    assert_eq!(app.line().await, "closed 1000 after 3 and 200000");
}

/// Browsers heed them over HTTP/2 alone.
#[tokio::test]
#[ignore = "needs chromium"]
async fn early_hints_reach_a_browser_before_its_page() {
    let certificates = Certificates::new();
    let pair = certificates.pair("a", &["localhost"], 2099);
    let app = App::start().await;
    let tide = Tide::before(app.address, &tls(&pair, ""));
    let _browser = chromium("hints", &format!("https://{}/page", tide.address));
    let mut page = app.accept().await;
    assert_eq!(page.head().await.line, "GET /page HTTP/1.1");
    page.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n")
        .await;
    // Asked for although nothing of the page has come.
    assert_eq!(app.accept().await.head().await.line, "GET /style.css HTTP/1.1");
}

/// Shows a page in a browser of its own.
fn chromium(profile: &str, page: &str) -> Script {
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{profile}"));
    let profile = format!("--user-data-dir={}", profile.display());
    let mut arguments = vec!["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"];
    arguments.extend(["--ignore-certificate-errors", &profile, page]);
    run(PathBuf::from("/usr/bin/chromium"), &arguments)
}
