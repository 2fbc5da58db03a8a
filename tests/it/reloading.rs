//! A configuration that changes while requests come.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::config::{self, Format, Loaded, Overrides};
use tidegate::sidecar::{Sidecar, Source};

use crate::support::certificates::Certificates;
use crate::support::{App, Away, Echo, Metrics, Process, Tide, Wire, soon};

/// A file that is written in the test.
#[derive(Clone)]
struct File(Arc<Mutex<String>>);

impl File {
    fn new(text: &str) -> File {
        File(Arc::new(Mutex::new(text.to_owned())))
    }

    fn write(&self, text: &str) {
        text.clone_into(&mut self.0.lock().unwrap());
    }
}

impl Source for File {
    fn load(&self) -> Result<Loaded, String> {
        let flags = Overrides {
            listen: Some("127.0.0.1:0".to_owned()),
            admin_listen: Some("127.0.0.1:0".to_owned()),
            ..Overrides::default()
        };
        let text = self.0.lock().unwrap().clone();
        let loaded = config::parse("tidegate.toml", &text, &[], &flags);
        loaded.map_err(|report| report.render(Format::Human, false))
    }

    fn fingerprint(&self) -> Option<u64> {
        None
    }
}

fn start(file: &File) -> Tide {
    let loaded = file.load().unwrap();
    let effective = loaded.effective_toml();
    let source = Arc::new(file.clone());
    let sidecar = Sidecar::start(loaded.config, effective, Some(source)).unwrap();
    let address = sidecar.addresses()[0];
    Tide { sidecar, address }
}

fn before(app: &App, more: &str) -> String {
    format!("[server]\nworkers = 1\n[upstream]\nurl = \"http://{}\"\n{more}", app.address)
}

