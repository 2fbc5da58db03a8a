//! What hyper lets through and a proxy must not: requests that two parsers could read in two ways.
//!
//! Each check names the rule it holds; see `Fault` for the list.

use std::net::Ipv6Addr;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Version};

use super::headers;

/// Why a request is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No `Host`, more than one, or not a host (RFC 9112, section 3.2).
    Host,
    /// A target in none of the forms of RFC 9112, section 3.2, for this method.
    Target,
    /// `Transfer-Encoding` in a request of HTTP/1.0 (RFC 9112, section 6.1), or a length that is
    /// too much for a signed number: some applications have nothing else (RFC 9110, section 8.6:
    /// "prevent parsing errors due to integer conversion overflows"); or TRACE with content.
    Framing,
    /// A transfer coding other than exactly one `chunked` (RFC 9112, section 6.1).
    Coding,
    /// A path that may mean another one, on a route that takes none.
    Ambiguous,
    /// CONNECT: tidegate is no tunnel.
    Connect,
    /// OPTIONS that has come to its last hop (RFC 9110, section 7.6.2). No fault of anybody's.
    LastHop,
    /// TRACE that has come to its last hop: it would show the fields of proxies before tidegate.
    Trace,
    /// A version other than HTTP/1.0, HTTP/1.1 and HTTP/2.
    Version,
    /// A field value of HTTP/2 that begins or ends with a blank (RFC 9113, section 8.2.1).
    Field,
}

impl Fault {
    /// Whether the request is not clean. Else it is, and only not to be forwarded.
    pub(super) fn is_of_syntax(self) -> bool {
        !matches!(self, Fault::Ambiguous | Fault::LastHop | Fault::Trace)
    }
}

/// What of a clean request is needed to route and forward it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Path and query exactly as received: what is matched is what is forwarded.
    pub(super) path_and_query: PathAndQuery,
    /// The host and port that the client asked for; empty if it named none (HTTP/1.0).
    pub(super) host: HeaderValue,
}

/// Checks a request and splits off its target.
pub(super) fn screen<B>(request: &Request<B>) -> Result<Target, Fault> {
    match request.version() {
        Version::HTTP_10 | Version::HTTP_11 => check_framing(request)?,
        Version::HTTP_2 => {
            if !are_clean_fields(request.headers()) {
                return Err(Fault::Field);
            }
            check_lengths(request.headers())?;
        }
        _ => return Err(Fault::Version),
    }
    check_last_hop(request)?;
    let (path_and_query, authority) = split(request)?;
    let host = match request.version() {
        Version::HTTP_2 => host_of_http2(request, authority)?,
        _ => {
            let host = host_field(request)?;
            // RFC 9112, section 3.2.2: the authority of an absolute target replaces the Host.
            authority.unwrap_or(host)
        }
    };
    Ok(Target { path_and_query, host })
}

/// What h2 lets pass of the syntax of fields, in both directions (RFC 9113, section 8.2.1).
pub(super) fn are_clean_fields(headers: &HeaderMap) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers.values().all(|value| {
        let bytes = value.as_bytes();
        !blank(bytes.first()) && !blank(bytes.last())
    })
}

/// Several lengths are one if they are equal (RFC 9110, section 8.6). hyper sees to it in HTTP/1.
fn check_lengths(headers: &HeaderMap) -> Result<(), Fault> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    let agree = length(first.as_bytes()).is_some() && lengths.all(|other| other == first);
    if agree { Ok(()) } else { Err(Fault::Framing) }
}

/// RFC 9113, section 8.3.1: a `Host` beside `:authority` says the same; one of them is needed.
fn host_of_http2<B>(
    request: &Request<B>,
    authority: Option<HeaderValue>,
) -> Result<HeaderValue, Fault> {
    let mut lines = request.headers().get_all(HOST).iter();
    let host = match (lines.next(), lines.next()) {
        (host, None) => host,
        _ => return Err(Fault::Host),
    };
    match (authority, host) {
        (Some(authority), None) => Ok(authority),
        (Some(authority), Some(host))
            if host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) =>
        {
            Ok(authority)
        }
        (None, Some(host)) if is_host(host) && !host.is_empty() => Ok(host.clone()),
        _ => Err(Fault::Host),
    }
}

