//! The whole file: which tables stand at its top, and how each is read.

use serde_json::{Value as Json, json};
use toml::de::{DeTable, DeValue};

use super::context::{Context, did_you_mean, list_words};
use super::diagnostic::Code;
use super::node::Node;
use super::raw::{self, Admin, Defaults, Log, Reject, Route, Server, Upstream};
use super::source::Place;
use super::table::{Entries, Table, Value};

/// Every table of the file.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub(super) server: Server,
    pub(super) admin: Admin,
    pub(super) log: Log,
    /// In the order of the file. `[upstream]` is called `default`.
    pub(super) upstreams: Vec<Named<Upstream>>,
    /// A table of upstreams was written and cannot be read: their absence says nothing.
    pub(super) upstreams_bad: bool,
    pub(super) reject: Reject,
    pub(super) defaults: Defaults,
    pub(super) routes: Vec<Named<Route>>,
}

/// A table that may stand several times.
#[derive(Clone, Debug)]
pub(super) struct Named<T> {
    /// Empty for a route: its name is a key.
    pub(super) name: String,
    /// Where the table begins.
    pub(super) place: Place,
    pub(super) table: T,
}

/// The tables at the top, in the order of the documentation.
const TABLES: &[&str] =
    &["server", "admin", "log", "upstream", "upstreams", "reject", "defaults", "route"];

/// Reads every table. What is wrong has been reported.
pub(super) fn read(file: &DeTable<'_>, cx: &mut Context<'_>) -> Root {
    check_tables(file, cx);
    let mut upstreams = Vec::new();
    let mut upstreams_bad = false;
    let single = read_upstream(file, &mut upstreams, &mut upstreams_bad, cx);
    read_upstreams(file, &mut upstreams, &mut upstreams_bad, cx);
    if let (Some(single), Some(other)) = (single, upstreams.get(1)) {
        let other = other.place;
        let message = "both `[upstream]` and `[upstreams.NAME]` are given";
        let diagnostic = cx.report(Code::TwoUpstreamForms, single, message, "one application");
        diagnostic.at(other, "several applications");
        if single.is_in_file() {
            diagnostic.help(
                "give this one a name too, `[upstreams.NAME]`, and let routes choose with \
                 `upstream`",
            );
        } else {
            diagnostic.help("variables and flags set `[upstream]` alone: leave this one out");
            upstreams.remove(0);
        }
        upstreams_bad = true;
    }
    Root {
        server: section(file, "server", "[server]", cx),
        admin: section(file, "admin", "[admin]", cx),
        log: section(file, "log", "[log]", cx),
        upstreams,
        upstreams_bad,
        reject: section(file, "reject", "[reject]", cx),
        defaults: section(file, "defaults", "[defaults]", cx),
        routes: read_routes(file, cx),
    }
}

fn check_tables(file: &DeTable<'_>, cx: &mut Context<'_>) {
    for (key, _) in file.iter() {
        let name: &str = key.get_ref();
        if TABLES.contains(&name) {
            continue;
        }
        let help = match name {
            "routes" => "each route is a table of its own: write `[[route]]`".to_owned(),
            _ => match did_you_mean(name, TABLES.iter().copied()) {
                Some(similar) => format!("did you mean `{similar}`?"),
                None => raw::hint_for(name, "the file", &[]).unwrap_or_else(|| {
                    format!("known tables are {}", list_words(TABLES.iter().copied(), "`"))
                }),
            },
        };
        let place = Place::in_file(key.span());
        cx.report(
            Code::UnknownKey,
            place,
            format!("unknown key `{name}` at the top of the file"),
            "unknown key",
        )
        .help(help);
    }
}

/// A table that stands once, or not at all: then variables and defaults speak.
fn section<T: Table>(
    file: &DeTable<'_>,
    name: &'static str,
    title: &str,
    cx: &mut Context<'_>,
) -> T {
    let table = match file.get(name).map(|value| (value.get_ref(), value.span())) {
        Some((DeValue::Table(table), _)) => Some(table),
        Some((_, span)) => {
            let message = format!("`{name}` is a table: its keys stand below `{title}`");
            cx.report(Code::WrongType, Place::in_file(span), message, "expected a table");
            None
        }
        None => None,
    };
    T::read_entries(&Entries { table, section: name, title }, cx)
}