async fn ask(tide: &Tide, path: &str) -> Wire {
    let mut client = tide.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    client
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn what_waits_keeps_its_place_under_the_new_limits() {
    let app = App::start().await;
    let file = File::new(&before(&app, "max_in_flight = 1\n[defaults]\nmax_wait = \"60s\"\n"));
    let tide = start(&file);
    let mut first = ask(&tide, "/1").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let mut second = ask(&tide, "/2").await;
    tide.until_queued(1).await;
    let mut third = ask(&tide, "/3").await;
    tide.until_queued(2).await;

    file.write(&before(&app, "max_in_flight = 2\n[defaults]\nmax_wait = \"60s\"\nmax_queue = 1\n"));
    let changes = tide.sidecar.reload().await.unwrap();
    assert!(changes.iter().any(|line| line == "upstream.max_in_flight: 1 -> 2"), "{changes:?}");
    // The second is let in at once, and the third still waits, beyond the new bound or not.
    let mut other = app.accept().await;
    assert_eq!(other.request().await.head.line, "GET /2 HTTP/1.1");
    tide.until_queued(1).await;
    let refused = ask(&tide, "/4").await.response().await;
    assert_eq!(refused.status(), 503);
    conn.send(OK).await;
    assert_eq!(first.response().await.status(), 200);
    assert_eq!(conn.request().await.head.line, "GET /3 HTTP/1.1");
    conn.send(OK).await;
    other.send(OK).await;
    assert_eq!(second.response().await.status(), 200);
    assert_eq!(third.response().await.status(), 200);
    drop(other);
    // A connection goes by the new configuration from its next request on.
    first.send("GET /5 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let served = async {
        conn.request().await;
        conn.send(OK).await;
    };
    tokio::join!(served, async { assert_eq!(first.response().await.status(), 200) });
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_config_reloads_total", &[("result", "success")]), 1.0);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let app = App::start().await;
    let good = before(&app, "max_in_flight = 1\n");
    let file = File::new(&good);
    let tide = start(&file);
    for bad in
        ["max_in_flight = 0\n", "max_in_flight = 1\nsurprise = 1\n", "[[[", "max_queue = 1\n"]
    {
        file.write(&before(&app, bad));
        let why = tide.sidecar.reload().await.unwrap_err();
        assert!(why.contains("tidegate.toml") || why.contains("error"), "{why}");
        let status = tide.status().await;
        assert_eq!(status["reload"]["succeeded"], false, "{status}");
        assert_eq!(status["reload"]["error"].as_str().unwrap(), why);
        let mut client = ask(&tide, "/").await;
        app.serve("").await;
        assert_eq!(client.response().await.status(), 200);
    }
    let metrics = tide.metrics().await;
    assert_eq!(metrics.sum("tidegate_config_last_reload_successful", &[]), 0.0);
    file.write(&good);
    assert!(tide.sidecar.reload().await.unwrap().is_empty());
    let metrics = tide.metrics().await;
    assert_eq!(metrics.sum("tidegate_config_last_reload_successful", &[]), 1.0);
    assert_eq!(metrics.sum("tidegate_config_reloads_total", &[("result", "failure")]), 4.0);
}

fn route(name: &str, more: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\n{more}")
}

#[tokio::test]
async fn routes_come_and_go_and_their_counters_never_fall() {
    let app = App::start().await;
    let slow = "max_in_flight = 4\n[defaults]\nmax_wait = \"60s\"\n";
    let with = |routes: &str| before(&app, &format!("{slow}{routes}"));
    let file = File::new(&with(&route("a", "max_in_flight = 1\nreserved = 1\n")));
    let tide = start(&file);
    let mut held = ask(&tide, "/a").await;
    let mut conn = app.accept().await;
    conn.request().await;
    let mut waiting = ask(&tide, "/a").await;
    tide.until_queued(1).await;

    // The route goes while one of its requests is in flight and another waits.
    file.write(&with(&route("b", "")));
    tide.sidecar.reload().await.unwrap();
    let metrics = tide.metrics().await;
    assert_eq!(metrics.sum("tidegate_queue_depth", &[("route", "a")]), 1.0, "{metrics}");
    let mut other = ask(&tide, "/a").await;
    app.serve("").await;
    assert_eq!(other.response().await.status(), 200, "by the default route");
    conn.send(OK).await;
    assert_eq!(held.response().await.status(), 200);
    conn.request().await;
    conn.send(OK).await;
    assert_eq!(waiting.response().await.status(), 200);
    let arrivals = |metrics: &Metrics| metrics.sum("tidegate_arrivals_total", &[("route", "a")]);
    assert_eq!(arrivals(&tide.at_rest().await), 2.0);
    drop(conn);

    // It comes again, as a stream beside the budget, and then as it was.
    for (times, more) in [(1.0, "kind = \"stream\"\nmax_in_flight = 3\n"), (2.0, "")] {
        file.write(&with(&route("a", more)));
        tide.sidecar.reload().await.unwrap();
        let mut client = ask(&tide, "/a").await;
        app.serve("").await;
        assert_eq!(client.response().await.status(), 200);
        assert_eq!(arrivals(&tide.at_rest().await), 2.0 + times);
    }
}

/// The next `facts` of the live page.
async fn facts(page: &mut Wire) -> serde_json::Value {
    page.through("event: facts\ndata: ").await;
    serde_json::from_str(&page.through("\n\n").await).unwrap()
}

#[tokio::test]
async fn an_open_page_is_told() {
    let app = App::start().await;
    let file = File::new(&before(&app, ""));
    let tide = start(&file);
    let mut page = Wire::connect(tide.sidecar.admin_address()).await;
    page.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let first = facts(&mut page).await;
    assert_eq!(first["last_reload"], serde_json::Value::Null);
    file.write(&before(&app, &route("new", "")));
    tide.sidecar.reload().await.unwrap();
    let changed = facts(&mut page).await;
    assert_eq!(
        (&changed["routes"][0]["name"], &changed["last_reload"]["ok"]),
        (&"new".into(), &true.into())
    );
    // Its samples are those of the new routes.
    let mut client = ask(&tide, "/new").await;
    app.serve("").await;
    assert_eq!(client.response().await.status(), 200);
    loop {
        page.through("event: sample\ndata: ").await;
        let sample: serde_json::Value = serde_json::from_str(&page.through("\n\n").await).unwrap();
        if let Some(row) = sample["routes"].get(0) {
            assert_eq!(row[0], 0, "{sample}");
            break;
        }
    }
    file.write("[[[");
    tide.sidecar.reload().await.unwrap_err();
    let failed = facts(&mut page).await;
    assert_eq!(
        (&failed["last_reload"]["ok"], &failed["loaded"]),
        (&false.into(), &changed["loaded"])
    );
    assert!(failed["last_reload"]["why"].as_str().unwrap().starts_with("error"), "{failed}");
}

#[tokio::test]
async fn an_upstream_may_move() {
    let (old, new) = (App::start().await, App::start().await);
    let file = File::new(&before(&old, ""));
    let tide = start(&file);
    let mut held = ask(&tide, "/held").await;
    let mut conn = old.accept().await;
    conn.request().await;
    file.write(&before(&new, ""));
    tide.sidecar.reload().await.unwrap();
    let mut client = ask(&tide, "/next").await;
    new.serve("new").await;
    assert_eq!(client.response().await.text(), "new");
    conn.send(OK).await;
    assert_eq!(held.response().await.status(), 200);
    // The connection of the old way is not kept.
    conn.end().await;
    tide.at_rest().await;
}

#[tokio::test]
async fn listeners_open_and_close() {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reloading-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let app = Echo::start(Duration::ZERO).await;
    let path = |name: &str| directory.join(name);
    let text = |listen: &[PathBuf]| {
        let listen: Vec<_> = listen.iter().map(|l| format!("unix:{}", l.display())).collect();
        format!("[server]\nlisten = {listen:?}\n[upstream]\nurl = \"http://{}\"\n", app.address)
    };
    struct Sockets(File);
    impl Source for Sockets {
        fn load(&self) -> Result<Loaded, String> {
            let flags =
                Overrides { admin_listen: Some("127.0.0.1:0".into()), ..Default::default() };
            let text = self.0.0.lock().unwrap().clone();
            let loaded = config::parse("t", &text, &[], &flags);
            loaded.map_err(|report| report.render(Format::Human, false))
        }
        fn fingerprint(&self) -> Option<u64> {
            None
        }
    }
    let file = File::new(&text(&[path("a"), path("b")]));
    let source = Arc::new(Sockets(file.clone()));
    let loaded = source.load().unwrap();
    let effective = loaded.effective_toml();
    let sidecar = Sidecar::start(loaded.config, effective, Some(source)).unwrap();
    file.write(&text(&[path("b"), path("c")]));
    sidecar.reload().await.unwrap();
    let closed = async {
        while path("a").exists() {
            tokio::task::yield_now().await;
        }
    };
    soon("the old socket to go", closed).await;
    for name in ["b", "c"] {
        tokio::net::UnixStream::connect(path(name)).await.unwrap();
    }
    // One that cannot be opened: nothing changes.
    fs::write(path("d"), "no socket").unwrap();
    file.write(&text(&[path("d")]));
    let why = sidecar.reload().await.unwrap_err();
    assert!(why.contains("cannot listen"), "{why}");
    tokio::net::UnixStream::connect(path("b")).await.unwrap();
    fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn no_request_fails_for_a_reload() {
    let app = Echo::start(Duration::from_millis(2)).await;
    let text = |limit: u32| {
        format!(
            "[upstream]\nurl = \"http://{}\"\nmax_in_flight = {limit}\n{}",
            app.address,
            if limit.is_multiple_of(2) {
                route("even", "")
            } else {
                route("odd", "reserved = 1\n")
            }
        )
    };
    let file = File::new(&text(4));
    let tide = start(&file);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..8 {
        let (address, done) = (tide.address, Arc::clone(&done));
        clients.push(tokio::spawn(async move {
            let mut client = Wire::connect(address).await;
            let mut served = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let path = ["/even", "/odd", "/"][(number + served) % 3];
                assert_eq!(client.get(path).await.status(), 200);
                served += 1;
            }
            served
        }));
    }
    let mut seen = 0.0;
    for round in 0..40 {
        file.write(&text(2 + round % 5));
        tide.sidecar.reload().await.unwrap();
        let arrivals = tide.metrics().await.sum("tidegate_arrivals_total", &[]);
        assert!(arrivals >= seen, "{arrivals} after {seen}");
        seen = arrivals;
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut served = 0;
    for client in clients {
        served += soon("a client", client).await.unwrap();
    }
    let metrics = tide.at_rest().await;
    assert_eq!(metrics.sum("tidegate_arrivals_total", &[]), served as f64, "{metrics}");
    assert_eq!(metrics.sum("tidegate_rejected_total", &[]), 0.0);
}

#[tokio::test]
async fn orders_come_from_this_machine_and_from_no_browser() {
    let app = App::start().await;
    let file = File::new(&before(&app, "max_in_flight = 1\n"));
    let tide = start(&file);
    let order = async |request: &str| {
        let mut admin = Wire::connect(tide.sidecar.admin_address()).await;
        admin.exchange(request).await
    };
    let plain = "POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    file.write(&before(&app, "max_in_flight = 3\n"));
    let answer = order(plain).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.text().contains("upstream.max_in_flight: 1 -> 3\n"), "{}", answer.text());
    file.write("surprise = 1");
    let answer = order(plain).await;
    assert_eq!(answer.status(), 422);
    assert!(answer.text().contains("surprise"), "{}", answer.text());
    let browser = plain.replace("Host: a", "Host: a\r\nOrigin: http://a");
    assert_eq!(order(&browser).await.status(), 403);
    assert_eq!(order(&plain.replace("/reload", "/stop")).await.status(), 405);
    assert_eq!(order(&plain.replace("POST", "GET")).await.field("allow"), Some("POST"));
    file.write(&before(&app, "[admin]\ncontrol = \"off\"\n"));
    tide.sidecar.reload().await.unwrap();
    assert_eq!(order(plain).await.status(), 403);
    file.write(&before(&app, ""));
    tide.sidecar.reload().await.unwrap();
    assert_eq!(order(&plain.replace("/reload", "/drain")).await.text(), "drained\n");
    assert_eq!(tide.metrics().await.sum("tidegate_draining", &[]), 1.0);
    assert!(tide.sidecar.reload().await.is_err(), "too late");
}

fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).output().expect("it runs")
}

