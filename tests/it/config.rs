//! Loading a configuration: precedence, origins, defaults, shipped files, robustness.

#![allow(clippy::unwrap_used)] // in the helpers; clippy.toml covers test functions only

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::config::{
    self, Budget, Config, Endpoint, FairBy, Format, Listen, Loaded, LogLevel, Order, Origin,
    Overrides, Paths, Report, Scheme, Standing, TlsVersion,
};

use crate::support::certificates::Certificates;

const LEAST: &str = "[upstream]\nurl = \"http://127.0.0.1:8000\"\nmax_in_flight = 8\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn variables(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn parse(text: &str) -> Result<Loaded, Report> {
    config::parse("t.toml", text, &[], &Overrides::default())
}

fn config(text: &str) -> Config {
    match parse(text) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{report}"),
    }
}

/// Where the first upstream listens.
fn host(config: &Config) -> &str {
    match &config.upstreams[0].endpoint {
        Endpoint::Tcp { host, .. } => host,
        Endpoint::Unix(path) => panic!("{}", path.display()),
    }
}

fn port(config: &Config) -> u16 {
    match &config.upstreams[0].endpoint {
        Endpoint::Tcp { port, .. } => *port,
        Endpoint::Unix(path) => panic!("{}", path.display()),
    }
}

// --- precedence and origins ---

#[test]
fn flags_beat_variables_beat_the_file_beat_defaults() {
    let text = format!("{LEAST}[log]\nlevel = \"warn\"\n[server]\nlisten = \"127.0.0.1:1\"\n");
    let environment = variables(&[
        ("TIDEGATE_LOG_LEVEL", "debug"),
        ("TIDEGATE_UPSTREAM_MAX_IN_FLIGHT", "4"),
        ("TIDEGATE_SERVER_LISTEN", "127.0.0.1:2, [::1]:2"),
        ("TIDEGATE_DEFAULTS_MAX_WAIT", "2s"),
        ("TIDEGATE_SERVER_PROXY_PROTOCOL", "true"),
        ("TIDEGATE_CONFIG", "elsewhere.toml"),
        ("PATH", "/bin"),
    ]);
    let flags = Overrides { max_in_flight: Some("2".to_owned()), ..Overrides::default() };
    let loaded = config::parse("t.toml", &text, &environment, &flags).unwrap();
    assert_eq!(loaded.config.upstreams[0].max_in_flight, Budget::Fixed(2), "the flag");
    assert_eq!(loaded.config.log.level, LogLevel::Debug, "the variable");
    assert_eq!(loaded.config.server.listen.len(), 2, "a variable holds a list");
    assert!(loaded.config.server.proxy_protocol);
    assert_eq!(loaded.config.routes[0].max_wait, Duration::from_secs(2));
    assert_eq!(port(&loaded.config), 8000, "the file");
    assert_eq!(loaded.config.server.max_connections, 4096, "the default");

    let origin = |table, key| loaded.origins.of(table, key);
    assert_eq!(origin("upstream default", "max_in_flight"), Origin::Flag("--max-in-flight".into()));
    assert_eq!(origin("log", "level"), Origin::Variable("TIDEGATE_LOG_LEVEL".into()));
    assert_eq!(
        origin("route default", "max_wait"),
        Origin::Variable("TIDEGATE_DEFAULTS_MAX_WAIT".into())
    );
    assert_eq!(
        origin("upstream default", "url"),
        Origin::File { name: "t.toml".into(), line: 2, column: 7 }
    );
    assert_eq!(origin("server", "max_connections"), Origin::Default);
}

#[test]
fn an_overridden_value_is_not_judged() {
    let text = "[upstream]\nurl = \"http://${NOWHERE}\"\nmax_in_flight = 8\n";
    let flags =
        Overrides { upstream: Some("http://127.0.0.1:1".to_owned()), ..Overrides::default() };
    let loaded = config::parse("t.toml", text, &[], &flags).unwrap();
    assert_eq!(port(&loaded.config), 1);
}