/// Whether a request that counts its hops may go any further.
fn check_last_hop<B>(request: &Request<B>) -> Result<(), Fault> {
    let fault = match *request.method() {
        Method::OPTIONS => Fault::LastHop,
        Method::TRACE => Fault::Trace,
        _ => return Ok(()),
    };
    if headers::hops_left(request.headers()) == Some(0) { Err(fault) } else { Ok(()) }
}

/// Makes a length that passed the check one number that everybody reads alike: some take `010` for
/// eight.
pub(super) fn make_length_plain(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(known) = lengths.next() else { return };
    if (lengths.next().is_some() || !is_plain(known.as_bytes()))
        && let Some(length) = length(known.as_bytes())
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Without zeros in front.
fn is_plain(digits: &[u8]) -> bool {
    digits.len() == 1 || digits.first() != Some(&b'0')
}

/// A length by its digits, as one number and no other.
fn length(digits: &[u8]) -> Option<u64> {
    let clean = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = clean.then(|| std::str::from_utf8(digits).ok()).flatten()?;
    text.parse().ok().filter(|&length| i64::try_from(length).is_ok())
}

fn check_framing<B>(request: &Request<B>) -> Result<(), Fault> {
    let headers = request.headers();
    let known = headers.get(CONTENT_LENGTH).map(|known| length(known.as_bytes()));
    if known == Some(None) {
        return Err(Fault::Framing);
    }
    // RFC 9110, section 9.3.8.
    let content = headers.contains_key(TRANSFER_ENCODING) || known.flatten() > Some(0);
    if content && *request.method() == Method::TRACE {
        return Err(Fault::Framing);
    }
    let Some(coding) = headers.get(TRANSFER_ENCODING) else { return Ok(()) };
    if request.version() == Version::HTTP_10 || headers.contains_key(CONTENT_LENGTH) {
        return Err(Fault::Framing);
    }
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |line: &HeaderValue| line.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (chunked(coding), lines.nth(1)) {
        (true, None) => Ok(()),
        // A body may not be chunked twice.
        (true, Some(_)) if headers.get_all(TRANSFER_ENCODING).iter().all(chunked) => {
            Err(Fault::Framing)
        }
        _ => Err(Fault::Coding),
    }
}

fn host_field<B>(request: &Request<B>) -> Result<HeaderValue, Fault> {
    let mut lines = request.headers().get_all(HOST).iter();
    match (lines.next(), lines.next()) {
        (Some(host), None) if is_host(host) => Ok(host.clone()),
        (None, None) if request.version() == Version::HTTP_10 => Ok(HeaderValue::from_static("")),
        _ => Err(Fault::Host),
    }
}

/// `uri-host [":" port]`, or empty (RFC 9110, section 7.2; RFC 3986, section 3.2.2).
fn is_host(host: &HeaderValue) -> bool {
    let bytes = host.as_bytes();
    match bytes.first() {
        None => true,
        Some(b'[') => {
            let Some(end) = bytes.iter().position(|&byte| byte == b']') else { return false };
            let inside = std::str::from_utf8(&bytes[1..end]).unwrap_or_default();
            inside.parse::<Ipv6Addr>().is_ok() && is_port(&bytes[end + 1..])
        }
        Some(_) => {
            let end = bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len());
            end > 0 && is_reg_name(&bytes[..end]) && is_port(&bytes[end..])
        }
    }
}

/// A name by its alphabet, each escape whole.
fn is_reg_name(bytes: &[u8]) -> bool {
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte);
    bytes.iter().all(name) && escapes_are_whole(bytes)
}

