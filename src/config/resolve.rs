//! Raw tables become the resolved configuration: inheritance, names turned into indices, defaults that
//! depend on the machine. What is wrong is reported and replaced by a default, so that one pass finds all.
//!
//! `lint` then judges the values together.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::context::{Context, did_you_mean, list_words};
use super::diagnostic::Code;
use super::matching::{check_method, check_name, check_path, normal_host};
use super::model::{
    Admin, AdmissionMode, ClientAbort, Config, Log, Match, Reject, RejectBody, RetryAfter, Route,
    RouteKind, Server, Upstream,
};
use super::raw::{self, Slots, Text};
use super::root::{Named, Root};
use super::source::Place;
use super::table::{Field, Table};
use super::values::{At, Int, List, OrOff, Size, Time, Trouble};

/// The budget where none is set.
pub(super) const ASSUMED_SLOTS: u32 = 16;

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

/// A route as written, with what it inherits filled in.
#[derive(Debug)]
pub(super) struct RouteDraft {
    pub(super) raw: raw::Route,
    /// Its name, or its table where it has none. Not written: the built-in route.
    pub(super) place: Place,
    /// The keys that the route itself has, as opposed to those that it inherits.
    pub(super) own_keys: Vec<&'static str>,
    /// None: it names none that exists, which has been reported.
    pub(super) upstream: Option<usize>,
    /// Its conditions are wrong, which has been reported.
    pub(super) match_bad: bool,
}

/// Resolves everything.
pub(super) fn resolve(root: Root, cx: &mut Context<'_>) -> Draft {
    let mut places = Places::new();
    let mut note = |table: &str, keys: Vec<(&'static str, Place)>| {
        for (key, place) in keys {
            places.insert((table.to_owned(), key.to_owned()), place);
        }
    };
    note("server", root.server.places());
    note("admin", root.admin.places());
    note("log", root.log.places());
    for upstream in &root.upstreams {
        note(
            &format!("upstream {}", upstream.name),
            upstream.table.places(),
        );
    }
    let upstreams = root
        .upstreams
        .iter()
        .map(|named| upstream(named, cx))
        .collect::<Vec<_>>();
    if upstreams.is_empty() && !root.upstreams_bad {
        cx.diagnostics.push(no_upstream());
    }
    let (models, routes): (Vec<_>, Vec<_>) = routes(&root, cx).into_iter().unzip();
    for (model, route) in models.iter().zip(&routes) {
        let table = format!("route {}", model.name);
        note(&table, route.raw.places());
        if let Some(reject) = route.raw.reject.get() {
            note(&format!("{table} reject"), reject.places());
        }
    }
    let config = Config {
        server: server(&root.server),
        admin: Admin {
            listen: *root.admin.listen.value(),
        },
        log: Log {
            level: *root.log.level.value(),
            format: *root.log.format.value(),
            access: *root.log.access.value(),
        },
        upstreams,
        routes: models,
    };
    let Root {
        server,
        admin,
        upstreams,
        ..
    } = root;
    Draft {
        config,
        server,
        admin,
        upstreams,
        routes,
        places,
    }
}

fn no_upstream() -> super::Diagnostic {
    let mut diagnostic = super::Diagnostic::new(Code::NoUpstream, "no upstream is given");
    diagnostic
        .help("say where the application listens:\n[upstream]\nurl = \"http://127.0.0.1:8000\"");
    diagnostic
}