#[test]
fn no_file_is_needed() {
    let flags = Overrides {
        upstream: Some("http://app:8000".to_owned()),
        listen: Some("127.0.0.1:0".to_owned()),
        max_in_flight: Some("4".to_owned()),
        ..Overrides::default()
    };
    let loaded = config::from_flags(&[], &flags).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(host(&loaded.config), "app");
    assert_eq!(loaded.config.server.listen, [Listen::Tcp(([127, 0, 0, 1], 0).into())]);

    let flags = Overrides { upstream: flags.upstream, ..Overrides::default() };
    let loaded = config::from_flags(&[], &flags).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let auto = Budget::Auto { min: 2, max: 500, max_latency: None };
    assert_eq!(loaded.config.upstreams[0].max_in_flight, auto, "it finds itself");

    let environment = variables(&[("TIDEGATE_UPSTREAM_URL", "http://app:1")]);
    assert!(config::from_flags(&environment, &Overrides::default()).is_ok());
    assert!(config::from_flags(&[], &Overrides::default()).is_err(), "an upstream is");
}

#[test]
fn a_string_that_is_one_variable_takes_the_type_of_its_field() {
    let text = "[server]\nlisten = \"${LISTEN}\"\n[upstream]\nurl = \"http://${HOST:-app}:1\"\n\
                max_in_flight = \"${SLOTS}\"\n[defaults]\nmax_queue = \"${QUEUE:-5}\"\n";
    let environment = variables(&[("SLOTS", "3"), ("LISTEN", "127.0.0.1:1,127.0.0.1:2")]);
    let loaded = config::parse("t", text, &environment, &Overrides::default()).unwrap();
    assert_eq!(loaded.config.upstreams[0].max_in_flight, Budget::Fixed(3));
    assert_eq!(host(&loaded.config), "app");
    assert_eq!(loaded.config.server.listen.len(), 2);
    assert_eq!(loaded.config.routes[0].max_queue, 5);
}

// --- resolution ---

#[test]
fn routes_inherit_and_default_is_last() {
    let config = config(&format!(
        "{LEAST}[reject]\nbody = \"text\"\n\
         [defaults]\nmax_wait = \"2s\"\nidle_body_timeout = \"5s\"\n\
         [[route]]\nname = \"default\"\nmax_queue = 7\n\
         [[route]]\nname = \"a\"\nmatch = {{ path = \"/a\" }}\nreject = {{ status = 429 }}\n\
         [[route]]\nname = \"s\"\nmatch = {{ path = \"/s\" }}\n\
         kind = \"stream\"\nmax_in_flight = 900\n"
    ));
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["a", "s", "default"]);
    let [a, s, default] = &config.routes[..] else { panic!("three routes") };
    assert_eq!((a.reject.status, default.reject.status), (429, 503));
    assert_eq!(a.reject.body, config::RejectBody::Text);
    assert_eq!(a.max_wait, Duration::from_secs(2));
    assert_eq!((a.max_queue, default.max_queue), (1024, 7));
    assert_eq!(a.idle_body_timeout, Some(Duration::from_secs(5)));
    assert_eq!(s.idle_body_timeout, None, "streams are silent for long");
    assert_eq!(s.response_timeout, Some(Duration::from_secs(30)));
    assert_eq!(config.upstreams[0].max_connections, 908, "raised to what the routes need");
}

#[test]
fn what_nobody_writes() {
    let config = config("[upstream]\nurl = \"http://127.0.0.1:8000\"\n");
    let (upstream, route) = (&config.upstreams[0], &config.routes[0]);
    let auto = Budget::Auto { min: 2, max: 500, max_latency: None };
    assert_eq!(upstream.max_in_flight, auto, "it finds itself");
    assert_eq!((upstream.class_floor, upstream.enforce, upstream.max_connections), (5, true, 512));
    assert_eq!((route.order, route.standing_after), (Order::Adaptive, Standing::Auto));
    assert_eq!((route.class, &route.fair_by, route.enforce), (3, &FairBy::Client, true));
    assert_eq!((&route.class_header, &route.deadline_header), (&None, &None));
    assert_eq!(route.standing_after.after(route.max_wait), Some(Duration::from_millis(1_500)));
}