/// Whether two digits follow each `%`.
fn escapes_are_whole(bytes: &[u8]) -> bool {
    let mut parts = bytes.split(|&byte| byte == b'%').skip(1);
    parts.all(|rest| rest.get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)))
}

/// Whether an application may take a path for another one than it looks like: dot segments, empty
/// segments, parameters (`;`), separators, NUL and letters in disguise, escapes that are none. Such
/// a path may slip past a route that was meant for it.
pub(super) fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    if !escapes_are_whole(bytes) {
        return true;
    }
    let hidden = bytes.split(|&byte| byte == b'%').skip(1).any(hides);
    let odd = bytes.iter().any(|byte| matches!(byte, b'\\' | b';'));
    // The first segment is what stands before the first slash: nothing.
    let mut segments = path.split('/').skip(1).peekable();
    let mut unclear = false;
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        unclear |= matches!(segment, "." | "..") || (segment.is_empty() && !last);
    }
    hidden || odd || unclear
}

/// Whether what follows a `%` stands for a separator or NUL, or for what needs no escape and is the
/// same without (RFC 3986, section 6.2.2.2).
fn hides(rest: &[u8]) -> bool {
    let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
    match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
        Some(b'/' | b'\\' | 0 | b'-' | b'.' | b'_' | b'~') => true,
        Some(byte) => byte.is_ascii_alphanumeric(),
        None => false,
    }
}

/// Nothing, or a colon and digits that are a port.
fn is_port(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [b':'] => true,
        [b':', digits @ ..] => {
            let clean = digits.iter().all(u8::is_ascii_digit);
            let port = std::str::from_utf8(digits).ok().filter(|_| clean && digits.len() <= 5);
            port.is_some_and(|port| port.parse::<u16>().is_ok())
        }
        _ => false,
    }
}

/// The path and query, and the authority of an absolute target.
fn split<B>(request: &Request<B>) -> Result<(PathAndQuery, Option<HeaderValue>), Fault> {
    let (method, uri) = (request.method(), request.uri());
    if *method == Method::CONNECT {
        return Err(Fault::Connect);
    }
    let mut path_and_query = uri.path_and_query().ok_or(Fault::Target)?.clone();
    let authority = match (uri.scheme_str(), uri.authority()) {
        (None, None) => None,
        (Some("http" | "https"), Some(authority)) => {
            let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::Target)?;
            let clean = is_host(&authority) && !authority.is_empty();
            Some(clean.then_some(authority).ok_or(Fault::Target)?)
        }
        _ => return Err(Fault::Target),
    };
    if authority.is_some() && request.version() != Version::HTTP_2 {
        path_and_query = with_path(path_and_query);
    }
    let any_server = path_and_query.as_str() == "*" && *method == Method::OPTIONS;
    if any_server || path_and_query.as_str().starts_with('/') {
        Ok((path_and_query, authority))
    } else {
        Err(Fault::Target)
    }
}

/// An absolute target may have no path: it is `/` then.
fn with_path(path_and_query: PathAndQuery) -> PathAndQuery {
    if path_and_query.as_str().starts_with('?') {
        // Written out it is whole.
        let whole = PathAndQuery::try_from(path_and_query.to_string());
        return whole.unwrap_or(path_and_query);
    }
    path_and_query
}

