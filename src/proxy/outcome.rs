//! What the gate learns from an exchange: see [`Outcome`].
//!
//! Only ordinary requests of routes that share the budget teach it anything. A stream says nothing
//! of how fast the application is, and neither does a client that leaves.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};

use super::upload::UploadState;
use crate::gate::Outcome;
use crate::upstream::UpstreamError;

/// The application answered, so long after the grant; `telling`: that time says something of the
/// application.
pub(super) fn answered(status: StatusCode, service_time: Duration, telling: bool) -> Outcome {
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Outcome::Overloaded,
        _ if telling => Outcome::Answered(service_time),
        _ => Outcome::Unknown,
    }
}

/// The application gave no answer. `stale`: on a connection that had served before and brought
/// nothing, which happens to any application that closes what is idle.
pub(super) fn failed(error: UpstreamError, stale: bool, upload: Option<UploadState>) -> Outcome {
    if let Some(UploadState::Broken | UploadState::Silent) = upload {
        return Outcome::Unknown;
    }
    match error {
        UpstreamError::ConnectionRefused => Outcome::Overloaded,
        UpstreamError::ConnectionTerminated if !stale => Outcome::Overloaded,
        // A full backlog drops what comes: no connection in time is no answer in time.
        UpstreamError::ConnectionTimeout | UpstreamError::HttpResponseTimeout => Outcome::TimedOut,
        _ => Outcome::Unknown,
    }
}

/// Whether a response stays open until somebody ends it, however fast the application is: a tunnel,
/// or the stream that an `EventSource` subscribes to, always with GET (HTML Standard, 9.2). Events
/// that answer a POST are work in progress, such as the words of a language model.
pub(super) fn stays_open(method: &Method, status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || *method == Method::GET && is_event_stream(headers)
}

pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let prefix = b"text/event-stream";
    kind.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn answers() {
        let time = Duration::from_millis(10);
        let of = |status: u16, telling: bool| {
            answered(StatusCode::from_u16(status).unwrap(), time, telling)
        };
        for status in [200, 204, 304, 404, 500, 502] {
            assert_eq!(of(status, true), Outcome::Answered(time), "{status}");
            assert_eq!(of(status, false), Outcome::Unknown, "{status}");
        }
        for status in [503, 429] {
            assert_eq!(of(status, true), Outcome::Overloaded);
            assert_eq!(of(status, false), Outcome::Overloaded);
        }
    }

    #[test]
    fn what_stays_open() {
        let of = |method: Method, status: u16, kind: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            stays_open(&method, StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert!(of(Method::GET, 101, "") && of(Method::POST, 101, ""));
        assert!(of(Method::GET, 200, "Text/Event-Stream; charset=utf-8"));
        assert!(!of(Method::POST, 200, "text/event-stream"));
        assert!(!of(Method::GET, 200, "text/html") && !of(Method::GET, 200, ""));
    }

    #[test]
    fn failures() {
        use UpstreamError as E;
        assert_eq!(failed(E::ConnectionRefused, false, None), Outcome::Overloaded);
        assert_eq!(failed(E::ConnectionTerminated, false, None), Outcome::Overloaded);
        assert_eq!(failed(E::ConnectionTerminated, true, None), Outcome::Unknown);
        assert_eq!(failed(E::ConnectionTimeout, false, None), Outcome::TimedOut);
        assert_eq!(failed(E::HttpResponseTimeout, false, None), Outcome::TimedOut);
        assert_eq!(failed(E::ConnectionLimitReached, false, None), Outcome::Unknown);
        assert_eq!(failed(E::HttpProtocolError, false, None), Outcome::Unknown);
        let broken = Some(UploadState::Broken);
        assert_eq!(failed(E::ConnectionTerminated, false, broken), Outcome::Unknown);
        let whole = Some(UploadState::Whole);
        assert_eq!(failed(E::ConnectionTerminated, false, whole), Outcome::Overloaded);
    }
}
