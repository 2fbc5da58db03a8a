//! Who the client is: `X-Forwarded-*` and `Forwarded` (RFC 7239), kept from trusted peers only.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::headers::remove_all;
use super::hops;
use crate::config::{Cidr, Forwarded};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Where an application may look for the client, besides `X-Forwarded-*`.
const CLIENT_FIELDS: [&str; 6] =
    ["forwarded", "x-real-ip", "true-client-ip", "client-ip", "x-client-ip", "x-cluster-client-ip"];

/// What an application may take for the word of a proxy, whether tidegate writes it or not.
///
/// CGI and WSGI (RFC 3875, section 4.1.18) fold `-` into `_`, so that `X_Forwarded_For` arrives in
/// the same variable as `X-Forwarded-For`: here both are one name.
pub(super) fn is_forwarding(name: &str) -> bool {
    let prefix = "x-forwarded-";
    name.get(..prefix.len()).is_some_and(|start| is_folded(start, prefix))
        || CLIENT_FIELDS.iter().any(|field| is_folded(name, field))
}

/// Whether a name is `field`, taking `_` for `-`.
fn is_folded(name: &str, field: &str) -> bool {
    let folded = name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte });
    name.len() == field.len() && folded.eq(field.bytes())
}

/// The other end of a connection, as its requests tell it: written once, said often.
#[derive(Clone, Debug)]
pub struct Peer {
    address: IpAddr,
    text: HeaderValue,
    /// `https` or `http`.
    scheme: &'static str,
}

/// Writes the forwarding fields of each request.
#[derive(Clone, Debug)]
pub(super) struct Forwarding {
    mode: Forwarded,
    trusted: Vec<Cidr>,
}

// === impl Peer ===

impl Peer {
    /// The peer at an address. An IPv4 address within IPv6 (`::ffff:192.0.2.1`) is an IPv4 address.
    /// `secure`: it speaks TLS.
    #[must_use]
    pub fn new(peer: SocketAddr, secure: bool) -> Peer {
        let address = peer.ip().to_canonical();
        // From a shared buffer, so that a clone is a count and not a copy.
        let text = HeaderValue::from_maybe_shared(Bytes::from(address.to_string()));
        let text = text.expect("an address is a valid field value");
        Peer { address, text, scheme: if secure { "https" } else { "http" } }
    }

    /// What its URLs begin with.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

// === impl Forwarding ===

impl Forwarding {
    pub(super) fn new(mode: Forwarded, trusted: &[Cidr]) -> Forwarding {
        Forwarding { mode, trusted: trusted.to_vec() }
    }

    /// Removes what an untrusted peer claims, and says who the peer is.
    pub(super) fn apply(&self, headers: &mut HeaderMap, peer: &Peer, host: &HeaderValue) {
        if self.mode == Forwarded::Off {
            return;
        }
        let address = peer.address;
        if !self.trusts(address) {
            remove_all(headers, is_forwarding);
        }
        if self.mode != Forwarded::Rfc7239 {
            append_address(headers, peer);
            headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(peer.scheme));
            if !host.is_empty() {
                headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
            }
        }
        if self.mode != Forwarded::XForwarded {
            append_element(headers, peer, host);
        }
    }

    /// Who the client is: the first address, from here, that is no trusted proxy's. Only the family
    /// of fields that is written is read: a trusted proxy that speaks one family may let a client's
    /// fields of the other one pass.
    pub(super) fn client(&self, headers: &HeaderMap, peer: &Peer) -> IpAddr {
        let trusts = |address| self.trusts(address);
        let by = |field, for_x| hops::client(headers, peer.address, field, for_x, trusts);
        match self.mode {
            Forwarded::Off => peer.address,
            Forwarded::XForwarded => by(&X_FORWARDED_FOR, true),
            Forwarded::Both if headers.contains_key(X_FORWARDED_FOR) => by(&X_FORWARDED_FOR, true),
            Forwarded::Rfc7239 | Forwarded::Both => by(&FORWARDED, false),
        }
    }

    /// Whether what comes from an address is believed.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|range| contains(*range, address))
    }
}

/// `X-Forwarded-For`: one comma-separated list, the latest hop at its end.
fn append_address(headers: &mut HeaderMap, peer: &Peer) {
    if headers.contains_key(X_FORWARDED_FOR) {
        append(headers, X_FORWARDED_FOR, peer.text.as_bytes());
    } else {
        headers.insert(X_FORWARDED_FOR, peer.text.clone());
    }
}

/// RFC 7239, section 4: one element a hop; IPv6 addresses stand in brackets and quotes.
fn append_element(headers: &mut HeaderMap, peer: &Peer, host: &HeaderValue) {
    let mut element = String::with_capacity(64);
    let written = match peer.address {
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
    element.push_str(";proto=");
    element.push_str(peer.scheme);
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
    let (network, prefix) = unmapped(range);
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let host_bits = width - u32::from(prefix).min(width);
    let differing = network ^ address;
    differing.checked_shr(host_bits).unwrap_or(0) == 0
}

/// A range of IPv4 addresses within IPv6 (`::ffff:127.0.0.0/104`) is one of IPv4 addresses (`/8`),
/// as peers are.
fn unmapped(range: Cidr) -> (IpAddr, u8) {
    if let IpAddr::V6(network) = range.network
        && let Some(network) = network.to_ipv4_mapped()
        && let Some(prefix) = range.prefix.checked_sub(96)
    {
        return (IpAddr::V4(network), prefix);
    }
    (range.network, range.prefix)
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
        Forwarding::new(mode, trusted).apply(
            &mut headers,
            &Peer::new(peer.parse().unwrap(), false),
            &host,
        );
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
            ("x_forwarded_for", "1.1.1.1"),
            ("x-forwarded_proto", "https"),
            ("x_real_ip", "1.1.1.1"),
            ("x-forwarded-ssl", "on"),
            ("x-forwarded-scheme", "https"),
            ("true-client-ip", "1.1.1.1"),
            ("client-ip", "1.1.1.1"),
            ("x-client-ip", "1.1.1.1"),
            ("x-cluster-client-ip", "1.1.1.1"),
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
    fn fields_of_similar_names_pass() {
        for name in ["x-forward", "x-forwarded", "forwarded-for", "x-real-ip2", "client-id", "ip"] {
            assert!(!is_forwarding(name), "{name}");
        }
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

    #[test]
    fn a_range_of_mapped_addresses_is_one_of_ipv4_addresses() {
        let range = |network: &str, prefix| Cidr { network: network.parse().unwrap(), prefix };
        let inside = |range, address: &str| contains(range, address.parse().unwrap());
        assert!(inside(range("::ffff:127.0.0.0", 104), "127.0.0.1"));
        assert!(!inside(range("::ffff:127.0.0.0", 104), "128.0.0.1"));
        assert!(inside(range("::ffff:192.0.2.1", 128), "192.0.2.1"));
        assert!(!inside(range("::ffff:192.0.2.1", 128), "192.0.2.0"));
        assert!(inside(range("::ffff:0.0.0.0", 96), "192.0.2.1"));
        assert!(!inside(range("::ffff:0.0.0.0", 96), "::1"));
    }
}