#[test]
fn knobs_are_inherited_and_turned_off_again() {
    let config = config(&format!(
        "{LEAST}enforce = false\n[defaults]\norder = \"fifo\"\nstanding_after = \"3s\"\n\
         class_header = \"X-Class\"\ndeadline_header = \"X-Deadline-Ms\"\n\
         fair_by = \"header:X-Tenant\"\nenforce = false\n\
         [[route]]\nname = \"a\"\nmatch = {{ path = \"/a\" }}\nclass = 6\n\
         [[route]]\nname = \"b\"\nmatch = {{ path = \"/b\" }}\norder = \"lifo\"\n\
         standing_after = \"off\"\nclass_header = \"off\"\ndeadline_header = \"off\"\n\
         fair_by = \"none\"\n"
    ));
    let [a, b, _] = &config.routes[..] else { panic!("three routes") };
    assert!(!config.upstreams[0].enforce && !a.enforce);
    assert_eq!((a.class, b.class), (6, 3));
    assert_eq!((a.order, b.order), (Order::Fifo, Order::Lifo));
    assert_eq!(a.standing_after, Standing::After(Duration::from_secs(3)));
    assert_eq!(b.standing_after, Standing::Off);
    assert_eq!(a.class_header.as_deref(), Some("x-class"));
    assert_eq!(a.deadline_header.as_deref(), Some("x-deadline-ms"));
    assert_eq!(a.fair_by, FairBy::Header("x-tenant".to_owned()));
    assert_eq!((&b.class_header, &b.deadline_header, &b.fair_by), (&None, &None, &FairBy::None));
}

#[test]
fn an_unwritten_auto_min_leaves_room_beside_what_is_reserved() {
    let text = "[upstream]\nurl = \"http://a\"\nmax_in_flight = \"auto\"\n[[route]]\nname = \"a\"\n\
                match = { path = \"/a\" }\nreserved = 5\n";
    let loaded = parse(text).unwrap();
    assert_eq!(loaded.config.upstreams[0].max_in_flight.least(), 6);
    assert_eq!(loaded.origins.of("upstream default", "auto_min"), Origin::Raised);
}

#[test]
fn an_unwritten_auto_max_is_within_the_connections() {
    let parsed = |more: &str| {
        let text = format!("[upstream]\nurl = \"http://a\"\nmax_connections = 64\n{more}");
        parse(&text).map(|loaded| {
            let most = loaded.config.upstreams[0].max_in_flight.most();
            (most, loaded.origins.of("upstream default", "auto_max"))
        })
    };
    assert_eq!(parsed("").unwrap(), (64, Origin::Lowered));
    let probe = "[[route]]\nname = \"h\"\nmatch = { path = \"/h\" }\nadmission = \"exempt\"\n";
    assert_eq!(parsed(probe).unwrap(), (32, Origin::Lowered), "32 for each exempt route");
    assert!(parsed("auto_max = 65\n").is_err(), "what is written is meant");
    assert!(parsed(&format!("auto_min = 40\n{probe}")).is_err(), "no room for so many");
}

#[test]
fn auto_needs_connections_for_all_that_it_may_find() {
    let streams = "[[route]]\nname = \"s\"\nmatch = { path = \"/s\" }\nkind = \"stream\"\n\
                   max_in_flight = 400\n";
    let connections = |budget: &str| {
        let text = format!("[upstream]\nurl = \"http://a\"\n{budget}{streams}");
        config(&text).upstreams[0].max_connections
    };
    assert_eq!(connections("max_in_flight = 16\n"), 512, "16 + 400 fit");
    assert_eq!(connections(""), 900, "500 + 400 do not");
}

#[test]
fn kubernetes_service_variables_are_left_alone() {
    let environment = variables(&[
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_PORT", "tcp://10.0.0.1:80"),
        ("TIDEGATE_PORT_80_TCP_PROTO", "tcp"),
    ]);
    assert!(config::parse("t", LEAST, &environment, &Overrides::default()).is_ok());
}

#[test]
fn applications_are_reached_in_four_ways() {
    let upstream = |url: &str, tls: &str| {
        let text = format!("[upstream]\nurl = \"{url}\"\nmax_in_flight = 8\n{tls}");
        config(&text).upstreams.remove(0)
    };
    let plain = upstream("http://app", "");
    assert_eq!((plain.url().as_str(), &plain.scheme), ("http://app:80", &Scheme::Http));
    assert_eq!(plain.dns_refresh, Duration::from_secs(5));
    assert_eq!(upstream("h2c://[::1]:50051", "").url(), "h2c://[::1]:50051");
    let unix = upstream("unix:/run/app.sock", "");
    assert_eq!(unix.endpoint, Endpoint::Unix("/run/app.sock".into()));
    assert_eq!(unix.url(), "unix:/run/app.sock");
    let Scheme::Https(tls) = upstream("https://app", "").scheme else { panic!("TLS") };
    assert_eq!((tls.server_name.as_str(), tls.http2, tls.ca), ("app", true, None));
    let named = upstream("https://10.0.0.1", "tls = { server_name = \"a.b\", http2 = false }");
    let Scheme::Https(tls) = named.scheme else { panic!("TLS") };
    assert_eq!((tls.server_name.as_str(), tls.http2), ("a.b", false));
}

