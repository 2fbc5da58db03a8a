//! Raw tables become the resolved configuration: inheritance, names turned into indices, defaults
//! that depend on the machine. What is wrong is reported and replaced by a default, so that one
//! pass finds all.
//!
//! `lint` then judges the values together.

mod routes;
mod tls;

use std::collections::BTreeMap;
use std::thread;

pub(super) use routes::{RouteDraft, clear_meaningless};

use super::context::Context;
use super::diagnostic::{Code, Diagnostic};
use super::kinds::{Budget as RawBudget, Percent};
use super::matching::check_name;
use super::model::{Admin, Budget, Config, Endpoint, Log, Scheme, Server, Upstream};
use super::raw;
use super::root::{Named, Root};
use super::source::Place;
use super::table::Table;
use super::values::{At, Int, List, OrOff, Size, Time};
use super::words::Trouble;

/// The configuration with what the checks need to know about how it was written.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) server: raw::Server,
    pub(super) admin: raw::Admin,
    pub(super) upstreams: Vec<Named<raw::Upstream>>,
    /// One for each of `config.routes`.
    pub(super) routes: Vec<RouteDraft>,
    /// Where the value of each key was written.
    pub(super) places: Places,
}

/// By table and key.
pub(super) type Places = BTreeMap<(String, String), Place>;

/// Resolves everything.
pub(super) fn resolve(root: Root, cx: &mut Context<'_>) -> Draft {
    let mut places = Places::new();
    let mut note = |table: &str, keys: Vec<(&'static str, Place)>| {
        for (key, place) in keys {
            places.insert((table.to_owned(), key.to_owned()), place);
        }
    };
    note("server", root.server.places());
    if let Some(tls) = root.server.tls.get() {
        note("server tls", tls.places());
    }
    note("admin", root.admin.places());
    note("log", root.log.places());
    for upstream in &root.upstreams {
        note(&format!("upstream {}", upstream.name), upstream.table.places());
        if let Some(tls) = upstream.table.tls.get() {
            note(&format!("upstream {} tls", upstream.name), tls.places());
        }
    }
    let upstreams = root.upstreams.iter().map(|named| upstream(named, cx)).collect::<Vec<_>>();
    if upstreams.is_empty() && !root.upstreams_bad {
        cx.diagnostics.push(no_upstream());
    }
    let (models, routes): (Vec<_>, Vec<_>) = routes::routes(&root, cx).into_iter().unzip();
    for (model, route) in models.iter().zip(&routes) {
        let table = format!("route {}", model.name);
        note(&table, route.raw.places());
        if let Some(reject) = route.raw.reject.get() {
            note(&format!("{table} reject"), reject.places());
        }
    }
    let config = Config {
        server: server(&root.server, cx),
        admin: Admin { listen: *root.admin.listen.value(), control: root.admin.control.value().0 },
        log: Log {
            level: *root.log.level.value(),
            format: *root.log.format.value(),
            access: *root.log.access.value(),
        },
        upstreams,
        routes: models,
    };
    let Root { server, admin, upstreams, .. } = root;
    Draft { config, server, admin, upstreams, routes, places }
}

fn no_upstream() -> Diagnostic {
    let mut diagnostic = Diagnostic::new(Code::NoUpstream, "no upstream is given");
    diagnostic
        .help("say where the application listens:\n[upstream]\nurl = \"http://127.0.0.1:8000\"");
    diagnostic.help("without a file: --upstream URL, or the variable TIDEGATE_UPSTREAM_URL");
    diagnostic
}

fn server(raw: &raw::Server, cx: &mut Context<'_>) -> Server {
    let Time(header_timeout) = *raw.header_timeout.value();
    let Time(idle_timeout) = *raw.idle_timeout.value();
    let Time(drain_delay) = *raw.drain_delay.value();
    let Time(shutdown_grace) = *raw.shutdown_grace.value();
    let Size(max_header_bytes) = *raw.max_header_bytes.value();
    let Int(max_connections) = *raw.max_connections.value();
    let Int(max_streams) = *raw.max_streams.value();
    let List(trusted) = raw.trusted_proxies.value();
    Server {
        listen: raw.listen.value().0.iter().map(|At { value, .. }| value.clone()).collect(),
        workers: raw.workers.value().0.map_or_else(available_workers, |count| count as usize),
        max_connections,
        header_timeout,
        idle_timeout,
        max_streams,
        max_header_bytes: max_header_bytes as usize,
        drain_delay,
        shutdown_grace,
        trusted_proxies: trusted.iter().flat_map(|entry| entry.value.0.iter().copied()).collect(),
        forwarded: *raw.forwarded.value(),
        proxy_protocol: *raw.proxy_protocol.value(),
        watch_config: *raw.watch_config.value(),
        tls: raw.tls.get().and_then(|tls| tls::server(tls, raw.tls.place(), cx)),
    }
}

/// The cores that this process may use, at most four.
fn available_workers() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

fn upstream(named: &Named<raw::Upstream>, cx: &mut Context<'_>) -> Upstream {
    let Named { name, place, table } = named;
    if let Err(trouble) = check_name(name) {
        report(trouble, *place, cx);
    }
    if !table.url.is_written() {
        cx.report(
            Code::MissingKey,
            *place,
            format!("the upstream `{name}` has no `url`"),
            "`url` is missing",
        )
        .help("say where the application listens: url = \"http://127.0.0.1:8000\"");
    }
    let max_in_flight = budget(table);
    let Int(max_connections) = *table.max_connections.value();
    let Time(connect_timeout) = *table.connect_timeout.value();
    let Time(idle_timeout) = *table.idle_timeout.value();
    let Percent(class_floor) = *table.class_floor.value();
    let Time(dns_refresh) = *table.dns_refresh.value();
    let Time(hold) = *table.hold.value();
    let (endpoint, scheme) = match table.url.get() {
        Some(target) => (target.endpoint.clone(), tls::scheme(target, table, cx)),
        None => (Endpoint::Tcp { host: String::new(), port: 0 }, Scheme::Http),
    };
    Upstream {
        name: name.clone(),
        endpoint,
        scheme,
        dns_refresh,
        max_in_flight,
        class_floor,
        enforce: *table.enforce.value(),
        max_connections,
        connect_timeout,
        idle_timeout,
        hold,
    }
}

fn budget(table: &raw::Upstream) -> Budget {
    let (Int(min), Int(max)) = (*table.auto_min.value(), *table.auto_max.value());
    let OrOff(max_latency) = *table.max_upstream_latency.value();
    match *table.max_in_flight.value() {
        RawBudget(Some(slots)) => Budget::Fixed(slots),
        RawBudget(None) => {
            Budget::Auto { min, max, max_latency: max_latency.map(|Time(time)| time) }
        }
    }
}

/// Reports what a pure check found.
fn report(trouble: Trouble, place: Place, cx: &mut Context<'_>) {
    cx.report(trouble.code, place, trouble.message, "").help(trouble.help);
}
