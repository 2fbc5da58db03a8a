//! Routes: names, inheritance from `[defaults]` and `[reject]`, conditions, and the upstream of
//! each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report;
use crate::config::context::{Context, did_you_mean, list_words};
use crate::config::diagnostic::Code;
use crate::config::kinds::{Header, Slots, Text};
use crate::config::matching::{check_method, check_name, check_path, normal_host};
use crate::config::model::{
    AdmissionMode, ClientAbort, FairBy, Match, Order, Paths, Reject, RejectBody, RetryAfter, Route,
    RouteKind, Standing,
};
use crate::config::raw;
use crate::config::root::{Named, Root};
use crate::config::source::Place;
use crate::config::table::{Entries, Field, Table};
use crate::config::values::{At, Int, OrOff, Time};

/// The class of a route on which it has no meaning.
const DEFAULT_CLASS: u8 = 3;

/// A route as written, with what it inherits filled in.
#[derive(Debug)]
pub(in crate::config) struct RouteDraft {
    pub(in crate::config) raw: raw::Route,
    /// Its name, or its table where it has none. Not written: the built-in route.
    pub(in crate::config) place: Place,
    /// The keys that the route itself has, as opposed to those that it inherits.
    pub(in crate::config) own_keys: Vec<&'static str>,
    /// None: it names none that exists, which has been reported.
    pub(in crate::config) upstream: Option<usize>,
    /// Its conditions are wrong, which has been reported.
    pub(in crate::config) match_bad: bool,
}

/// The routes in the order of the file, `default` last.
pub(super) fn routes(root: &Root, cx: &mut Context<'_>) -> Vec<(Route, RouteDraft)> {
    let is_default = |named: &&Named<raw::Route>| {
        named.table.name.get().is_some_and(|Text(name)| name == "default")
    };
    let mut routes = Vec::new();
    for named in root.routes.iter().filter(|named| !is_default(named)) {
        routes.push(route(named, root, cx));
    }
    let mut defaults: Vec<_> = root.routes.iter().filter(is_default).collect();
    let built_in = built_in_route(cx);
    let named = if defaults.is_empty() { &built_in } else { defaults.remove(0) };
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
    let entries = Entries { table: None, section: "", title: "a route" };
    let table = raw::Route::read_entries(&entries, cx);
    Named { name: "default".to_owned(), place: Place::DEFAULT, table }
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
    let place = if named.table.name.is_written() { named.table.name.place() } else { named.place };
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
        order: *raw.order.value(),
        standing_after: *raw.standing_after.value(),
        class: class(&raw),
        class_header: header(&raw.class_header),
        deadline_header: header(&raw.deadline_header),
        fair_by: raw.fair_by.value().clone(),
        enforce: *raw.enforce.value(),
        response_timeout: raw.response_timeout.value().0.map(|Time(time)| time),
        idle_body_timeout: raw
            .idle_body_timeout
            .get()
            .and_then(|OrOff(time)| *time)
            .map(|Time(time)| time),
        tunnel_idle_timeout: raw.tunnel_idle_timeout.value().0.map(|Time(time)| time),
        paths: *raw.paths.value(),
        on_client_abort: *raw.on_client_abort.value(),
        reject: reject(&raw),
    };
    let own_keys = named.table.places().into_iter();
    let own_keys = own_keys.filter(|(_, place)| place.is_written()).map(|(key, _)| key).collect();
    (model, RouteDraft { raw, place, own_keys, upstream, match_bad })
}

fn class(raw: &raw::Route) -> u8 {
    let Int(class) = *raw.class.value();
    class as u8
}

fn header(field: &Field<OrOff<Header>>) -> Option<String> {
    let OrOff(header) = field.value();
    header.as_ref().map(|Header(name)| name.clone())
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
                cx.report(Code::MissingKey, named.place, "a route has no `name`", "this route")
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
    raw.standing_after = route.standing_after.or(&defaults.standing_after);
    raw.class_header = route.class_header.or(&defaults.class_header);
    raw.deadline_header = route.deadline_header.or(&defaults.deadline_header);
    raw.fair_by = route.fair_by.or(&defaults.fair_by);
    raw.response_timeout = route.response_timeout.or(&defaults.response_timeout);
    if kind != RouteKind::Stream {
        raw.idle_body_timeout = route.idle_body_timeout.or(&defaults.idle_body_timeout);
    }
    raw.tunnel_idle_timeout = route.tunnel_idle_timeout.or(&defaults.tunnel_idle_timeout);
    raw.paths = route.paths.or(&defaults.paths);
    raw.on_client_abort = route.on_client_abort.or(&defaults.on_client_abort);
    raw.enforce = route.enforce.or(&defaults.enforce);
    let own = route.reject.get();
    let inherited = raw::RouteReject {
        status: own.map_or(Field::ABSENT, |own| own.status.clone()).or(&root.reject.status),
        body: own.map_or(Field::ABSENT, |own| own.body.clone()).or(&root.reject.body),
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
            diagnostic.help(format!("add upstream = \"NAME\"; the upstreams are {known}"));
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
        cx.report(Code::UnknownUpstream, raw.upstream.place(), message, "").help(help);
    }
    found
}

/// Clears what has no meaning on a route that is not queued, so that nobody acts on it. Comes after
/// the checks, which need to see it.
pub(in crate::config) fn clear_meaningless(route: &mut Route) {
    if route.admission == AdmissionMode::Queue {
        return;
    }
    route.kind = RouteKind::Request;
    route.max_in_flight = None;
    route.reserved = 0;
    route.max_queue = 0;
    route.max_wait = Duration::ZERO;
    route.order = Order::Fifo;
    route.standing_after = Standing::Off;
    route.class = DEFAULT_CLASS;
    route.class_header = None;
    route.deadline_header = None;
    route.fair_by = FairBy::None;
    route.enforce = true;
    if route.admission == AdmissionMode::Deny {
        route.response_timeout = None;
        route.idle_body_timeout = None;
        route.tunnel_idle_timeout = None;
        route.paths = Paths::Any;
        route.on_client_abort = ClientAbort::Cancel;
        route.reject =
            Reject { status: 503, body: RejectBody::ProblemJson, retry_after: RetryAfter::Auto };
    }
}

// === conditions ===

/// The conditions, and whether anything is wrong with them.
fn conditions(field: &Field<raw::Match>, name: &str, cx: &mut Context<'_>) -> (Match, bool) {
    let mut matches =
        Match { path: "/".to_owned(), exact: false, methods: Vec::new(), hosts: Vec::new() };
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
    for At { value: Text(method), place } in &raw.methods.value().0 {
        match check_method(method) {
            Ok(()) => matches.methods.push(method.clone()),
            Err(trouble) => report(trouble, *place, cx),
        }
    }
    for At { value: Text(host), place } in &raw.hosts.value().0 {
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
