//! Who the client is: the first address, from here, that no trusted proxy has.
//!
//! Each trusted hop is believed about the one before it, and nobody else is: what stands further
//! left in a field was written by the client, or by nobody known. Pure; without allocation.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Proxies in a row; what lies beyond is taken for one client.
const MAX_HOPS: usize = 32;

/// The client behind `peer`, as far as `trusts` reaches. `for_x`: `field` is a list of addresses
/// (`X-Forwarded-For`), else of elements (`Forwarded`, RFC 7239).
pub(super) fn client(
    headers: &HeaderMap,
    peer: IpAddr,
    field: &HeaderName,
    for_x: bool,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer;
    if !trusts(peer) {
        return client;
    }
    let lines = headers.get_all(field).iter().rev().map(HeaderValue::as_bytes);
    let members = lines.flat_map(Members);
    for member in members.take(MAX_HOPS) {
        let node = if for_x { Some(member) } else { for_of(member) };
        // A hop that hides itself (`unknown`, `_hidden`) ends what can be told.
        let Some(address) = node.and_then(address) else { return client };
        client = address;
        if !trusts(client) {
            return client;
        }
    }
    client
}

/// The members of a line, the last one first. A comma inside quotes separates nothing; a quote that
/// is never closed is none, lest a client hide what a proxy has added behind it.
struct Members<'l>(&'l [u8]);

impl<'l> Iterator for Members<'l> {
    type Item = &'l [u8];

    fn next(&mut self) -> Option<&'l [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped, mut last) = (false, false, None);
        let mut comma = None;
        for (at, byte) in self.0.iter().enumerate() {
            if *byte == b',' {
                comma = Some(at);
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => last = Some(at),
                _ => {}
            }
        }
        let last = if quoted { comma } else { last };
        let member = &self.0[last.map_or(0, |at| at + 1)..];
        self.0 = &self.0[..last.unwrap_or(0)];
        Some(member.trim_ascii())
    }
}

/// The node of the parameter `for` of a `Forwarded` element, without quotes.
fn for_of(element: &[u8]) -> Option<&[u8]> {
    let mut parameters = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let named = parameters.find(|parameter| {
        parameter.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"for="))
    })?;
    let node = &named[4..];
    Some(node.strip_prefix(b"\"").and_then(|node| node.strip_suffix(b"\"")).unwrap_or(node))
}

/// An address, perhaps with a port; one of IPv6 perhaps in brackets.
fn address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok();
    let address = address.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::FORWARDED;

    /// Trusts 10.0.0.0/8 and fd00::/8.
    fn trusts(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.octets()[0] == 0xfd,
        }
    }

    fn behind(peer: &str, name: &HeaderName, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.parse().unwrap());
        }
        let for_x = *name != FORWARDED;
        client(&headers, peer.parse().unwrap(), name, for_x, trusts).to_string()
    }

    fn by_x(peer: &str, lines: &[&str]) -> String {
        behind(peer, &HeaderName::from_static("x-forwarded-for"), lines)
    }

    fn by_rfc(peer: &str, lines: &[&str]) -> String {
        behind(peer, &FORWARDED, lines)
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(by_x("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(by_rfc("192.0.2.1", &["for=198.51.100.1"]), "192.0.2.1");
    }

    #[test]
    fn the_first_untrusted_address_from_the_right_is_the_client() {
        assert_eq!(by_x("10.0.0.1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(by_x("10.0.0.1", &["203.0.113.9, 192.0.2.1,10.0.0.2"]), "192.0.2.1", "a lie");
        assert_eq!(by_x("10.0.0.1", &["192.0.2.1", "10.0.0.2", "10.0.0.3"]), "192.0.2.1");
        assert_eq!(by_x("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(by_x("10.0.0.1", &["10.9.9.9, 10.0.0.2"]), "10.9.9.9", "all are trusted");
        let long = vec!["10.0.0.2"; MAX_HOPS + 1].join(",");
        assert_eq!(by_x("10.0.0.1", &[&format!("192.0.2.1,{long}")]), "10.0.0.2");
    }

    #[test]
    fn a_hop_that_is_no_address_ends_the_way() {
        for odd in ["unknown", "", "_hidden", "192.0.2.1 x", "1.2.3", "\"192.0.2.1\""] {
            assert_eq!(by_x("10.0.0.1", &[&format!("192.0.2.1, {odd}, 10.0.0.2")]), "10.0.0.2");
        }
    }

    #[test]
    fn an_open_quote_hides_nothing() {
        assert_eq!(by_x("10.0.0.1", &["\", 192.0.2.1"]), "192.0.2.1");
        assert_eq!(by_x("10.0.0.1", &["\"\\\", 192.0.2.1, 10.0.0.2"]), "192.0.2.1");
        assert_eq!(by_rfc("10.0.0.1", &["for=\", for=192.0.2.1"]), "192.0.2.1");
        assert_eq!(by_rfc("10.0.0.1", &["for=\"\\, for=\"[2001:db8::1]\""]), "2001:db8::1");
    }

    #[test]
    fn ports_and_brackets_and_mapped_addresses() {
        assert_eq!(by_x("10.0.0.1", &["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(by_x("10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(by_x("10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(by_x("10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(by_x("10.0.0.1", &["192.0.2.1, ::ffff:10.0.0.2"]), "192.0.2.1");
    }

    #[test]
    fn elements_of_rfc_7239() {
        assert_eq!(by_rfc("fd00::1", &["for=192.0.2.1"]), "192.0.2.1");
        assert_eq!(
            by_rfc("fd00::1", &["for=192.0.2.1, For=\"[fd00::2]:80\";proto=http;host=\"a,b\""]),
            "192.0.2.1"
        );
        assert_eq!(by_rfc("fd00::1", &["by=10.0.0.1; for=\"[2001:db8::1]\""]), "2001:db8::1");
        assert_eq!(by_rfc("fd00::1", &["for=192.0.2.1", "proto=http"]), "fd00::1");
        assert_eq!(by_rfc("fd00::1", &["for=192.0.2.1, for=_x"]), "fd00::1");
    }
}
