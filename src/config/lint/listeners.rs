//! Checks of listeners: against each other, and against the applications.

use std::net::SocketAddr;

use crate::config::context::Context;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Endpoint, Listen, Upstream};
use crate::config::resolve::Draft;
use crate::config::source::Place;
use crate::config::values::At;

/// Looks at every address of `listen`.
pub(super) fn check(draft: &Draft, cx: &mut Context<'_>) {
    let server = &draft.server.listen;
    if server.is_bad() {
        return;
    }
    let listen = &server.value().0;
    if listen.is_empty() {
        cx.report(Code::OutOfRange, server.place(), "`listen` is empty", "no address")
            .help("give at least one address: listen = [\"0.0.0.0:8080\"]");
    }
    for (index, At { value, place }) in listen.iter().enumerate() {
        if let Some(first) = listen[..index].iter().find(|other| same(&other.value, value)) {
            cx.report(
                Code::AddressConflict,
                *place,
                format!("{value} cannot be bound beside {}", first.value),
                "again here",
            )
            .at(first.place, "first here")
            .help("remove one of them");
        }
        if let Listen::Tcp(address) = value {
            beside_admin(draft, *address, *place, cx);
        }
        loops(draft, value, cx);
    }
    never_trusted(draft, cx);
}

/// The admin listener needs a port of its own.
fn beside_admin(draft: &Draft, address: SocketAddr, place: Place, cx: &mut Context<'_>) {
    let admin = &draft.admin.listen;
    if admin.is_bad() || !conflict(address, *admin.value()) {
        return;
    }
    let mut diagnostic = Diagnostic::new(
        Code::AddressConflict,
        format!("clients and the admin listener share port {}", address.port()),
    );
    diagnostic
        .at(place, "clients")
        .at(admin.place(), "metrics and health")
        .help("give the admin listener a port of its own, such as 9909");
    cx.diagnostics.push(diagnostic);
}

/// A header of the PROXY protocol that nobody is trusted to send.
fn never_trusted(draft: &Draft, cx: &mut Context<'_>) {
    let (protocol, trusted) = (&draft.server.proxy_protocol, &draft.server.trusted_proxies);
    if protocol.is_bad() || trusted.is_bad() {
        return;
    }
    if draft.config.server.proxy_protocol && draft.config.server.trusted_proxies.is_empty() {
        let message = "`proxy_protocol` has no effect: nobody is trusted to send its header";
        cx.report(Code::NeverTrusted, protocol.place(), message, "headers are answered with 400")
            .at(trusted.place(), "trusts nobody")
            .help("name the proxies: trusted_proxies = [\"10.0.0.0/8\"]; or remove it");
    }
}

/// Whether the system would refuse to bind both.
fn same(a: &Listen, b: &Listen) -> bool {
    match (a, b) {
        (Listen::Tcp(a), Listen::Tcp(b)) => conflict(*a, *b),
        (Listen::Unix(a), Listen::Unix(b)) => a == b,
        (Listen::Tcp(_), Listen::Unix(_)) | (Listen::Unix(_), Listen::Tcp(_)) => false,
    }
}

/// Whether the system would refuse to bind both.
fn conflict(a: SocketAddr, b: SocketAddr) -> bool {
    let overlaps = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() != 0 && a.port() == b.port() && overlaps
}

/// An upstream that is the listener itself.
fn loops(draft: &Draft, listen: &Listen, cx: &mut Context<'_>) {
    for (raw, model) in draft.upstreams.iter().zip(&draft.config.upstreams) {
        if leads_to(model, listen) {
            cx.report(
                Code::ForwardingLoop,
                raw.table.url.place(),
                format!(
                    "the upstream `{}` is tidegate itself, which listens on {listen}",
                    raw.name
                ),
                "would forward to itself",
            )
            .help("let the application listen on another port, and write that one");
        }
    }
}

fn leads_to(upstream: &Upstream, listen: &Listen) -> bool {
    match (&upstream.endpoint, listen) {
        (Endpoint::Unix(path), Listen::Unix(listen)) => path == listen,
        (Endpoint::Tcp { host, port }, Listen::Tcp(listen)) => {
            *port == listen.port() && reaches(host, *listen)
        }
        (Endpoint::Unix(_), Listen::Tcp(_)) | (Endpoint::Tcp { .. }, Listen::Unix(_)) => false,
    }
}

fn reaches(host: &str, listen: SocketAddr) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) => {
            // An unspecified IPv6 listener accepts IPv4 too.
            let reaches = listen.is_ipv6() || ip.is_ipv4();
            ip == listen.ip() || (ip.is_loopback() && listen.ip().is_unspecified() && reaches)
        }
        Err(_) => {
            let open = listen.ip().is_unspecified() || listen.ip().is_loopback();
            host.eq_ignore_ascii_case("localhost") && open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    fn codes(listen: &str, upstream: &str) -> Vec<&'static str> {
        let text = format!(
            "[server]\nlisten = {listen}\n[upstream]\nurl = \"{upstream}\"\n\
             max_in_flight = 8\n"
        );
        match config::parse("t", &text, &[], &Overrides::default()) {
            Ok(_) => Vec::new(),
            Err(report) => report.diagnostics().iter().map(|d| d.code().name()).collect(),
        }
    }

    #[test]
    fn addresses_that_the_system_would_refuse_conflict() {
        let conflict = |a: &str, b: &str| conflict(a.parse().unwrap(), b.parse().unwrap());
        assert!(conflict("0.0.0.0:80", "127.0.0.1:80"));
        assert!(conflict("[::1]:80", "[::]:80"));
        assert!(conflict("10.0.0.1:80", "10.0.0.1:80"));
        assert!(!conflict("0.0.0.0:80", "0.0.0.0:81"));
        assert!(!conflict("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!conflict("0.0.0.0:80", "[::]:80"));
        assert!(!conflict("0.0.0.0:0", "0.0.0.0:0"), "the system chooses two ports");
    }

    #[test]
    fn an_upstream_that_is_the_listener_is_found() {
        let (loops, fine) = (vec!["forwarding-loop"], Vec::<&str>::new());
        assert_eq!(codes("\"0.0.0.0:80\"", "http://127.0.0.1:80"), loops);
        assert_eq!(codes("\"0.0.0.0:80\"", "http://localhost"), loops);
        assert_eq!(codes("\"[::]:80\"", "http://127.0.0.1"), loops);
        assert_eq!(codes("\"10.0.0.1:80\"", "http://10.0.0.1"), loops);
        assert_eq!(codes("\"0.0.0.0:80\"", "http://127.0.0.1:81"), fine);
        assert_eq!(codes("\"0.0.0.0:80\"", "http://[::1]:80"), fine);
        assert_eq!(codes("\"0.0.0.0:80\"", "http://app:80"), fine);
        assert_eq!(codes("\"unix:/run/t\"", "unix:/run/t"), loops);
        assert_eq!(codes("\"unix:/run/t\"", "unix:/run/app"), fine);
        assert_eq!(codes("[\"unix:/run/t\", \"unix:/run/t\"]", "http://a"), ["address-conflict"]);
    }
}
