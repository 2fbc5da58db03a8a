//! Every response that tidegate makes itself, and the only place that chooses their status codes.
//!
//! A rejection says why and when to come back, and that the application never saw the request
//! (`Proxy-Status`, RFC 9209). A failure of the application carries another error type of that RFC.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Response, StatusCode};

use super::screen::Fault;
use crate::config::{Reject, RejectBody, RetryAfter};
use crate::gate::{RejectReason, Rejection};
use crate::upstream::UpstreamError;

/// What an application may be asked for through tidegate, as far as tidegate knows.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// What a client gets whose connection is one too many and no other can be closed for it.
pub(crate) const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 1\r\n\
    proxy-status: tidegate; error=connection_limit_reached; details=\"max_connections\"\r\n\
    cache-control: no-store\r\n\
    connection: close\r\n\
    content-length: 0\r\n\r\n";

/// What a client gets whose request head does not come to its end in time.
pub(crate) const HEADER_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    cache-control: no-store\r\n\
    connection: close\r\n\
    content-length: 0\r\n\r\n";

/// What a client gets that speaks plain HTTP where TLS is spoken.
pub(crate) const PLAIN_INSTEAD_OF_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    cache-control: no-store\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    connection: close\r\n\
    content-length: 34\r\n\r\n\
    This port speaks TLS: use https://";

/// The same, for the first line: what does not fit is the target.
const URI_TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\n\
    cache-control: no-store\r\n\
    connection: close\r\n\
    content-length: 0\r\n\r\n";

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    cache-control: no-store\r\n\
    connection: close\r\n\
    content-length: 0\r\n\r\n";

const VERSION_NOT_SUPPORTED: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    cache-control: no-store\r\n\
    connection: close\r\n\
    content-length: 0\r\n\r\n";

/// What to answer to a head that hyper cannot read, where its 400, or 431 if it is `too_large`,
/// misses the point: a first line that does not end (RFC 9112, section 3), another major version
/// (RFC 9110, section 15.6.6), or a length that no number holds. `full`: as much has come as may.
pub(crate) fn unreadable(head: &[u8], too_large: bool, full: bool) -> Option<(u16, &'static [u8])> {
    let head = head.trim_ascii_start();
    let Some(end) = head.iter().position(|&byte| byte == b'\n') else {
        // If there was room left hyper has read the whole head, and this is what follows.
        return too_large.then_some(if full { (414, URI_TOO_LONG) } else { (400, BAD_REQUEST) });
    };
    let line = head[..end].trim_ascii_end();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    let major = version.strip_prefix(b"HTTP/").and_then(<[u8]>::first);
    matches!(major, Some(b'2'..=b'9')).then_some((505, VERSION_NOT_SUPPORTED))
}

/// Why a request that was admitted, or came so far, ends without an answer of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request is not clean HTTP.
    Fault(Fault),
    /// The route denies everything.
    Denied,
    /// The gate turned it away.
    Rejected(Rejection),
    /// The application failed.
    Failed(UpstreamError),
    /// The client's body broke its framing.
    BadBody,
    /// The client's body fell silent.
    SlowBody,
}

/// The parts of a problem (RFC 9457).
struct Problem {
    status: StatusCode,
    detail: String,
    /// A member `reason`, and what `Proxy-Status` says.
    reason: Option<&'static str>,
    proxy_status: Option<String>,
    retry_after: Option<u32>,
}