#[test]
fn tls_reads_back_as_it_runs() {
    let files = Certificates::new();
    let (cert, key) = files.pair("a", &["a.test"], 2099);
    let (cert, key, ca) = (cert.display(), key.display(), files.ca());
    let ca = ca.display();
    let pair = format!("cert = \"{cert}\"\nkey = \"{key}\"\n");
    let list = format!("certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n");
    for server in [pair, list] {
        let loaded = parse(&format!(
            "[server.tls]\n{server}client_ca = \"{ca}\"\nclient_auth = \"optional\"\n\
             min_version = \"1.3\"\nhttp2 = false\n[upstreams.a]\nurl = \"https://a\"\n\
             max_in_flight = 8\ntls = {{ ca = \"{ca}\", client_cert = \"{cert}\", \
             client_key = \"{key}\" }}\n[[route]]\nname = \"default\"\npaths = \"strict\"\n\
             tunnel_idle_timeout = \"off\"\n"
        ));
        let loaded = loaded.unwrap();
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        let tls = loaded.config.server.tls.as_ref().unwrap();
        assert_eq!((tls.certificates.len(), tls.min_version), (1, TlsVersion::V1_3));
        assert!(!tls.clients.as_ref().unwrap().required && !tls.http2);
        assert_eq!(loaded.config.routes[0].paths, Paths::Strict);
        let effective = loaded.effective_toml();
        assert_eq!(parse(&effective).unwrap().config, loaded.config, "{effective}");
    }
}

// --- what ships ---

fn shipped() -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(root().join("config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn shipped_files_load_without_a_word() {
    let paths = shipped();
    assert!(paths.len() >= 6, "{paths:?}");
    // What tls.toml asks for.
    let files = Certificates::new();
    let (cert, key) = files.pair("tls", &["example.org"], 2099);
    let environment = variables(&[
        ("TLS_CERT", cert.to_str().unwrap()),
        ("TLS_KEY", key.to_str().unwrap()),
        ("APP_CA", files.ca().to_str().unwrap()),
    ]);
    for path in paths {
        match config::load(&path, &environment, &Overrides::default()) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings),
            Err(report) => panic!("{report}"),
        }
    }
}

#[test]
fn the_annotated_file_has_the_defaults() {
    let annotated = config::load(&root().join("config/tidegate.toml"), &[], &Overrides::default());
    let annotated = annotated.unwrap().config;
    let minimal = config(LEAST);
    assert_eq!(annotated.server, minimal.server);
    assert_eq!(annotated.admin, minimal.admin);
    assert_eq!(annotated.log, minimal.log);
    assert_eq!(annotated.routes.last(), minimal.routes.last(), "[defaults] and [reject]");
    // What the application needs depends on the routes, so they stay.
    let text = fs::read_to_string(root().join("config/tidegate.toml")).unwrap();
    let (before, upstream) = text.split_once("\n[upstream]\n").unwrap();
    let (_, after) = upstream.split_once("\n[").unwrap();
    let url = "url = \"http://127.0.0.1:8000\"";
    let unwritten = config(&format!("{before}\n[upstream]\n{url}\n[{after}"));
    assert_eq!(annotated.upstreams, unwritten.upstreams);
}

