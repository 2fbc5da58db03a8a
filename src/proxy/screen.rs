//! What hyper lets through and a proxy must not: requests that two parsers could read in two ways.
//!
//! Each check names the rule it holds; see `Fault` for the list.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

/// Why a request is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No `Host`, more than one, or not a host (RFC 9112, section 3.2).
    Host,
    /// A target in none of the forms of RFC 9112, section 3.2, for this method.
    Target,
    /// `Transfer-Encoding` in a request of HTTP/1.0 (RFC 9112, section 6.1).
    Framing,
    /// A transfer coding other than exactly one `chunked` (RFC 9112, section 6.1).
    Coding,
    /// CONNECT: tidegate is no tunnel.
    Connect,
    /// A version other than HTTP/1.0, HTTP/1.1 and HTTP/2.
    Version,
    /// A field value of HTTP/2 that begins or ends with a blank (RFC 9113, section 8.2.1).
    Field,
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
        Version::HTTP_2 => check_fields(request)?,
        _ => return Err(Fault::Version),
    }
    let (path_and_query, authority) = split(request.method(), request.uri())?;
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

/// What h2 lets pass of the syntax of fields.
fn check_fields<B>(request: &Request<B>) -> Result<(), Fault> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let clean = request.headers().values().all(|value| {
        let bytes = value.as_bytes();
        !blank(bytes.first()) && !blank(bytes.last())
    });
    if clean { Ok(()) } else { Err(Fault::Field) }
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

fn check_framing<B>(request: &Request<B>) -> Result<(), Fault> {
    let headers = request.headers();
    let Some(coding) = headers.get(TRANSFER_ENCODING) else { return Ok(()) };
    if request.version() == Version::HTTP_10 || headers.contains_key(CONTENT_LENGTH) {
        return Err(Fault::Framing);
    }
    let single = headers.get_all(TRANSFER_ENCODING).iter().count() == 1;
    if single && coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        Ok(())
    } else {
        Err(Fault::Coding)
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

/// `uri-host [":" port]`, or empty, by its alphabet (RFC 9110, section 7.2; RFC 3986, section
/// 3.2.2).
fn is_host(host: &HeaderValue) -> bool {
    let bytes = host.as_bytes();
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte);
    match bytes.first() {
        None => true,
        Some(b'[') => {
            let Some(end) = bytes.iter().position(|&byte| byte == b']') else { return false };
            let inside = &bytes[1..end];
            let address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            !inside.is_empty() && inside.iter().all(address) && is_port(&bytes[end + 1..])
        }
        Some(_) => {
            let end = bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len());
            end > 0 && bytes[..end].iter().all(name) && is_port(&bytes[end..])
        }
    }
}

/// Nothing, or a colon and digits.
fn is_port(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// The path and query, and the authority of an absolute target.
fn split(method: &Method, uri: &Uri) -> Result<(PathAndQuery, Option<HeaderValue>), Fault> {
    if *method == Method::CONNECT {
        return Err(Fault::Connect);
    }
    let path_and_query = uri.path_and_query().ok_or(Fault::Target)?;
    let path = path_and_query.path();
    match (uri.scheme_str(), uri.authority()) {
        (None, None) if path == "*" && *method == Method::OPTIONS => {
            Ok((path_and_query.clone(), None))
        }
        (None, None) if path.starts_with('/') => Ok((path_and_query.clone(), None)),
        (Some("http" | "https"), Some(authority))
            if path.starts_with('/') || (path == "*" && *method == Method::OPTIONS) =>
        {
            let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::Target)?;
            let clean = is_host(&authority) && !authority.is_empty();
            if clean { Ok((path_and_query.clone(), Some(authority))) } else { Err(Fault::Target) }
        }
        _ => Err(Fault::Target),
    }
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
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if lengths.next().is_none() && digits(first.as_bytes()) {
        return true;
    }
    // RFC 9112, section 6.3: the same length more than once is that length.
    let length = first.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default();
    let length = length.trim_ascii();
    let lines = headers.get_all(CONTENT_LENGTH).iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let agree = digits(length) && members.all(|member| member.trim_ascii() == length);
    match HeaderValue::from_bytes(length) {
        Ok(canonical) if agree => {
            headers.insert(CONTENT_LENGTH, canonical);
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
        for host in ["a", "a:80", "a.b-c_d", "[::1]", "[::1]:80", "127.0.0.1:1", "a:"] {
            assert_eq!(fault("GET", "/", &[("host", host)]), None, "{host}");
        }
        for host in ["a b", "a/b", "a@b", "a:x", "[::1", "[]", "[::1]x", ":80", "a,b", "a\"b"] {
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
    fn codings() {
        let coded = |values: &[&str]| {
            let mut fields = vec![("host", "a")];
            fields.extend(values.iter().map(|value| ("transfer-encoding", *value)));
            fault("POST", "/", &fields)
        };
        assert_eq!(coded(&["chunked"]), None);
        assert_eq!(coded(&["CHUNKED"]), None);
        for values in
            [&["gzip, chunked"][..], &["chunked, chunked"], &["chunked", "chunked"], &["identity"]]
        {
            assert_eq!(coded(values), Some(Fault::Coding), "{values:?}");
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
        assert_eq!(framing(&[(coding, "foo")]), None);
        assert_eq!(framing(&[(coding, "gzip, chunked")]), None);
        assert_eq!(framing(&[(coding, "chunked"), (coding, "chunked")]), None);
    }
}
