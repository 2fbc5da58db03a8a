//! The live page and its events: what they say, how many may look, and what that costs.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use tidegate::config::{self, Overrides};
use tidegate::sidecar::Sidecar;

use crate::support::{App, Echo, Process, Tide, Wire, soon};

const GET: &str = "GET /x?secret HTTP/1.1\r\nHost: a\r\n\r\n";
/// Pages that may be open at once.
const MAX_PAGES: usize = 128;

/// One page's stream.
async fn listen(admin: SocketAddr, path: &str) -> Wire {
    let mut wire = Wire::connect(admin).await;
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\n\r\n")).await;
    let head = wire.head().await;
    assert_eq!((head.status(), head.field("content-type")), (200, Some("text/event-stream")));
    wire
}

/// The next event of a kind. Each stands in a chunk with its neighbours, so none is cut.
async fn event(wire: &mut Wire, kind: &str) -> Value {
    wire.through(&format!("event: {kind}\ndata: ")).await;
    let data = wire.through("\n\n").await;
    serde_json::from_str(&data).unwrap_or_else(|error| panic!("{kind}: {error}: {data}"))
}

/// The id of the next sample.
async fn id(wire: &mut Wire) -> (String, u64) {
    wire.through("\nid: ").await;
    let id = wire.through("\n").await.trim_end().to_owned();
    let number = id.rsplit('-').next().unwrap().parse().unwrap();
    (id, number)
}

#[tokio::test]
async fn events_tell_what_happened() {
    let app = App::start().await;
    let toml = "[upstream]\nmax_in_flight = 1\n[defaults]\nmax_queue = 1\nmax_wait = \"60s\"\n\
                [[route]]\nname = \"one\"\nmatch = { path = \"/one\" }\n";
    let tide = Tide::before(app.address, toml);
    let mut page = listen(tide.sidecar.admin_address(), "/events").await;
    let facts = event(&mut page, "facts").await;
    let names: Vec<_> = facts["routes"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["one", "default"]);
    assert_eq!(event(&mut page, "now").await["level"], "idle");

    // One in flight, one that waits, one that is turned away.
    let mut in_flight = tide.client().await;
    in_flight.send(GET).await;
    let mut conn = app.accept().await;
    conn.head().await;
    let mut waiting = tide.client().await;
    waiting.send(GET).await;
    tide.until_queued(1).await;
    let mut refused = tide.client().await;
    assert_eq!(refused.exchange(GET).await.status(), 503);

    let field = |name: &str| {
        let fields = facts["route_fields"].as_array().unwrap();
        fields.iter().position(|field| field == name).unwrap()
    };
    let full = facts["reasons"].as_array().unwrap().iter().position(|r| r == "queue_full");
    let (mut arrivals, mut turned_away) = (0, 0);
    let now = loop {
        let sample = event(&mut page, "sample").await;
        for row in sample["routes"].as_array().unwrap() {
            assert_eq!(row[field("route")], 1, "nothing happens on the other");
            arrivals += row[field("arrivals")].as_u64().unwrap();
            turned_away += row[field("rejected")][full.unwrap()].as_u64().unwrap();
        }
        let now = event(&mut page, "now").await;
        if now["level"] == "overloaded" {
            break now;
        }
    };
    assert_eq!((arrivals, turned_away), (3, 1));
    assert!(now["text"].as_str().unwrap().starts_with("Overloaded: 33 % "), "{now}");
    let told = &now["rejections"][0];
    assert_eq!((&told["route"], &told["reason"]), (&json!("default"), &json!("queue_full")));
    assert_eq!(told["path"], "/x", "no query");
    // `/status.json` says the same.
    assert_eq!(tide.status().await["verdict"]["level"], "overloaded");
}

