//! The configuration as it runs, written as a file again, with the origin of each value beside it.

mod tls;

use std::time::Duration;

use super::model::{
    AccessLog, AdmissionMode, Budget, ClientAbort, FairBy, Forwarded, LogFormat, LogLevel, Match,
    Order, Paths, RejectBody, RetryAfter, Route, RouteKind, Standing,
};
use super::units::{format_duration, format_size};
use super::words::word_of;
use super::{Loaded, Origin};

/// A table of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// As it stands in the file: `[server]`, `[[route]]`.
    pub header: String,
    /// Its keys, in the order of the documentation.
    pub entries: Vec<Entry>,
}

/// A key of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: &'static str,
    /// Its value as TOML.
    pub value: String,
    /// Where the value came from.
    pub origin: Origin,
}

/// Collects the entries of one table.
struct Table<'a> {
    loaded: &'a Loaded,
    /// The name under which origins are kept.
    name: String,
    section: Section,
}

impl Loaded {
    /// Every table, with defaults and inheritance applied. Keys with one possible value are left
    /// out.
    pub fn effective(&self) -> Vec<Section> {
        let mut sections = vec![self.server()];
        sections.extend(self.server_tls());
        sections.extend([self.admin(), self.log()]);
        for index in 0..self.config.upstreams.len() {
            sections.push(self.effective_upstream(index));
            sections.extend(self.effective_upstream_tls(index));
        }
        let routes = 0..self.config.routes.len();
        sections.extend(routes.map(|index| self.effective_route(index)));
        sections
    }

    /// [`effective`](Self::effective) as a TOML file that reads back as the same configuration.
    pub fn effective_toml(&self) -> String {
        let sections = self.effective();
        sections.iter().map(Section::to_toml).collect::<Vec<_>>().join("\n")
    }

    fn server(&self) -> Section {
        let server = &self.config.server;
        let listen: Vec<_> = server.listen.iter().map(ToString::to_string).collect();
        let trusted: Vec<_> = server
            .trusted_proxies
            .iter()
            .map(|cidr| format!("{}/{}", cidr.network, cidr.prefix))
            .collect();
        Table::new(self, "server", "[server]")
            .key("listen", strings(&listen))
            .key("workers", server.workers.to_string())
            .key("max_connections", server.max_connections.to_string())
            .key("header_timeout", quoted(&format_duration(server.header_timeout)))
            .key("idle_timeout", quoted(&format_duration(server.idle_timeout)))
            .key("max_streams", server.max_streams.to_string())
            .key("max_header_bytes", quoted(&format_size(server.max_header_bytes as u64)))
            .key("drain_delay", quoted(&format_duration(server.drain_delay)))
            .key("shutdown_grace", quoted(&format_duration(server.shutdown_grace)))
            .key("trusted_proxies", strings(&trusted))
            .key("forwarded", quoted(word_of(Forwarded::WORDS, &server.forwarded)))
            .key("proxy_protocol", server.proxy_protocol.to_string())
            .key("watch_config", server.watch_config.to_string())
            .section
    }

    fn admin(&self) -> Section {
        let listen = quoted(&self.config.admin.listen.to_string());
        let control = if self.config.admin.control { "loopback" } else { "off" };
        Table::new(self, "admin", "[admin]")
            .key("listen", listen)
            .key("control", quoted(control))
            .section
    }

    fn log(&self) -> Section {
        let log = &self.config.log;
        Table::new(self, "log", "[log]")
            .key("level", quoted(word_of(LogLevel::WORDS, &log.level)))
            .key("format", quoted(word_of(LogFormat::WORDS, &log.format)))
            .key("access", quoted(word_of(AccessLog::WORDS, &log.access)))
            .section
    }