/// The response to a request that is not answered by the application. `close`: the connection does
/// not go on; `grpc`: the request is a call of gRPC.
pub(super) fn refusal(
    refusal: Refusal,
    style: &Reject,
    close: bool,
    grpc: bool,
) -> Response<Bytes> {
    if refusal == Refusal::Fault(Fault::LastHop) {
        return last_hop(close);
    }
    let problem = describe(refusal, style);
    let (mut response, kind) = match grpc_status(refusal).filter(|_| grpc) {
        Some(status) => (trailers_only(status, &problem), Some("application/grpc")),
        None => (plain_http(&problem, style), media_type(style.body)),
    };
    let headers = response.headers_mut();
    if let Some(status) = problem.proxy_status {
        let value = HeaderValue::from_str(&status).expect("made of tokens and quoted tokens");
        headers.insert(PROXY_STATUS, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if matches!(refusal, Refusal::Fault(Fault::Connect | Fault::Trace)) {
        // RFC 9110, section 15.5.6: a 405 names what is allowed.
        headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    }
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer to OPTIONS that must not go any further: what can be asked for here.
fn last_hop(close: bool) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    if close {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn media_type(body: RejectBody) -> Option<&'static str> {
    match body {
        RejectBody::ProblemJson => Some("application/problem+json"),
        RejectBody::Text => Some("text/plain; charset=utf-8"),
        RejectBody::None => None,
    }
}

const DEADLINE_EXCEEDED: u32 = 4;

/// The trailers of a call of gRPC whose time is up in the middle of its response.
pub(super) fn overdue() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(DEADLINE_EXCEEDED));
    let message = HeaderValue::from_static("The call has lasted longer than its deadline.");
    trailers.insert("grpc-message", message);
    trailers
}

/// The status in which a call of gRPC ends (grpc/grpc `doc/statuscodes.md`); `None`: the request is
/// no call that could be understood.
fn grpc_status(refusal: Refusal) -> Option<u32> {
    const UNIMPLEMENTED: u32 = 12;
    const INTERNAL: u32 = 13;
    const UNAVAILABLE: u32 = 14;
    match refusal {
        Refusal::Fault(_) => None,
        Refusal::Denied => Some(UNIMPLEMENTED),
        Refusal::Rejected(Rejection { reason: RejectReason::Deadline, .. })
        | Refusal::Failed(UpstreamError::HttpResponseTimeout)
        | Refusal::SlowBody => Some(DEADLINE_EXCEEDED),
        Refusal::Rejected(_) | Refusal::Failed(_) => Some(UNAVAILABLE),
        Refusal::BadBody => Some(INTERNAL),
    }
}

/// A whole answer of gRPC in one head (grpc/grpc `doc/PROTOCOL-HTTP2.md`, "Trailers-Only").
fn trailers_only(status: u32, problem: &Problem) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert("grpc-status", HeaderValue::from(status));
    // Our own text: nothing in it has to be escaped.
    let message = HeaderValue::from_str(&problem.detail).expect("printable ASCII");
    headers.insert("grpc-message", message);
    if let Some(seconds) = problem.retry_after {
        let millis = HeaderValue::from(u64::from(seconds) * 1000);
        headers.insert("grpc-retry-pushback-ms", millis);
    }
    response
}

fn plain_http(problem: &Problem, style: &Reject) -> Response<Bytes> {
    let mut response = Response::new(body(problem, style.body));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    if let Some(seconds) = problem.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn describe(refusal: Refusal, style: &Reject) -> Problem {
    match refusal {
        Refusal::Rejected(rejection) => rejected(rejection, style),
        Refusal::Failed(error) => failed(error),
        Refusal::Denied => plain(StatusCode::NOT_FOUND, "No route takes this request."),
        Refusal::BadBody => plain(StatusCode::BAD_REQUEST, "The request's body is malformed."),
        Refusal::SlowBody => {
            plain(StatusCode::REQUEST_TIMEOUT, "The request's body did not come in time.")
        }
        Refusal::Fault(fault) => faulty(fault),
    }
}

fn faulty(fault: Fault) -> Problem {
    match fault {
        Fault::Host => plain(StatusCode::BAD_REQUEST, "The request needs exactly one valid Host."),
        Fault::Ambiguous => plain(StatusCode::BAD_REQUEST, "The request's path is ambiguous."),
        Fault::Target => plain(StatusCode::BAD_REQUEST, "The request's target is not valid."),
        Fault::Framing => plain(StatusCode::BAD_REQUEST, "The request's framing is ambiguous."),
        Fault::Coding => {
            let detail = "The only transfer coding that is understood is chunked.";
            plain(StatusCode::NOT_IMPLEMENTED, detail)
        }
        Fault::Connect => plain(StatusCode::METHOD_NOT_ALLOWED, "This server is not a tunnel."),
        Fault::Trace => plain(StatusCode::METHOD_NOT_ALLOWED, "Nothing is traced here."),
        Fault::LastHop => plain(StatusCode::NO_CONTENT, "This is the last hop."),
        Fault::Field => plain(StatusCode::BAD_REQUEST, "A field of the request is not valid."),
        Fault::Version => {
            let detail = "HTTP/1.0, HTTP/1.1 and HTTP/2 are understood here.";
            plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, detail)
        }
    }
}