#[tokio::test]
async fn a_file_that_changes_is_loaded_and_commands_do_it_at_once() {
    let app = Echo::start(Duration::ZERO).await;
    let mut process = Process::start(app.address, "[upstream]\nmax_in_flight = 4\n");
    process.replace_config("[upstream]\nmax_in_flight = 5\n");
    let line = process.line("configuration");
    assert_eq!(line["change"], "upstream.max_in_flight: 4 -> 5");

    let admin = process.admin.to_string();
    let reload = || tidegate(&["reload", "--admin", &admin]);
    process.replace_config("[upstream]\nmax_in_flight = 6\n[server]\nwatch_config = false\n");
    let done = reload();
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{done:?}");
    // The watch may have been faster.
    assert!(told.contains("5 -> 6") || told.contains("nothing has changed"), "{told}");
    process.replace_config("[upstream]\nmax_in_flight = six\n");
    let done = reload();
    assert_eq!(done.status.code(), Some(78), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("six"), "{done:?}");

    let done = tidegate(&["drain", "--admin", &admin]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(
        process
            .until("draining", |m| m.sum("tidegate_draining", &[]) == 1.0)
            .await
            .sum("tidegate_connections", &[]),
        0.0
    );
    process.signal(rustix::process::Signal::TERM);
    assert!(process.exit().await.success());
}

fn paused(metrics: &Metrics) -> bool {
    metrics.sum("tidegate_upstream_paused", &[]) == 1.0
}

/// One that waits for an application that is away with the only slot, and one without.
async fn held(tide: &Tide) -> [Wire; 2] {
    let first = ask(tide, "/1").await;
    tide.until("the gate is paused", paused).await;
    let second = ask(tide, "/2").await;
    tide.until_queued(1).await;
    [first, second]
}

#[tokio::test]
async fn what_waits_for_an_application_follows_the_configuration() {
    let away = Away::new();
    let nobody = away.address;
    let app = App::start().await;
    let upstream = |address, hold: &str| {
        let url = format!("[upstream]\nurl = \"http://{address}\"\nmax_in_flight = 1\n");
        format!("[server]\nworkers = 1\n{url}hold = \"{hold}\"\n")
    };
    let file = File::new(&upstream(nobody, "60s"));
    let tide = start(&file);
    // It lies elsewhere now: who waits goes there.
    let [mut first, mut second] = held(&tide).await;
    file.write(&upstream(app.address, "60s"));
    tide.sidecar.reload().await.unwrap();
    let (mut conn, request) = app.serve("1").await;
    assert!(request.head.line.contains("/1"), "{request:?}");
    conn.request().await;
    conn.send(OK).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.response().await.status(), 200);
    }
    // Nobody is to wait any more: who waits tries, and is told.
    file.write(&upstream(nobody, "60s"));
    tide.sidecar.reload().await.unwrap();
    let [mut first, mut second] = held(&tide).await;
    file.write(&upstream(nobody, "0s"));
    tide.sidecar.reload().await.unwrap();
    for client in [&mut first, &mut second] {
        client.response().await.assert_own(502, "connection_refused");
    }
    assert!(!paused(&tide.at_rest().await));
    // Not as long any more: that holds for who waits.
    file.write(&upstream(nobody, "60s"));
    tide.sidecar.reload().await.unwrap();
    let [mut first, mut second] = held(&tide).await;
    file.write(&upstream(nobody, "200ms"));
    tide.sidecar.reload().await.unwrap();
    first.response().await.assert_own(502, "connection_refused");
    assert_eq!(second.response().await.status(), 503);
}