    /// The table of one upstream.
    pub fn effective_upstream(&self, index: usize) -> Section {
        let upstream = &self.config.upstreams[index];
        let header = format!("[{}]", self.upstream_title(index));
        let table = Table::new(self, &format!("upstream {}", upstream.name), &header)
            .key("url", quoted(&upstream.url()));
        budget_keys(table, upstream.max_in_flight)
            .key("class_floor", quoted(&format!("{}%", upstream.class_floor)))
            .key("enforce", upstream.enforce.to_string())
            .key("max_connections", upstream.max_connections.to_string())
            .key("connect_timeout", quoted(&format_duration(upstream.connect_timeout)))
            .key("dns_refresh", quoted(&format_duration(upstream.dns_refresh)))
            .key("idle_timeout", quoted(&format_duration(upstream.idle_timeout)))
            .key("hold", quoted(&format_duration(upstream.hold)))
            .section
    }

    /// `upstream`, or `upstreams.NAME`.
    fn upstream_title(&self, index: usize) -> String {
        let upstream = &self.config.upstreams[index];
        let alone = self.config.upstreams.len() == 1 && upstream.name == "default";
        if alone { "upstream".to_owned() } else { format!("upstreams.{}", upstream.name) }
    }

    /// The table of one route, with what it inherits. Keys without meaning on such a route are left
    /// out.
    pub fn effective_route(&self, index: usize) -> Section {
        let route = &self.config.routes[index];
        let upstream = &self.config.upstreams[route.upstream];
        let table = Table::new(self, &format!("route {}", route.name), "[[route]]")
            .key("name", quoted(&route.name))
            .key("match", conditions(&route.matches))
            .key("upstream", quoted(&upstream.name))
            .key("admission", quoted(word_of(AdmissionMode::WORDS, &route.admission)));
        let table = match route.admission {
            AdmissionMode::Queue => queue_keys(table, route),
            AdmissionMode::Exempt => table,
            AdmissionMode::Deny => return table.section,
        };
        table
            .key("response_timeout", time_or_off(route.response_timeout))
            .key("idle_body_timeout", time_or_off(route.idle_body_timeout))
            .key("tunnel_idle_timeout", time_or_off(route.tunnel_idle_timeout))
            .key("paths", quoted(word_of(Paths::WORDS, &route.paths)))
            .key("on_client_abort", quoted(word_of(ClientAbort::WORDS, &route.on_client_abort)))
            .reject(route)
            .section
    }
}

fn budget_keys<'a>(table: Table<'a>, budget: Budget) -> Table<'a> {
    match budget {
        Budget::Fixed(slots) => table.key("max_in_flight", slots.to_string()),
        Budget::Auto { min, max, max_latency } => table
            .key("max_in_flight", quoted("auto"))
            .key("auto_min", min.to_string())
            .key("auto_max", max.to_string())
            .key("max_upstream_latency", time_or_off(max_latency)),
    }
}

fn queue_keys<'a>(table: Table<'a>, route: &Route) -> Table<'a> {
    let mut table = table.key("kind", quoted(word_of(RouteKind::WORDS, &route.kind)));
    if let Some(cap) = route.max_in_flight {
        table = table.key("max_in_flight", cap.to_string());
    }
    if route.kind == RouteKind::Request {
        table = table.key("reserved", route.reserved.to_string());
    }
    table
        .key("max_queue", route.max_queue.to_string())
        .key("max_wait", quoted(&format_duration(route.max_wait)))
        .key("order", quoted(word_of(Order::WORDS, &route.order)))
        .key("standing_after", standing(route.standing_after))
        .key("class", route.class.to_string())
        .key("class_header", text_or_off(route.class_header.as_deref()))
        .key("deadline_header", text_or_off(route.deadline_header.as_deref()))
        .key("fair_by", fair_by(&route.fair_by))
        .key("enforce", route.enforce.to_string())
}

// === impl Table ===

impl<'a> Table<'a> {
    fn new(loaded: &'a Loaded, name: &str, header: &str) -> Self {
        let section = Section { header: header.to_owned(), entries: Vec::new() };
        Self { loaded, name: name.to_owned(), section }
    }

    fn key(mut self, key: &'static str, value: String) -> Self {
        let origin = self.loaded.origins.of(&self.name, key);
        self.section.entries.push(Entry { key, value, origin });
        self
    }