/// What hyper's client accepts of a response and a proxy must not pass on. `false`: not clean HTTP.
pub(super) fn clean_response_framing(headers: &mut HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, None) => {}
        // Both: perhaps two responses smuggled into one (RFC 9112, section 6.3: "ought to be
        // handled as an error").
        (Some(_), _) if headers.contains_key(CONTENT_LENGTH) => return false,
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            headers.remove(TRANSFER_ENCODING);
            return true;
        }
        _ => return false,
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return true };
    if lengths.next().is_none() && is_plain(first.as_bytes()) && length(first.as_bytes()).is_some()
    {
        return true;
    }
    // RFC 9112, section 6.3: the same length more than once is that length.
    let first = first.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default();
    let lines = headers.get_all(CONTENT_LENGTH).iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let agree = members.all(|member| member.trim_ascii() == first.trim_ascii());
    match length(first.trim_ascii()) {
        Some(length) if agree => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn fault(method: &str, target: &str, fields: &[(&str, &str)]) -> Option<Fault> {
        screen(&request(method, target, fields)).err()
    }

    #[test]
    fn hosts() {
        for host in ["a", "a:80", "a.b-c_d", "[::1]", "[::1]:80", "127.0.0.1:1", "a:", "a%2f"] {
            assert_eq!(fault("GET", "/", &[("host", host)]), None, "{host}");
        }
        for host in ["a b", "a/b", "a@b", "a:x", "[::1", "[]", "[::1]x", ":80", "a,b", "a\"b"] {
            assert_eq!(fault("GET", "/", &[("host", host)]), Some(Fault::Host), "{host}");
        }
        for host in ["a%", "a%2", "%zz", "[1]", "[:::]", "[::1%25x]", "[::1]:x", "a:65536"] {
            assert_eq!(fault("GET", "/", &[("host", host)]), Some(Fault::Host), "{host}");
        }
        assert_eq!(fault("GET", "/", &[]), Some(Fault::Host));
        assert_eq!(fault("GET", "/", &[("host", "a"), ("host", "a")]), Some(Fault::Host));
    }

    #[test]
    fn targets() {
        let host = [("host", "a")];
        for target in ["/", "/a//b/../c;d?e=%2F", "http://b/x", "https://b:1/x"] {
            assert_eq!(fault("GET", target, &host), None, "{target}");
        }
        for target in ["*", "a:80", "ftp://b/x", "http://u@b/x"] {
            assert_eq!(fault("GET", target, &host), Some(Fault::Target), "{target}");
        }
        assert_eq!(fault("OPTIONS", "*", &host), None);
        assert_eq!(fault("CONNECT", "a:80", &host), Some(Fault::Connect));
    }

    #[test]
    fn an_absolute_target_replaces_the_host() {
        let target = screen(&request("GET", "http://b:1/x?y", &[("host", "a")])).unwrap();
        assert_eq!(target.host, "b:1");
        assert_eq!(target.path_and_query.as_str(), "/x?y");
    }

    #[test]
    fn an_absolute_target_may_have_no_path() {
        for (method, target, forwarded) in [
            ("GET", "http://b", "/"),
            ("GET", "http://b?x", "/?x"),
            ("OPTIONS", "http://b/", "/"),
            ("OPTIONS", "http://b?x", "/?x"),
        ] {
            let target = screen(&request(method, target, &[("host", "b")])).unwrap();
            assert_eq!(target.path_and_query.as_str(), forwarded, "{method}");
        }
        let mut http2 = request("GET", "http://a?x", &[]);
        *http2.version_mut() = Version::HTTP_2;
        assert_eq!(screen(&http2).err(), Some(Fault::Target));
    }

    #[test]
    fn lengths_of_http2_are_one() {
        let with = |lengths: &[&'static str]| {
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            let mut request = request("POST", "http://a/", &fields);
            *request.version_mut() = Version::HTTP_2;
            let fault = screen(&request).err();
            make_length_plain(request.headers_mut());
            let left = request.headers().get_all(CONTENT_LENGTH).iter().count();
            (fault, left)
        };
        assert_eq!(with(&["3"]), (None, 1));
        assert_eq!(with(&["3", "3"]), (None, 1));
        assert_eq!(with(&["3", "4"]).0, Some(Fault::Framing));
        assert_eq!(with(&["9223372036854775808"]).0, Some(Fault::Framing));
    }

    #[test]
    fn codings() {
        let coded = |values: &[&str]| {
            let mut fields = vec![("host", "a")];
            fields.extend(values.iter().map(|value| ("transfer-encoding", *value)));
            fault("POST", "/", &fields)
        };
        assert_eq!(coded(&["chunked"]), None);
        assert_eq!(coded(&["CHUNKED"]), None);
        for values in
            [&["gzip, chunked"][..], &["chunked, chunked"], &["chunked", "gzip"], &["identity"]]
        {
            assert_eq!(coded(values), Some(Fault::Coding), "{values:?}");
        }
        assert_eq!(coded(&["chunked", "chunked"]), Some(Fault::Framing));
    }

    #[test]
    fn trace_has_no_content() {
        for (name, value, found) in [
            ("content-length", "0", None),
            ("content-length", "1", Some(Fault::Framing)),
            ("transfer-encoding", "chunked", Some(Fault::Framing)),
        ] {
            assert_eq!(fault("TRACE", "/", &[("host", "a"), (name, value)]), found, "{value}");
        }
    }

    #[test]
    fn lengths_fit_a_signed_number() {
        let with = |length| fault("POST", "/", &[("host", "a"), ("content-length", length)]);
        for length in ["0", "005", "9223372036854775807"] {
            assert_eq!(with(length), None, "{length}");
        }
        for length in ["9223372036854775808", "18446744073709551616", "+1", "1_0", ""] {
            assert_eq!(with(length), Some(Fault::Framing), "{length}");
        }
    }

    #[test]
    fn the_last_hop_answers_itself() {
        for (method, left, found) in [
            ("OPTIONS", "0", Some(Fault::LastHop)),
            ("OPTIONS", "00", Some(Fault::LastHop)),
            ("TRACE", "0", Some(Fault::Trace)),
            ("OPTIONS", "1", None),
            ("OPTIONS", "x", None),
            ("GET", "0", None),
        ] {
            let fields = [("host", "a"), ("max-forwards", left)];
            assert_eq!(fault(method, "/", &fields), found, "{method} {left}");
        }
    }

    #[test]
    fn ambiguous_paths() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a.b/.c/..d/...",
            "/a%20b",
            "/%2541",
            "/%c3%a9",
            "/a~b",
            "/\u{e9}",
            "*",
            "/.well-known/x",
        ] {
            assert!(!is_ambiguous(path), "{path}");
        }
        for path in [
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/./a",
            "/a/..",
            "/a/../b",
            "/%2e",
            "/%2E.",
            "/.%2e/a",
            "/a/%2e%2E/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%5Cb",
            "/a\\b",
            "/a;b",
            "/a/..;/b",
            "/a%00",
            "/%",
            "/%2",
            "/%zz",
            "/a%2",
            "/%%41",
            "/%41",
            "/%61dmin",
            "/%2eenv",
            "/a%2e",
            "/%2e%2e%2e",
            "/a%2Db%5f%7e%30",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
    }

    fn framing(fields: &[(&str, &str)]) -> Option<Vec<String>> {
        let mut headers = request("GET", "/", fields).headers().clone();
        let clean = clean_response_framing(&mut headers);
        clean
            .then(|| headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect())
    }

    #[test]
    fn response_framing() {
        let length = "content-length";
        let coding = "transfer-encoding";
        assert_eq!(framing(&[(length, "5")]).unwrap(), ["content-length: 5"]);
        assert_eq!(framing(&[(length, "5, 5"), (length, "5")]).unwrap(), ["content-length: 5"]);
        assert_eq!(framing(&[(coding, "chunked")]).unwrap(), [""; 0]);
        assert_eq!(framing(&[(length, "5"), (coding, "chunked")]), None);
        assert_eq!(framing(&[(length, "5, 6")]), None);
        assert_eq!(framing(&[(length, "+5")]), None);
        assert_eq!(framing(&[(length, "9223372036854775808")]), None);
        assert_eq!(framing(&[(coding, "foo")]), None);
        assert_eq!(framing(&[(coding, "gzip, chunked")]), None);
        assert_eq!(framing(&[(coding, "chunked"), (coding, "chunked")]), None);
    }
}
