//! What is removed from and added to the head of a message on its way through.
//!
//! Fields of one hop end here, in both directions (RFC 9110, section 7.6.1); everything else
//! passes.

use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, TE,
    TRAILER, TRANSFER_ENCODING, VIA,
};

use super::forwarded::is_forwarding;

/// Fields that mean one hop only, whether `Connection` names them or not. Proxy authentication is
/// with tidegate, which has none, and must not reach the application; nor must `Proxy`, which no
/// standard knows and CGI makes the variable `HTTP_PROXY` of (CVE-2016-5385).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy"
            | "proxy-connection"
            | "http2-settings"
            | "te"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

/// What `Connection` may name in vain: a message without them would mean something else.
const NEVER_NOMINATED: [HeaderName; 5] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER, COOKIE];

/// Fields that mean something to the framing, routing or authentication of a message, say how it is
/// to be handled, or who its client is, and therefore must not come after its body (RFC 9110,
/// section 6.5.1): an application may merge them with the head.
fn is_never_in_trailers(name: &str) -> bool {
    let known = matches!(
        name,
        "host"
            | "content-length"
            | "transfer-encoding"
            | "trailer"
            | "via"
            | "cookie"
            | "set-cookie"
            | "authorization"
            | "www-authenticate"
            | "content-type"
            | "content-encoding"
            | "content-range"
            | "cache-control"
            | "expect"
            | "max-forwards"
            | "range"
            | "if-match"
            | "if-none-match"
            | "if-modified-since"
            | "if-unmodified-since"
            | "if-range"
            | "age"
            | "expires"
            | "date"
            | "location"
            | "retry-after"
            | "vary"
    );
    known || is_forwarding(name)
}

/// What `Connection` names: it may come after the body as well as in the head.
#[derive(Debug, Default)]
pub(super) struct Nominated(Vec<HeaderName>);

/// Makes the head of a request fit for the application: hop-by-hop fields go, `Via` comes, and
/// `TE: trailers` stays if the client can take trailers.
pub(super) fn request(headers: &mut HeaderMap, version: http::Version) -> Nominated {
    let trailers = accepts_trailers(headers);
    let nominated = remove_nominated(headers);
    // The framing is said anew from what the body is. CGI (RFC 3875, section 4.1.18) would take
    // another spelling for it.
    remove_all(headers, |name| {
        is_hop_by_hop(name)
            || matches!(name, "transfer-encoding" | "transfer_encoding" | "content_length")
    });
    count_hop(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // RFC 9110, section 7.6.3.
    let via = match version {
        http::Version::HTTP_10 => "1.0 tidegate",
        http::Version::HTTP_2 => "2 tidegate",
        _ => "1.1 tidegate",
    };
    headers.append(VIA, HeaderValue::from_static(via));
    nominated
}

/// RFC 9110, section 7.6.2: a request that counts its hops has one less. Meant for OPTIONS and
/// TRACE; other methods do without.
fn count_hop(headers: &mut HeaderMap) {
    if let Some(left) = hops_left(headers) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// How many hops a request may still make: the least that is said. More than a number holds is as
/// many as it holds; `None`: nothing is said that could be understood.
pub(super) fn hops_left(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(MAX_FORWARDS).iter();
    let number = |line: &HeaderValue| {
        let digits = line.as_bytes().trim_ascii();
        let clean = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let text = clean.then(|| std::str::from_utf8(digits).ok()).flatten()?;
        Some(text.parse().unwrap_or(u64::MAX))
    };
    lines.map(number).collect::<Option<Vec<u64>>>()?.into_iter().min()
}

/// Makes the head of a response fit for the client.
pub(super) fn response(headers: &mut HeaderMap, status: StatusCode) -> Nominated {
    let nominated = remove_nominated(headers);
    remove_all(headers, is_hop_by_hop);
    if status == StatusCode::NO_CONTENT {
        // RFC 9110, section 8.6.
        headers.remove(CONTENT_LENGTH);
    }
    nominated
}

/// Removes what may not come after a body. `nominated`: what its head's `Connection` named.
pub(super) fn trailers(trailers: &mut HeaderMap, nominated: &Nominated) {
    for name in &nominated.0 {
        trailers.remove(name);
    }
    remove_all(trailers, |name| is_hop_by_hop(name) || is_never_in_trailers(name));
}

/// Removes every field whose name is one of those. One look at each name: most messages have none.
pub(super) fn remove_all(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() {
        headers.remove(name);
    }
}

fn remove_nominated(headers: &mut HeaderMap) -> Nominated {
    let mut nominated = Nominated::default();
    match headers.get(CONNECTION).map(HeaderValue::as_bytes) {
        None => return nominated,
        // By far the most frequent, and they name no field.
        Some(b"keep-alive" | b"close") if is_single(headers, CONNECTION) => return nominated,
        Some(_) => {}
    }
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let names = lines.iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    for name in names {
        let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) else { continue };
        if !NEVER_NOMINATED.contains(&name) {
            headers.remove(&name);
            nominated.0.push(name);
        }
    }
    nominated
}

/// The value of a field that stands there once. Of two lines nobody can tell which a proxy wrote
/// and which it let pass.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next()?;
    lines.next().is_none().then(|| value.as_bytes().trim_ascii())
}