    /// `reject = { ... }` as dotted keys, since each has an origin of its own.
    fn reject(mut self, route: &Route) -> Self {
        let retry_after = match route.reject.retry_after {
            RetryAfter::Auto => "auto".to_owned(),
            RetryAfter::Off => "off".to_owned(),
            RetryAfter::Fixed(seconds) => format!("{seconds}s"),
        };
        let entries = [
            ("reject.status", "status", route.reject.status.to_string()),
            ("reject.body", "body", quoted(word_of(RejectBody::WORDS, &route.reject.body))),
            ("reject.retry_after", "retry_after", quoted(&retry_after)),
        ];
        for (key, short, value) in entries {
            let origin = self.loaded.origins.of(&format!("{} reject", self.name), short);
            self.section.entries.push(Entry { key, value, origin });
        }
        self
    }
}

// === impl Section ===

impl Section {
    /// The table as TOML, the origin of each value in a comment.
    pub fn to_toml(&self) -> String {
        let lines: Vec<_> = self
            .entries
            .iter()
            .map(|entry| (format!("{} = {}", entry.key, entry.value), &entry.origin))
            .collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(60);
        let mut out = format!("{}\n", self.header);
        for (line, origin) in lines {
            out.push_str(&format!("{line:width$}  # {origin}\n"));
        }
        out
    }
}

// === values as TOML ===

/// A basic string; a dollar sign is doubled, so that it is not expanded when it is read back.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '$' => out.push_str("$$"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn strings(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
}

fn time_or_off(time: Option<Duration>) -> String {
    quoted(&time.map_or("off".to_owned(), format_duration))
}

fn text_or_off(text: Option<&str>) -> String {
    quoted(text.unwrap_or("off"))
}

fn standing(standing: Standing) -> String {
    match standing {
        Standing::Auto => quoted("auto"),
        Standing::After(time) => quoted(&format_duration(time)),
        Standing::Off => quoted("off"),
    }
}

fn fair_by(fair_by: &FairBy) -> String {
    match fair_by {
        FairBy::None => quoted("none"),
        FairBy::Client => quoted("client"),
        FairBy::Header(name) => quoted(&format!("header:{name}")),
    }
}

fn conditions(matches: &Match) -> String {
    let mut parts = vec![format!("path = {}", quoted(&matches.path))];
    if matches.exact {
        parts.push("exact = true".to_owned());
    }
    if !matches.methods.is_empty() {
        parts.push(format!("methods = {}", strings(&matches.methods)));
    }
    if !matches.hosts.is_empty() {
        parts.push(format!("hosts = {}", strings(&matches.hosts)));
    }
    format!("{{ {} }}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    #[test]
    fn the_effective_file_reads_back_as_the_same_configuration() {
        let text = r#"
            [upstreams.a]
            url = "http://[::1]:8000"
            max_in_flight = 8
            [upstreams.b]
            url = "http://b"
            auto_min = 3
            max_upstream_latency = "2s"
            class_floor = "0%"
            enforce = false
            [[route]]
            name = "default"
            upstream = "a"
            [[route]]
            name = "odd"
            match = { path = "/$$x", exact = true, methods = ["GET"], hosts = ["*.a.b", "::1"] }
            upstream = "b"
            reserved = 1
            max_wait = "1500us"
            order = "lifo"
            standing_after = "9s"
            class = 7
            class_header = "X-Class"
            deadline_header = "x-deadline"
            fair_by = "header:X-Tenant"
            enforce = false
            idle_body_timeout = "off"
            reject = { status = 429, retry_after = "7s" }
            [[route]]
            name = "events"
            match = { path = "/events" }
            upstream = "a"
            kind = "stream"
            max_in_flight = 9
            [[route]]
            name = "health"
            match = { path = "/healthz" }
            upstream = "a"
            admission = "exempt"
            [[route]]
            name = "no"
            match = { path = "/no" }
            admission = "deny"
        "#;
        let load = |text: &str| match config::parse("t", text, &[], &Overrides::default()) {
            Ok(loaded) => loaded,
            Err(report) => panic!("{report}"),
        };
        let first = load(text);
        let second = load(&first.effective_toml());
        assert_eq!(first.config, second.config, "{}", first.effective_toml());
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quoted("a\"b\\c$d\n"), r#""a\"b\\c$$d\u000A""#);
    }
}