#[tokio::test]
async fn nobody_looks_for_an_application_that_is_no_more() {
    let away = Away::new();
    let app = App::apart().await;
    let upstream = |name: &str, address| {
        format!("[upstreams.{name}]\nurl = \"http://{address}\"\nhold = \"500ms\"\n")
    };
    let file = File::new(&upstream("old", away.address));
    let tide = start(&file);
    let [mut first, mut second] = held(&tide).await;
    file.write(&upstream("new", app.address));
    tide.sidecar.reload().await.unwrap();
    // Who waits for it is told as ever.
    first.response().await.assert_own(502, "connection_refused");
    assert_eq!(second.response().await.status(), 503);
    tide.until("the search has ended", |m| !paused(m)).await;
    away.comes().stays_alone(Duration::from_millis(500)).await;
}

/// As Kubernetes mounts a ConfigMap: the file is a link through `..data`, and that is what changes.
#[tokio::test]
async fn a_directory_that_is_swapped_behind_a_link_is_seen() {
    let app = App::start().await;
    let process = Process::start(app.address, "[upstream]\nmax_in_flight = 4\n");
    let mount = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("mount-{}", process.pid()));
    let link = |target: &Path, name: &Path| {
        let new = mount.join("new");
        std::os::unix::fs::symlink(target, &new).unwrap();
        fs::rename(&new, name).unwrap();
    };
    for limit in [5, 6, 7] {
        let version = mount.join(format!("..{limit}"));
        fs::create_dir_all(&version).unwrap();
        let toml = format!("[upstream]\nmax_in_flight = {limit}\n");
        fs::write(version.join("tidegate.toml"), toml).unwrap();
        link(&version, &mount.join("..data"));
        if limit == 5 {
            link(&mount.join("..data/tidegate.toml"), &process.config);
        }
        let change = format!("upstream.max_in_flight: {} -> {limit}", limit - 1);
        assert_eq!(process.line("configuration")["change"], change);
    }
    fs::remove_dir_all(mount).unwrap();
}

