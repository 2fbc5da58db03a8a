//! Who the client is: `X-Forwarded-*` and `Forwarded` (RFC 7239), kept from trusted peers only.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use crate::config::{Cidr, Forwarded};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Fields that applications read like those above, and that tidegate itself does not write.
const RELATED: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

/// Writes the forwarding fields of each request.
#[derive(Clone, Debug)]
pub(super) struct Forwarding {
    mode: Forwarded,
    trusted: Vec<Cidr>,
}

// === impl Forwarding ===

impl Forwarding {
    pub(super) fn new(mode: Forwarded, trusted: &[Cidr]) -> Forwarding {
        Forwarding { mode, trusted: trusted.to_vec() }
    }

    /// Removes what an untrusted peer claims, and says who the peer is.
    pub(super) fn apply(&self, headers: &mut HeaderMap, peer: SocketAddr, host: &HeaderValue) {
        if self.mode == Forwarded::Off {
            return;
        }
        let address = peer.ip().to_canonical();
        if !self.trusts(address) {
            for name in RELATED.iter().chain(&[X_FORWARDED_FOR, X_FORWARDED_PROTO]) {
                headers.remove(name);
            }
            headers.remove(X_FORWARDED_HOST);
            headers.remove(FORWARDED);
        }
        if self.mode != Forwarded::Rfc7239 {
            append_address(headers, address);
            headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
            if !host.is_empty() {
                headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
            }
        }
        if self.mode != Forwarded::XForwarded {
            append_element(headers, address, host);
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|range| contains(*range, address))
    }
}

/// `X-Forwarded-For`: one comma-separated list, the latest hop at its end.
fn append_address(headers: &mut HeaderMap, address: IpAddr) {
    append(headers, X_FORWARDED_FOR, address.to_string().as_bytes());
}

/// RFC 7239, section 4: one element a hop; IPv6 addresses stand in brackets and quotes.
fn append_element(headers: &mut HeaderMap, address: IpAddr, host: &HeaderValue) {
    let mut element = String::with_capacity(64);
    let written = match address {
        IpAddr::V4(address) => write!(element, "for={address}"),
        IpAddr::V6(address) => write!(element, "for=\"[{address}]\""),
    };
    written.expect("writing to a string succeeds");
    if let Ok(host) = host.to_str()
        && !host.is_empty()
    {
        // What the request check lets through as a Host has no quotes and no backslashes.
        write!(element, ";host=\"{host}\"").expect("writing to a string succeeds");
    }
    element.push_str(";proto=http");
    append(headers, FORWARDED, element.as_bytes());
}

/// Joins all lines of a list field and adds one member at the end.
fn append(headers: &mut HeaderMap, name: HeaderName, member: &[u8]) {
    let mut joined = Vec::new();
    for line in headers.get_all(&name) {
        joined.extend_from_slice(line.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(member);
    let value = HeaderValue::from_bytes(&joined).expect("valid values joined by a comma are valid");
    headers.insert(name, value);
}

fn contains(range: Cidr, address: IpAddr) -> bool {
    let (network, address, width) = match (range.network.to_canonical(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let host_bits = width - u32::from(range.prefix).min(width);
    let differing = network ^ address;
    differing.checked_shr(host_bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Cidr = Cidr { network: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), prefix: 8 };

    fn applied(
        mode: Forwarded,
        trusted: &[Cidr],
        peer: &str,
        fields: &[(&str, &str)],
    ) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let host = HeaderValue::from_static("example.org");
        Forwarding::new(mode, trusted).apply(&mut headers, peer.parse().unwrap(), &host);
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn an_untrusted_peer_cannot_speak_for_another() {
        let spoofed = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
        ];
        assert_eq!(
            applied(Forwarded::XForwarded, &[LOOPBACK], "192.0.2.7:1", &spoofed),
            [
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: example.org",
                "x-forwarded-proto: http"
            ]
        );
    }

    #[test]
    fn a_trusted_peer_is_believed_and_added() {
        let fields = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(
            applied(Forwarded::XForwarded, &[LOOPBACK], "127.0.0.1:1", &fields),
            [
                "x-forwarded-for: 1.1.1.1, 2.2.2.2, 127.0.0.1",
                "x-forwarded-host: example.org",
                "x-forwarded-proto: https"
            ]
        );
    }

    #[test]
    fn rfc_7239_quotes_addresses_and_hosts() {
        assert_eq!(
            applied(Forwarded::Rfc7239, &[], "[2001:db8::1]:1", &[("forwarded", "for=x")]),
            ["forwarded: for=\"[2001:db8::1]\";host=\"example.org\";proto=http"]
        );
        assert_eq!(
            applied(Forwarded::Rfc7239, &[LOOPBACK], "127.0.0.1:1", &[("forwarded", "for=x")]),
            ["forwarded: for=x, for=127.0.0.1;host=\"example.org\";proto=http"]
        );
    }

    #[test]
    fn off_touches_nothing() {
        let fields = [("x-forwarded-for", "1.1.1.1")];
        assert_eq!(
            applied(Forwarded::Off, &[], "192.0.2.7:1", &fields),
            ["x-forwarded-for: 1.1.1.1"]
        );
    }

    #[test]
    fn ranges() {
        let range = |network: &str, prefix| Cidr { network: network.parse().unwrap(), prefix };
        let inside = |range, address: &str| contains(range, address.parse().unwrap());
        assert!(inside(range("10.0.0.0", 8), "10.255.0.1"));
        assert!(!inside(range("10.0.0.0", 8), "11.0.0.1"));
        assert!(inside(range("0.0.0.0", 0), "11.0.0.1"));
        assert!(!inside(range("0.0.0.0", 0), "::1"));
        assert!(inside(range("fc00::", 7), "fd12::1"));
        assert!(inside(range("::", 0), "2001:db8::1"));
        assert!(inside(range("192.0.2.1", 32), "192.0.2.1"));
        assert!(!inside(range("192.0.2.1", 32), "192.0.2.0"));
    }
}