#[test]
fn the_annotated_file_names_every_key() {
    let schema: serde_json::Value = serde_json::from_str(&config::schema_json()).unwrap();
    let text = fs::read_to_string(root().join("config/tidegate.toml")).unwrap();
    let keys = |pointer: &str| -> Vec<String> {
        let table = schema.pointer(pointer).and_then(|table| table.as_object());
        table.unwrap_or_else(|| panic!("{pointer}")).keys().cloned().collect()
    };
    for table in ["server", "admin", "log", "upstream", "reject", "defaults"] {
        let (_, section) = text.split_once(&format!("\n[{table}]\n")).expect(table);
        let section = section.split("\n[").next().unwrap();
        for key in keys(&format!("/properties/{table}/properties")) {
            // TLS stands in a comment: it needs files.
            let written =
                |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            let found = section.lines().any(written);
            assert!(found, "[{table}] lacks {key}");
        }
    }
    for table in ["server", "upstream"] {
        let (_, section) = text.split_once(&format!("\n[{table}]\n")).expect(table);
        let section = section.split("\n[").next().unwrap();
        for key in keys(&format!("/properties/{table}/properties/tls/properties")) {
            let named = section.contains(&format!("#   {key} = "));
            assert!(
                named || section.contains(&format!("#   cert, {key} = ")) || key == "cert",
                "[{table}.tls] lacks {key}"
            );
        }
    }
    let (_, routes) = text.split_once("\n[[route]]\n").unwrap();
    for key in keys("/properties/route/items/properties") {
        let found = routes.lines().any(|line| line.starts_with(&format!("{key} = ")));
        assert!(found, "no route has {key}");
    }
    for table in ["match", "reject"] {
        for key in keys(&format!("/properties/route/items/properties/{table}/properties")) {
            assert!(routes.contains(&format!("{key} = ")), "no {table} has {key}");
        }
    }
}

#[test]
fn the_committed_schema_is_current() {
    let path = root().join("config/tidegate.schema.json");
    let current = config::schema_json();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == current, "{} is stale: UPDATE_GOLDEN=1 rewrites it", path.display());
}

// --- robustness ---

/// The next number of the splitmix64 sequence.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Loads and renders; only a panic fails.
fn survive(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let report = match parse(&text) {
        Ok(loaded) => {
            let again = parse(&loaded.effective_toml());
            let again = again.unwrap_or_else(|report| panic!("{report}\nfrom\n{text}"));
            assert_eq!(again.config, loaded.config, "{text}");
            loaded.warnings
        }
        Err(report) => report,
    };
    // One form for each: rendering is most of the time.
    let formats = [Format::Human, Format::Json, Format::Github];
    report.render(formats[bytes.len() % 3], true);
}

#[test]
fn every_truncation_is_survived() {
    let bytes = fs::read(root().join("config/tidegate.toml")).unwrap();
    for end in 0..bytes.len() {
        // More of a comment changes nothing, and most of the file is comments.
        let line = bytes[..end].rsplit(|&byte| byte == b'\n').next().unwrap();
        if line.iter().position(|&byte| byte == b'#').is_none_or(|at| at + 3 > line.len()) {
            survive(&bytes[..end]);
        }
    }
}

#[test]
fn random_damage_is_survived() {
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut state = seed.unwrap_or(0x7469_6465);
    println!("TIDEGATE_SEED={state}");
    let sources: Vec<_> = shipped().iter().map(|path| fs::read(path).unwrap()).collect();
    let odd = b"\"'[]{}=.,#$\n\r\0\t-+_0189aez\xc3\xa9\xff\\";
    for _ in 0..600 {
        let mut bytes = sources[next(&mut state) as usize % sources.len()].clone();
        for _ in 0..1 + next(&mut state) % 6 {
            let at = next(&mut state) as usize % bytes.len();
            let byte = odd[next(&mut state) as usize % odd.len()];
            match next(&mut state) % 4 {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes[at] = next(&mut state) as u8,
                _ => drop(bytes.remove(at)),
            }
        }
        survive(&bytes);
    }
}

#[test]
fn hostile_texts_are_survived() {
    let deep = format!("a = {}", "[".repeat(5_000));
    let long = format!("[upstream]\nurl = \"{}\"", "x".repeat(100_000));
    for text in ["", "\u{feff}", "\0", "=", "[", "\"", "route = [[]]", "[[route]]", &deep, &long] {
        survive(text.as_bytes());
    }
}

#[test]
fn an_unreadable_file_is_reported() {
    let report = config::load(Path::new("/nowhere/t.toml"), &[], &Overrides::default());
    let text = report.unwrap_err().to_string();
    assert!(text.contains("cannot read /nowhere/t.toml"), "{text}");
    let report = config::load(Path::new("/dev/zero"), &[], &Overrides::default());
    let text = report.unwrap_err().to_string();
    assert!(text.contains("larger than 1 MiB"), "{text}");
}