/// Reads `[upstream]`, and says where it was written.
fn read_upstream(
    file: &DeTable<'_>,
    upstreams: &mut Vec<Named<Upstream>>,
    bad: &mut bool,
    cx: &mut Context<'_>,
) -> Option<Place> {
    let written = file.get_key_value("upstream");
    if let Some((key, value)) = written
        && let DeValue::Array(_) = value.get_ref()
    {
        *bad = true;
        cx.report(
            Code::WrongType,
            Place::in_file(key.span()),
            "`upstream` is one table, not a list of tables",
            "expected a table",
        )
        .help("write `[upstream]`, or `[upstreams.NAME]` for each of several");
        return None;
    }
    let place = match written {
        Some((key, _)) => Place::in_file(key.span()),
        None => cx.any_override_of("upstream")?,
    };
    if let Some((_, value)) = written {
        *bad |= !value.get_ref().is_table();
    }
    let table = section(file, "upstream", "[upstream]", cx);
    upstreams.push(Named { name: "default".to_owned(), place, table });
    Some(place)
}

fn read_upstreams(
    file: &DeTable<'_>,
    upstreams: &mut Vec<Named<Upstream>>,
    bad: &mut bool,
    cx: &mut Context<'_>,
) {
    let Some(value) = file.get("upstreams") else {
        return;
    };
    let DeValue::Table(tables) = value.get_ref() else {
        *bad = true;
        cx.report(
            Code::WrongType,
            Place::in_file(value.span()),
            "`upstreams` is a table of tables",
            "expected a table",
        )
        .help("write `[upstreams.NAME]` for each application");
        return;
    };
    let mut named: Vec<_> = tables.iter().collect();
    named.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in named {
        let name: &str = key.get_ref();
        let place = Place::in_file(key.span());
        let title = format!("[upstreams.{name}]");
        let DeValue::Table(table) = value.get_ref() else {
            *bad = true;
            if Upstream::KEYS.contains(&name) {
                cx.report(
                    Code::UnknownKey,
                    place,
                    format!("`{name}` stands in `[upstreams]` itself"),
                    "belongs to one upstream",
                )
                .help("write it below `[upstreams.NAME]`, or use `[upstream]` if there is one");
            } else {
                Node::of_file(name, value, cx).wrong_type::<()>("a table of an upstream", cx);
            }
            continue;
        };
        let entries = Entries { table: Some(table), section: "", title: &title };
        let table = Upstream::read_entries(&entries, cx);
        upstreams.push(Named { name: name.to_owned(), place, table });
    }
}

fn read_routes(file: &DeTable<'_>, cx: &mut Context<'_>) -> Vec<Named<Route>> {
    let mut routes = Vec::new();
    let Some(value) = file.get("route") else {
        return routes;
    };
    let DeValue::Array(list) = value.get_ref() else {
        cx.report(
            Code::WrongType,
            Place::in_file(value.span()),
            "`route` is a list of tables",
            "expected a list",
        )
        .help("write `[[route]]`, with two brackets, for each route");
        return routes;
    };
    for value in list.iter() {
        let place = Place::in_file(value.span());
        match value.get_ref() {
            DeValue::Table(table) => {
                let entries = Entries { table: Some(table), section: "", title: "a route" };
                let table = Route::read_entries(&entries, cx);
                routes.push(Named { name: String::new(), place, table });
            }
            _ => {
                Node::of_file("route", value, cx).wrong_type::<()>("a table", cx);
            }
        }
    }
    routes
}

/// The JSON Schema of the file.
pub(super) fn schema() -> Json {
    let upstream = Upstream::schema();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "tidegate.toml",
        "description": "The configuration of tidegate, a reverse-proxy sidecar.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "server": Server::schema(),
            "admin": Admin::schema(),
            "log": Log::schema(),
            "upstream": upstream,
            "upstreams": {
                "description": "Several applications, each with a budget and a name; each route \
                                says which it goes to with `upstream`. Instead of `[upstream]`.",
                "type": "object",
                "propertyNames": { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
                "additionalProperties": upstream,
            },
            "reject": Reject::schema(),
            "defaults": Defaults::schema(),
            "route": {
                "description": "The routes.",
                "type": "array",
                "items": Route::schema(),
            },
        },
    })
}