/// Good files and broken ones in turn, one each second, while 500 requests come each second.
#[tokio::test]
#[ignore = "takes ten seconds"]
async fn a_reload_each_second_fails_no_request_of_500_a_second() {
    let app = Echo::start(Duration::from_millis(5)).await;
    let routes = [route("even", ""), route("odd", "reserved = 1\n")];
    let text = |limit: usize| format!("[upstream]\nmax_in_flight = {limit}\n{}", routes[limit % 2]);
    let process = Process::start(app.address, &text(8));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..50 {
        let mut client = process.client().await;
        clients.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            for turn in 0..100 {
                ticks.tick().await;
                let path = ["/even", "/odd", "/"][(number + turn) % 3];
                assert_eq!(client.get(path).await.status(), 200);
            }
        });
    }
    let mut seen = 0.0;
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    for round in 1..=9 {
        seconds.tick().await;
        let broken = round % 3 == 0;
        process.replace_config(&if broken { "[[[".to_owned() } else { text(8 + round) });
        process.signal(rustix::process::Signal::HUP);
        process.line(if broken { "the new configuration is refused" } else { "configuration" });
        let metrics = process.until("it counts on", |_| true).await;
        let arrivals = metrics.sum("tidegate_arrivals_total", &[]);
        assert!(arrivals >= seen, "{arrivals} after {seen}");
        seen = arrivals;
    }
    soon("the clients", clients.join_all()).await;
    let metrics = process.until("all were served", |m| m.answered(200) == 5_000.0).await;
    assert_eq!(metrics.sum("tidegate_rejected_total", &[]), 0.0);
    assert!(metrics.sum("tidegate_config_reloads_total", &[("result", "failure")]) >= 3.0);
}

#[tokio::test]
async fn a_reload_reads_renewed_certificates_at_once() {
    let certificates = Certificates::new();
    let (cert, key) = certificates.pair("a", &["a.example"], 2099);
    let app = App::start().await;
    let tls = format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n");
    let file = File::new(&format!("{}{tls}", before(&app, "")));
    let tide = start(&file);
    assert_eq!(tide.sidecar.reload().await, Ok(Vec::new()));
    let new = certificates.pair("b", &["b.example"], 2099);
    fs::copy(&new.0, &cert).unwrap();
    let why = tide.sidecar.reload().await.unwrap_err();
    assert!(why.contains("key"), "{why}");
    fs::copy(&new.1, &key).unwrap();
    let changes = tide.sidecar.reload().await.unwrap();
    assert_eq!(changes, ["server.tls: its files were read again"]);
}