fn is_single(headers: &HeaderMap, name: HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_none()
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    lists(headers, &TE, b"trailers")
}

/// Whether a field's list has a member of that name, whatever its parameters.
pub(super) fn lists(headers: &HeaderMap, field: &HeaderName, member: &[u8]) -> bool {
    let lines = headers.get_all(field).iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    members.any(|found| {
        let name = found.split(|&byte| byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers
                .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let mut headers = map(&[
            ("host", "a"),
            ("connection", "keep-alive, X-Secret ,, bad name"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy", "http://evil"),
            ("te", "gzip;q=0.5, trailers"),
            ("accept", "*/*"),
        ]);
        request(&mut headers, http::Version::HTTP_11);
        assert_eq!(names(&headers), ["host", "accept", "te", "via"]);
        assert_eq!(headers[TE], "trailers");
    }

    #[test]
    fn connection_cannot_nominate_host_or_framing() {
        let mut headers = map(&[
            ("host", "a"),
            ("content-length", "3"),
            ("cookie", "c"),
            ("connection", "host, content-length, cookie"),
        ]);
        request(&mut headers, http::Version::HTTP_11);
        assert_eq!(names(&headers), ["host", "content-length", "cookie", "via"]);
    }

    #[test]
    fn hops_are_counted_down_from_the_least() {
        for (lines, expected) in [
            (&["5"][..], Some("4")),
            (&["5", "3"], Some("2")),
            (&["18446744073709551616"], Some("18446744073709551614")),
            (&["x"], Some("x")),
            (&["5", "x"], Some("5")),
            (&[], None),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("max-forwards", *line)).collect();
            let mut headers = map(&fields);
            request(&mut headers, http::Version::HTTP_11);
            let left = headers.get(MAX_FORWARDS).map(|left| left.to_str().unwrap());
            assert_eq!(left, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_head_without_content_has_no_length() {
        let mut headers = map(&[("content-length", "5"), ("x", "1")]);
        response(&mut headers, StatusCode::NO_CONTENT);
        assert_eq!(names(&headers), ["x"]);
    }

    #[test]
    fn via_is_added_to_those_before() {
        let mut headers = map(&[("via", "1.1 edge")]);
        request(&mut headers, http::Version::HTTP_10);
        let via: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(via, ["1.1 edge", "1.0 tidegate"]);
    }

    #[test]
    fn responses_lose_what_their_connection_nominates() {
        let mut headers = map(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("proxy-authenticate", "Basic"),
        ]);
        response(&mut headers, StatusCode::OK);
        assert_eq!(names(&headers), ["set-cookie"]);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn trailers_cannot_change_the_message() {
        let mut fields = map(&[
            ("content-length", "9"),
            ("host", "evil"),
            ("authorization", "x"),
            ("x-checksum", "1"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("if-match", "x"),
            ("x-hop", "1"),
            ("grpc-status", "0"),
        ]);
        let mut head = map(&[("connection", "x-hop, close")]);
        trailers(&mut fields, &response(&mut head, StatusCode::OK));
        assert_eq!(names(&fields), ["grpc-status", "x-checksum"]);
    }
}