fn plain(status: StatusCode, detail: &str) -> Problem {
    let detail = detail.to_owned();
    Problem { status, detail, reason: None, proxy_status: None, retry_after: None }
}

fn rejected(rejection: Rejection, style: &Reject) -> Problem {
    let reason = rejection.reason.label();
    let (error, why) = match rejection.reason {
        RejectReason::QueueFull => ("connection_limit_reached", "The queue is full"),
        RejectReason::MaxWait => ("connection_limit_reached", "No capacity came free in time"),
        RejectReason::Deadline => {
            ("connection_limit_reached", "The answer would come after the request's deadline")
        }
        RejectReason::StandingQueue => {
            ("connection_limit_reached", "The queue does not empty, and waits are held short")
        }
        RejectReason::Evicted => {
            ("connection_limit_reached", "The queue is full, and another request came first")
        }
        RejectReason::UpstreamDown => {
            ("destination_unavailable", "The application has been away for too long")
        }
        RejectReason::Draining => ("destination_unavailable", "The server is shutting down"),
    };
    let retry_after = match style.retry_after {
        RetryAfter::Auto => Some(rejection.retry_after),
        RetryAfter::Fixed(seconds) => Some(seconds),
        RetryAfter::Off => None,
    };
    let mut detail = format!("{why}; the request was not started.");
    if let Some(seconds) = retry_after {
        write!(detail, " Retry in {seconds} s.").expect("writing to a string succeeds");
    }
    Problem {
        status: StatusCode::from_u16(style.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        detail,
        reason: Some(reason),
        proxy_status: Some(format!("tidegate; error={error}; details=\"{reason}\"")),
        retry_after,
    }
}

/// The statuses that RFC 9209, section 2.3, recommends for its error types.
fn failed(error: UpstreamError) -> Problem {
    let status = match error {
        UpstreamError::ConnectionTimeout | UpstreamError::HttpResponseTimeout => {
            StatusCode::GATEWAY_TIMEOUT
        }
        UpstreamError::ConnectionLimitReached => StatusCode::SERVICE_UNAVAILABLE,
        UpstreamError::DnsError
        | UpstreamError::ConnectionRefused
        | UpstreamError::DestinationIpUnroutable
        | UpstreamError::ConnectionTerminated
        | UpstreamError::HttpResponseIncomplete
        | UpstreamError::HttpResponseHeaderSectionSize
        | UpstreamError::HttpProtocolError
        | UpstreamError::TlsProtocolError
        | UpstreamError::TlsCertificateError
        | UpstreamError::TlsAlertReceived
        | UpstreamError::ProxyInternalError => StatusCode::BAD_GATEWAY,
    };
    let said = error.to_string();
    let mut detail = said[..1].to_uppercase();
    detail.push_str(&said[1..]);
    detail.push('.');
    Problem {
        status,
        detail,
        reason: Some(error.token()),
        proxy_status: Some(format!("tidegate; error={}", error.token())),
        retry_after: None,
    }
}

fn body(problem: &Problem, style: RejectBody) -> Bytes {
    let title = problem.status.canonical_reason().unwrap_or("Error");
    let status = problem.status.as_u16();
    let detail = &problem.detail;
    let mut text = String::with_capacity(192);
    // Every part is our own text without quotes or backslashes: nothing needs escaping.
    let written = match style {
        RejectBody::None => Ok(()),
        RejectBody::Text => writeln!(text, "{status} {title}: {detail}"),
        RejectBody::ProblemJson => write!(
            text,
            r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}""#
        ),
    };
    written.expect("writing to a string succeeds");
    if style == RejectBody::ProblemJson {
        if let Some(reason) = problem.reason {
            write!(text, r#","reason":"{reason}""#).expect("writing to a string succeeds");
        }
        if let Some(seconds) = problem.retry_after {
            write!(text, r#","retry_after":{seconds}"#).expect("writing to a string succeeds");
        }
        text.push('}');
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Reject =
        Reject { status: 503, body: RejectBody::ProblemJson, retry_after: RetryAfter::Auto };

    fn text(refused: Refusal, style: Reject, close: bool) -> String {
        let response = refusal(refused, &style, close, false);
        let mut text = format!("{}\n", response.status());
        for (name, value) in response.headers() {
            writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        text + "\n" + std::str::from_utf8(response.body()).unwrap()
    }

    fn queue_full() -> Refusal {
        Refusal::Rejected(Rejection { reason: RejectReason::QueueFull, retry_after: 2 })
    }

    #[test]
    fn heads_that_cannot_be_read() {
        let status = |head: &str, too_large, full| {
            let found = unreadable(head.as_bytes(), too_large, full);
            found.map(|(status, answer)| {
                assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
                status
            })
        };
        assert_eq!(status("\r\nGET /aaaa", true, true), Some(414));
        assert_eq!(status("GET /aaaa", false, false), None);
        for version in ["HTTP/2.0", "HTTP/3", "HTTP/9.9"] {
            let head = format!("GET / {version}\r\nHost: a\r\n");
            assert_eq!(status(&head, false, false), Some(505));
        }
        assert_eq!(status("GET / HTTP/1.2\r\n\r\n", false, false), None);
        assert_eq!(status("GET / HTTP/1.1\r\nX: aaaa", true, true), None, "the fields are long");
        for rest in ["", "body"] {
            assert_eq!(status(rest, true, false), Some(400), "a length that no number holds");
        }
    }

    #[test]
    fn a_rejection_as_problem_json() {
        assert_eq!(
            text(queue_full(), STYLE, false),
            "503 Service Unavailable\n\
             retry-after: 2\n\
             proxy-status: tidegate; error=connection_limit_reached; details=\"queue_full\"\n\
             cache-control: no-store\n\
             content-type: application/problem+json\n\n\
             {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
             \"detail\":\"The queue is full; the request was not started. Retry in 2 s.\",\
             \"reason\":\"queue_full\",\"retry_after\":2}"
        );
    }

    #[test]
    fn a_rejection_as_text_and_as_nothing() {
        let style =
            Reject { status: 429, body: RejectBody::Text, retry_after: RetryAfter::Fixed(7) };
        assert_eq!(
            text(queue_full(), style, true),
            "429 Too Many Requests\n\
             retry-after: 7\n\
             proxy-status: tidegate; error=connection_limit_reached; details=\"queue_full\"\n\
             cache-control: no-store\n\
             content-type: text/plain; charset=utf-8\n\
             connection: close\n\n\
             429 Too Many Requests: The queue is full; the request was not started. Retry in 7 s.\n"
        );
        let style = Reject { body: RejectBody::None, retry_after: RetryAfter::Off, ..STYLE };
        assert_eq!(
            text(queue_full(), style, false),
            "503 Service Unavailable\n\
             proxy-status: tidegate; error=connection_limit_reached; details=\"queue_full\"\n\
             cache-control: no-store\n\n"
        );
    }

    #[test]
    fn a_failure_of_the_application_is_no_rejection() {
        assert_eq!(
            text(Refusal::Failed(UpstreamError::ConnectionRefused), STYLE, false),
            "502 Bad Gateway\n\
             proxy-status: tidegate; error=connection_refused\n\
             cache-control: no-store\n\
             content-type: application/problem+json\n\n\
             {\"type\":\"about:blank\",\"title\":\"Bad Gateway\",\"status\":502,\
             \"detail\":\"The upstream refused the connection.\",\"reason\":\"connection_refused\"}"
        );
        let timeout = text(Refusal::Failed(UpstreamError::HttpResponseTimeout), STYLE, false);
        assert!(timeout.starts_with("504 Gateway Timeout\n"), "{timeout}");
    }

    #[test]
    fn every_body_is_valid_json() {
        let mut refusals: Vec<_> = [
            Fault::Host,
            Fault::Target,
            Fault::Ambiguous,
            Fault::Framing,
            Fault::Coding,
            Fault::Connect,
            Fault::Trace,
            Fault::Version,
            Fault::Field,
        ]
        .map(Refusal::Fault)
        .into();
        refusals.extend([Refusal::Denied, Refusal::BadBody, Refusal::SlowBody]);
        refusals.extend(
            RejectReason::ALL
                .map(|reason| Refusal::Rejected(Rejection { reason, retry_after: 30 })),
        );
        for refused in refusals {
            let response = refusal(refused, &STYLE, false, false);
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["status"], response.status().as_u16());
        }
    }
}