#[tokio::test]
async fn a_page_that_is_late_sees_what_was_and_one_that_comes_back_what_it_missed() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let admin = tide.sidecar.admin_address();
    let mut first = listen(admin, "/events").await;
    let (seen, one) = id(&mut first).await;
    let (_, two) = id(&mut first).await;
    assert_eq!((one, two), (1, 2));
    let mut late = listen(admin, "/events").await;
    assert_eq!(id(&mut late).await.1, 1, "from the beginning");
    let mut back = listen(admin, &format!("/events?after={seen}")).await;
    assert_eq!(id(&mut back).await.1, 2, "not from the beginning");
    // As browsers do it when a stream has broken off.
    let mut again = Wire::connect(admin).await;
    let wanted = format!("GET /events HTTP/1.1\r\nHost: a\r\nLast-Event-ID: {seen}\r\n\r\n");
    again.send(wanted).await;
    assert_eq!(id(&mut again).await.1, 2);
    // The id of another process means nothing.
    let mut stranger = listen(admin, "/events?after=123-2").await;
    assert_eq!(id(&mut stranger).await.1, 1);
}

#[tokio::test]
async fn many_pages_keep_nobody_else_out() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let admin = tide.sidecar.admin_address();
    let mut pages = Vec::new();
    for _ in 0..MAX_PAGES {
        pages.push(listen(admin, "/events").await);
    }
    let mut one_more = Wire::connect(admin).await;
    let refused = one_more.exchange("GET /events HTTP/1.1\r\nHost: admin\r\n\r\n").await;
    assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("5")));
    for _ in 0..100 {
        assert_eq!(tide.metrics().await.sum("tidegate_ready", &[]), 1.0);
    }
    // Not one page had to go for that.
    for page in &mut pages {
        event(page, "now").await;
    }
    pages.clear();
    soon("a place comes free", async {
        loop {
            let mut page = Wire::connect(admin).await;
            page.send("GET /events HTTP/1.1\r\nHost: admin\r\n\r\n").await;
            if page.head().await.status() == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_page_may_do_nothing_but_ask_for_its_events() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let mut wire = Wire::connect(tide.sidecar.admin_address()).await;
    let page = wire.exchange("GET / HTTP/1.1\r\nHost: admin\r\n\r\n").await;
    let policy = page.field("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.text().starts_with("<!doctype html>"));
}

/// Seconds of CPU that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    // USER_HZ is 100 wherever Rust runs on Linux.
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::test]
#[ignore = "measures for half a minute"]
async fn a_hundred_pages_cost_under_one_percent_of_a_core() {
    const SECONDS: u64 = 15;
    let echo = Echo::start(Duration::from_millis(1)).await;
    let tide = Process::start(echo.address, "");
    let mut costs = Vec::new();
    let mut pages = Vec::new();
    for count in [0, 100] {
        while pages.len() < count {
            let page = listen(tide.admin, "/events").await;
            pages.push(tokio::spawn(async move {
                let mut page = page;
                loop {
                    event(&mut page, "now").await;
                }
            }));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (before, began) = (cpu_seconds(tide.pid()), Instant::now());
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        let cost = (cpu_seconds(tide.pid()) - before) / began.elapsed().as_secs_f64();
        println!("{count} pages: {:.2} % of a core", 100.0 * cost);
        costs.push(cost);
    }
    assert!(pages.iter().all(|page| !page.is_finished()), "all of them were served");
    // Unoptimised code is some ten times as slow.
    let bound = if cfg!(debug_assertions) { 0.1 } else { 0.01 };
    assert!(costs[1] - costs[0] < bound, "{costs:?}");
}

// === In a browser ===

/// A page in Chromium.
struct Browser {
    /// Killed when dropped.
    _child: Child,
    wishes: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Browser {
    async fn open(admin: SocketAddr, look: &[&str]) -> Browser {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/browser.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(format!("http://{admin}/")).args(look);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("python3 is there");
        let wishes = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut browser = Browser { _child: child, wishes, answers };
        // A browser takes its time to start on a busy machine.
        let patience = Duration::from_secs(60);
        let opened = tokio::time::timeout(patience, browser.answers.next_line()).await;
        let opened = opened.expect("it starts").unwrap().expect("see its standard error");
        assert_eq!(opened, "\"open\"");
        browser
    }

    async fn ask(&mut self, wish: Value) -> Value {
        self.wishes.write_all(format!("{wish}\n").as_bytes()).await.unwrap();
        let answer = soon(&wish, self.answers.next_line()).await.unwrap();
        serde_json::from_str(&answer.expect("see its standard error")).unwrap()
    }

    async fn text(&mut self, id: &str) -> String {
        let value = self.ask(json!({"eval": format!("document.getElementById('{id}').innerText")}));
        value.await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    async fn until(&mut self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.ask(json!({"eval": what})).await != json!(true) {
            let says = self.text("text").await;
            assert!(Instant::now() < deadline, "never {what}; it says: {says}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The verdict has become this one.
    async fn until_level(&mut self, level: &str) {
        let what = format!("document.getElementById('verdict').classList.contains('{level}')");
        self.until(&what).await;
    }

    /// The scripts failed nowhere, and the policy forbade nothing. A lost connection is none of
    /// these.
    async fn assert_content(&mut self) {
        let complaints = self.ask(json!({"console": true})).await;
        let complaints = complaints.as_array().unwrap().iter();
        let ours: Vec<_> =
            complaints.filter(|said| !said.as_str().unwrap_or_default().contains("ERR_")).collect();
        assert!(ours.is_empty(), "{ours:?}");
    }

    async fn shot(&mut self, name: &str) {
        let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join(name);
        self.ask(json!({"shot": file.to_str().unwrap()})).await;
    }
}

/// So many clients that ask again as soon as they have an answer.
fn clients(address: SocketAddr, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let client = |_| {
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            loop {
                // A rejected client that came back at once would be a flood.
                if wire.exchange(GET).await.status() != 200 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    };
    (0..count).map(client).collect()
}

#[tokio::test]
#[ignore = "needs chromium and python3"]
async fn the_page_shows_calm_load_and_overload() {
    let echo = Echo::start(Duration::from_millis(20)).await;
    let toml = "[upstream]\nmax_in_flight = 4\n[defaults]\nmax_queue = 8\nmax_wait = \"200ms\"\n";
    let tide = Tide::before(echo.address, toml);
    let mut browser = Browser::open(tide.sidecar.admin_address(), &[]).await;
    browser.until_level("idle").await;
    browser.shot("idle.png").await;

    let few = clients(tide.address, 2);
    browser.until_level("good").await;
    let text = browser.text("text").await;
    assert!(text.contains("of 4 slots in use, nobody waits"), "{text}");
    few.iter().for_each(tokio::task::JoinHandle::abort);

    let many = clients(tide.address, 40);
    browser.until_level("overloaded").await;
    browser.until("document.querySelectorAll('#rejections tbody tr').length > 3").await;
    let text = browser.text("text").await;
    assert!(text.starts_with("Overloaded: ") && text.contains(" % of requests"), "{text}");
    browser.until("document.getElementById('inside').innerText.includes('4 of 4 slots')").await;
    assert!(browser.text("reasons").await.contains("queue full"));
    // Something is drawn in each chart.
    let drawn = "[...document.querySelectorAll('#charts canvas, #band')].every(canvas => \
                 new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, \
                 canvas.height).data.buffer)).size > 5 || canvas.id === 'band')";
    browser.until(drawn).await;
    browser.shot("overload.png").await;
    browser.ask(json!({"eval": "document.querySelector('#routes button').click()"})).await;
    assert!(browser.text("chosen").await.contains("of default"));
    browser.assert_content().await;

    let admin = tide.sidecar.admin_address();
    let mut phone = Browser::open(admin, &["390", "844", "dark"]).await;
    phone.until_level("overloaded").await;
    let wide = "document.documentElement.scrollWidth <= 390";
    phone.until(wide).await;
    phone.shot("phone.png").await;
    phone.assert_content().await;
    many.iter().for_each(tokio::task::JoinHandle::abort);
    browser.until_level("idle").await;
}

#[tokio::test]
#[ignore = "needs chromium and python3"]
async fn of_many_routes_the_busiest_are_shown() {
    let echo = Echo::start(Duration::from_millis(5)).await;
    let route =
        |index| format!("[[route]]\nname = \"r{index}\"\nmatch = {{ path = \"/r{index}\" }}\n");
    let tide = Tide::before(echo.address, &(0..40).map(route).collect::<String>());
    let mut browser = Browser::open(tide.sidecar.admin_address(), &[]).await;
    browser.until_level("idle").await;
    // Two at the end of the file, and the one that takes what no other does.
    let mut client = tide.client().await;
    for path in ["/r38", "/r39", "/"] {
        assert_eq!(client.get(path).await.status(), 200);
    }
    let names = "[...document.querySelectorAll('#routes tbody th button')].map(b => b.textContent)";
    browser
        .until(&format!("{names}.length === 12 && {names}.slice(-3).join() === 'r38,r39,default'"))
        .await;
    assert_eq!(browser.text("fold").await, "Only the busiest of 41 routes. show all");
    browser.shot("many.png").await;
    browser.ask(json!({"eval": "document.querySelector('#fold button').click()"})).await;
    browser.until(&format!("{names}.length === 41")).await;
    // Who is looked at stays, busy or not.
    let choose = "document.querySelectorAll('#routes tbody button')[25].click()";
    browser.ask(json!({"eval": choose})).await;
    browser.ask(json!({"eval": "document.querySelector('#fold button').click()"})).await;
    browser.until(&format!("{names}.length === 13 && {names}.includes('r25')")).await;
    browser.assert_content().await;
}

/// A sidecar whose admin listener has a given address.
fn start(upstream: SocketAddr, admin: &str) -> Sidecar {
    let flags = Overrides {
        upstream: Some(format!("http://{upstream}")),
        listen: Some("127.0.0.1:0".to_owned()),
        admin_listen: Some(admin.to_owned()),
        ..Overrides::default()
    };
    let loaded = config::parse("test.toml", "", &[], &flags).expect("valid");
    Sidecar::start(loaded.config, String::new(), None).expect("the port is free")
}

#[tokio::test]
#[ignore = "needs chromium and python3"]
async fn the_page_survives_a_restart() {
    let echo = Echo::start(Duration::from_millis(20)).await;
    let first = start(echo.address, "127.0.0.1:0");
    let admin = first.admin_address();
    let mut browser = Browser::open(admin, &[]).await;
    browser.until_level("idle").await;
    browser.until("document.getElementById('link').classList.contains('live')").await;
    drop(first);
    browser.until("document.body.classList.contains('lost')").await;
    let second = start(echo.address, &admin.to_string());
    browser.until("!document.body.classList.contains('lost')").await;
    let few = clients(second.addresses()[0], 2);
    browser.until_level("good").await;
    few.iter().for_each(tokio::task::JoinHandle::abort);
    browser.assert_content().await;
}

#[tokio::test]
async fn the_demo_is_served_and_its_load_is_turned_up() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["demo", "--serve"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut admin = None;
    loop {
        let line = soon("a line", lines.next_line()).await.unwrap().expect("it goes on");
        if let Some(url) = line.trim().strip_prefix("Look at it:") {
            let address = url.trim().strip_prefix("http://").unwrap().trim_end_matches('/');
            admin = Some(address.parse::<SocketAddr>().unwrap());
        }
        if line.contains("load: 50 %") {
            break;
        }
    }
    let mut page = listen(admin.unwrap(), "/events").await;
    while event(&mut page, "sample").await["routes"].as_array().unwrap().len() < 3 {}
    keys.write_all(b"+\n").await.unwrap();
    let line = soon("more", lines.next_line()).await.unwrap().unwrap();
    assert!(line.contains("load: 75 %"), "{line}");
    keys.write_all(b"q\n").await.unwrap();
    assert!(soon("its end", child.wait()).await.unwrap().success());
}