fn server(raw: &raw::Server) -> Server {
    let Time(header_timeout) = *raw.header_timeout.value();
    let Time(idle_timeout) = *raw.idle_timeout.value();
    let Time(drain_delay) = *raw.drain_delay.value();
    let Time(shutdown_grace) = *raw.shutdown_grace.value();
    let Size(max_header_bytes) = *raw.max_header_bytes.value();
    let Int(max_connections) = *raw.max_connections.value();
    let List(trusted) = raw.trusted_proxies.value();
    Server {
        listen: raw
            .listen
            .value()
            .0
            .iter()
            .map(|At { value, .. }| *value)
            .collect(),
        workers: raw
            .workers
            .value()
            .0
            .map_or_else(available_workers, |count| count as usize),
        max_connections,
        header_timeout,
        idle_timeout,
        max_header_bytes: max_header_bytes as usize,
        drain_delay,
        shutdown_grace,
        trusted_proxies: trusted
            .iter()
            .flat_map(|entry| entry.value.0.iter().copied())
            .collect(),
        forwarded: *raw.forwarded.value(),
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
    if !table.max_in_flight.is_written() {
        let message = format!("`max_in_flight` is not set: {ASSUMED_SLOTS} is assumed");
        let how = if place.is_in_file() {
            "set it"
        } else {
            "set it with --max-in-flight"
        };
        let help = "to the number of requests that the application works on in parallel";
        cx.report(
            Code::SlotsAssumed,
            *place,
            message,
            "`max_in_flight` is missing",
        )
        .help(format!("{how} {help}"));
    }
    let Int(max_connections) = *table.max_connections.value();
    let Time(connect_timeout) = *table.connect_timeout.value();
    let Time(idle_timeout) = *table.idle_timeout.value();
    let (host, port) = match table.url.get() {
        Some(target) => (target.host.clone(), target.port),
        None => (String::new(), 0),
    };
    Upstream {
        name: name.clone(),
        host,
        port,
        max_in_flight: table
            .max_in_flight
            .get()
            .map_or(ASSUMED_SLOTS, |Slots(slots)| *slots),
        max_connections,
        connect_timeout,
        idle_timeout,
    }
}

// === routes ===

/// The routes in the order of the file, `default` last.
fn routes(root: &Root, cx: &mut Context<'_>) -> Vec<(Route, RouteDraft)> {
    let is_default = |named: &&Named<raw::Route>| {
        named
            .table
            .name
            .get()
            .is_some_and(|Text(name)| name == "default")
    };
    let mut routes = Vec::new();
    for named in root.routes.iter().filter(|named| !is_default(named)) {
        routes.push(route(named, root, cx));
    }
    let mut defaults: Vec<_> = root.routes.iter().filter(is_default).collect();
    let built_in = built_in_route(cx);
    let named = if defaults.is_empty() {
        &built_in
    } else {
        defaults.remove(0)
    };
    // A second one is reported as a duplicate below; it is looked at for its own errors.
    for named in defaults {
        routes.push(route(named, root, cx));
    }
    routes.push(route(named, root, cx));
    check_duplicates(&root.routes, cx);
    routes
}

/// `default`, as if it were written without any key.
fn built_in_route(cx: &mut Context<'_>) -> Named<raw::Route> {
    let entries = super::table::Entries {
        table: None,
        section: "",
        title: "a route",
    };
    let table = raw::Route::read_entries(&entries, cx);
    Named {
        name: "default".to_owned(),
        place: Place::DEFAULT,
        table,
    }
}

fn check_duplicates(routes: &[Named<raw::Route>], cx: &mut Context<'_>) {
    let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
    for named in routes {
        let Some(Text(name)) = named.table.name.get() else {
            continue;
        };
        let place = named.table.name.place();
        match seen.get(name.as_str()) {
            None => {
                seen.insert(name, place);
            }
            Some(first) => {
                cx.report(
                    Code::DuplicateRoute,
                    place,
                    format!("two routes are called `{name}`"),
                    "again here",
                )
                .at(*first, "first here")
                .help("give each route a name of its own: it is its label in the metrics");
            }
        }
    }
}

fn route(named: &Named<raw::Route>, root: &Root, cx: &mut Context<'_>) -> (Route, RouteDraft) {
    let place = if named.table.name.is_written() {
        named.table.name.place()
    } else {
        named.place
    };
    let name = route_name(named, cx);
    let kind = *named.table.kind.value();
    let raw = inherit(&named.table, root, kind);
    let (matches, match_bad) = conditions(&raw.matches, &name, cx);
    let upstream = choose_upstream(&raw, &name, place, root, cx);
    let model = Route {
        name,
        matches,
        upstream: upstream.unwrap_or(0),
        admission: *raw.admission.value(),
        kind,
        max_in_flight: raw.max_in_flight.get().map(|Slots(slots)| *slots),
        reserved: raw.reserved.value().0,
        max_queue: raw.max_queue.value().0,
        max_wait: raw.max_wait.value().0,
        response_timeout: raw.response_timeout.value().0.map(|Time(time)| time),
        idle_body_timeout: raw
            .idle_body_timeout
            .get()
            .and_then(|OrOff(time)| *time)
            .map(|Time(time)| time),
        on_client_abort: *raw.on_client_abort.value(),
        reject: reject(&raw),
    };
    let own_keys = named.table.places().into_iter();
    let own_keys = own_keys
        .filter(|(_, place)| place.is_written())
        .map(|(key, _)| key)
        .collect();
    (
        model,
        RouteDraft {
            raw,
            place,
            own_keys,
            upstream,
            match_bad,
        },
    )
}

fn route_name(named: &Named<raw::Route>, cx: &mut Context<'_>) -> String {
    match named.table.name.get() {
        Some(Text(name)) => {
            if let Err(trouble) = check_name(name) {
                report(trouble, named.table.name.place(), cx);
            }
            name.clone()
        }
        None => {
            if named.place.is_written() && !named.table.name.is_bad() {
                cx.report(
                    Code::MissingKey,
                    named.place,
                    "a route has no `name`",
                    "this route",
                )
                .help("give it one: name = \"api\"; it becomes its label in the metrics");
            }
            named.name.clone()
        }
    }
}

/// Fills in what the route inherits from `[defaults]` and `[reject]`.
fn inherit(route: &raw::Route, root: &Root, kind: RouteKind) -> raw::Route {
    let defaults = &root.defaults;
    let mut raw = route.clone();
    raw.max_queue = route.max_queue.or(&defaults.max_queue);
    raw.max_wait = route.max_wait.or(&defaults.max_wait);
    raw.order = route.order.or(&defaults.order);
    raw.response_timeout = route.response_timeout.or(&defaults.response_timeout);
    if kind != RouteKind::Stream {
        raw.idle_body_timeout = route.idle_body_timeout.or(&defaults.idle_body_timeout);
    }
    raw.on_client_abort = route.on_client_abort.or(&defaults.on_client_abort);
    raw.enforce = route.enforce.or(&defaults.enforce);
    let own = route.reject.get();
    let inherited = raw::RouteReject {
        status: own
            .map_or(Field::ABSENT, |own| own.status.clone())
            .or(&root.reject.status),
        body: own
            .map_or(Field::ABSENT, |own| own.body.clone())
            .or(&root.reject.body),
        retry_after: own
            .map_or(Field::ABSENT, |own| own.retry_after.clone())
            .or(&root.reject.retry_after),
    };
    raw.reject = route.reject.with(inherited);
    raw
}

fn reject(raw: &raw::Route) -> Reject {
    let reject = raw.reject.value();
    Reject {
        status: reject.status.value().0,
        body: *reject.body.value(),
        retry_after: *reject.retry_after.value(),
    }
}

/// The upstream that the route goes to.
fn choose_upstream(
    raw: &raw::Route,
    name: &str,
    place: Place,
    root: &Root,
    cx: &mut Context<'_>,
) -> Option<usize> {
    if root.upstreams.is_empty() || raw.upstream.is_bad() {
        return None;
    }
    let names = || root.upstreams.iter().map(|upstream| upstream.name.as_str());
    let Some(Text(wanted)) = raw.upstream.get() else {
        if root.upstreams.len() == 1 || *raw.admission.value() == AdmissionMode::Deny {
            return Some(0);
        }
        if root.upstreams_bad {
            return None;
        }
        let known = list_words(names(), "`");
        let message = format!("there are several upstreams, and the route `{name}` names none");
        let diagnostic = cx.report(Code::UpstreamNotChosen, place, message, "which upstream?");
        if place.is_written() {
            diagnostic.help(format!(
                "add upstream = \"NAME\"; the upstreams are {known}"
            ));
        } else {
            diagnostic.help(format!(
                "it takes the requests that no other route takes; choose one of {known}:\n\
                 [[route]]\nname = \"default\"\nupstream = \"{}\"\n\
                 or answer them with 404: admission = \"deny\"",
                root.upstreams[0].name
            ));
        }
        return None;
    };
    let found = names().position(|known| known == wanted);
    if found.is_none() && !root.upstreams_bad {
        let help = match did_you_mean(wanted, names()) {
            Some(similar) => format!("did you mean \"{similar}\"?"),
            None => format!("the upstreams are {}", list_words(names(), "`")),
        };
        let message = format!("there is no upstream `{wanted}`");
        cx.report(Code::UnknownUpstream, raw.upstream.place(), message, "")
            .help(help);
    }
    found
}

/// Clears what has no meaning on a route that is not queued, so that nobody acts on it. Comes after the
/// checks, which need to see it.
pub(super) fn clear_meaningless(route: &mut Route) {
    if route.admission == AdmissionMode::Queue {
        return;
    }
    route.kind = RouteKind::Request;
    route.max_in_flight = None;
    route.reserved = 0;
    route.max_queue = 0;
    route.max_wait = Duration::ZERO;
    if route.admission == AdmissionMode::Deny {
        route.response_timeout = None;
        route.idle_body_timeout = None;
        route.on_client_abort = ClientAbort::Cancel;
        route.reject = Reject {
            status: 503,
            body: RejectBody::ProblemJson,
            retry_after: RetryAfter::Auto,
        };
    }
}

// === conditions ===

/// The conditions, and whether anything is wrong with them.
fn conditions(field: &Field<raw::Match>, name: &str, cx: &mut Context<'_>) -> (Match, bool) {
    let mut matches = Match {
        path: "/".to_owned(),
        exact: false,
        methods: Vec::new(),
        hosts: Vec::new(),
    };
    let Some(raw) = field.get() else {
        return (matches, field.is_bad());
    };
    let before = cx.diagnostics.len();
    let Text(path) = raw.path.value();
    match check_path(path) {
        Ok(()) => matches.path.clone_from(path),
        Err(trouble) => report(trouble, raw.path.place(), cx),
    }
    matches.exact = *raw.exact.value();
    for At {
        value: Text(method),
        place,
    } in &raw.methods.value().0
    {
        match check_method(method) {
            Ok(()) => matches.methods.push(method.clone()),
            Err(trouble) => report(trouble, *place, cx),
        }
    }
    for At {
        value: Text(host),
        place,
    } in &raw.hosts.value().0
    {
        match normal_host(host) {
            Ok(host) => matches.hosts.push(host),
            Err(trouble) => report(trouble, *place, cx),
        }
    }
    let bad = cx.diagnostics.len() > before
        || raw.path.is_bad()
        || raw.exact.is_bad()
        || raw.methods.is_bad()
        || raw.hosts.is_bad();
    let everything = matches.path == "/"
        && !matches.exact
        && matches.methods.is_empty()
        && matches.hosts.is_empty();
    if name == "default" && !bad && !everything {
        cx.report(
            Code::DefaultWithMatch,
            field.place(),
            "the route `default` takes whatever no other route takes: it has no conditions",
            "conditions",
        )
        .help("remove `match`, or give the route another name");
    }
    (matches, bad)
}

fn report(trouble: Trouble, place: Place, cx: &mut Context<'_>) {
    cx.report(trouble.code, place, trouble.message, "")
        .help(trouble.help);
}
