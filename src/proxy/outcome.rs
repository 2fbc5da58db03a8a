//! What the gate learns from an exchange: see [`Outcome`].
//!
//! Only ordinary requests of routes that share the budget teach it anything. A stream says nothing
//! of how fast the application is, and neither does a client that leaves.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use super::upload::UploadState;
use crate::gate::Outcome;
use crate::upstream::UpstreamError;

/// The application answered, so long after the grant; `spoilt`: the worker was late, which makes
/// the time say little of the application.
pub(super) fn answered(
    status: StatusCode,
    headers: &HeaderMap,
    service_time: Duration,
    spoilt: bool,
) -> Outcome {
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Outcome::Overloaded,
        _ if spoilt || stays_open(status, headers) => Outcome::Unknown,
        _ => Outcome::Answered(service_time),
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

/// Whether a response stays open until somebody ends it, however fast the application is.
pub(super) fn stays_open(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || is_event_stream(headers)
}

pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let prefix = b"text/event-stream";
    kind.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::lag::Lag;
    use http::HeaderValue;

    #[tokio::test(start_paused = true)]
    async fn answers() {
        let (lag, time) = (Lag::new(), Duration::from_millis(10));
        let of = |status: u16, kind: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            answered(StatusCode::from_u16(status).unwrap(), &headers, time, lag.spoils(time))
        };
        for status in [200, 204, 304, 404, 500, 502] {
            assert_eq!(of(status, "text/html"), Outcome::Answered(time), "{status}");
        }
        assert_eq!(of(503, "text/html"), Outcome::Overloaded);
        assert_eq!(of(429, "text/html"), Outcome::Overloaded);
        assert_eq!(of(101, ""), Outcome::Unknown);
        assert_eq!(of(200, "Text/Event-Stream; charset=utf-8"), Outcome::Unknown);
        lag.measured(Duration::from_millis(6), tokio::time::Instant::now() + time);
        assert_eq!(of(200, "text/html"), Outcome::Unknown);
        assert_eq!(of(503, "text/html"), Outcome::Overloaded);
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
