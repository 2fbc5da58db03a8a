//! The access log: a line for a request that is worth one.
//!
//! `[log] access` says which: `all`, `errors` or `off`, whatever the log's level. The query is
//! never written, since it is where tokens and personal data stand; neither is user information in
//! a target.
//!
//! A flood must not make logging the load, so rejections and failures of the upstream are thinned
//! out in both modes, and in mode `errors` every line is: five a second in full, the rest as one
//! summary line a second for each route and cause. No request goes without being either written or
//! counted.

mod limiter;
mod recent;
mod text;
mod trace;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, event};

use crate::config::AccessLog;
use crate::telemetry::metrics::AbortStage;
use limiter::{Limiter, Summary};
use recent::Recent;
pub use recent::Rejected;
use text::{Cut, path};

/// The `target` of access lines.
pub const TARGET: &str = "tidegate::access";

/// Bytes of a path that are written; a longer one is cut and ends in `…`.
const MAX_PATH: usize = 1 << 10;
/// Bytes of a host name; DNS allows 253.
const MAX_HOST: usize = 255;
/// Bytes of a method; the registered ones have at most 17.
const MAX_METHOD: usize = 32;

/// What a request's line says.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// The route's name.
    pub route: &'a str,
    /// Who asked: the first untrusted address.
    pub client: IpAddr,
    /// As received.
    pub method: &'a str,
    /// The request target as received; only its path is written.
    pub target: &'a str,
    /// The authority as received; may be empty.
    pub host: &'a str,
    /// The status answered; 0 if the client left before there was one.
    pub status: u16,
    /// Why tidegate rejected it.
    pub reason: Option<&'static str>,
    /// How the upstream failed: an RFC 9209 token.
    pub error: Option<&'static str>,
    /// Where the client left.
    pub aborted: Option<AbortStage>,
    /// Arrival to grant, or to the end of the wait.
    pub queue_wait: Duration,
    /// Grant to response head; none if it was not forwarded or not answered.
    pub upstream_time: Option<Duration>,
    /// Arrival to the end of the response body.
    pub total: Duration,
    /// Bytes of request body received.
    pub bytes_in: u64,
    /// Bytes of response body sent.
    pub bytes_out: u64,
    /// The raw `traceparent` field; its trace id is written if it is valid.
    pub traceparent: Option<&'a [u8]>,
    /// The response broke off before its end, on either side.
    pub broke_off: bool,
}

impl AccessRecord<'_> {
    /// Whether something other than the application's own answer is to be told.
    pub fn troubled(&self) -> bool {
        self.reason.is_some() || self.error.is_some() || self.broke_off
    }
}

/// Writes access lines. One for the process; its methods may be called from every worker.
pub struct AccessLogger {
    /// An [`AccessLog`].
    mode: AtomicU8,
    rejections: Mutex<Limiter>,
    failures: Mutex<Limiter>,
    recent: Recent,
}

impl AccessLogger {
    /// A logger for the configured mode.
    pub fn new(mode: AccessLog) -> AccessLogger {
        AccessLogger {
            mode: AtomicU8::new(mode as u8),
            rejections: Mutex::default(),
            failures: Mutex::default(),
            recent: Recent::default(),
        }
    }

    /// Changes the mode.
    pub fn set_mode(&self, mode: AccessLog) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Whether [`log`](AccessLogger::log) has any use for a request: a cheap question to ask before
    /// a record is put together. `troubled`: it was rejected, its upstream failed or its response
    /// broke off.
    pub fn wants(&self, status: u16, troubled: bool) -> bool {
        const OFF: u8 = AccessLog::Off as u8;
        const ERRORS: u8 = AccessLog::Errors as u8;
        match self.mode.load(Ordering::Relaxed) {
            OFF => false,
            ERRORS => troubled || status >= 500,
            _ => true,
        }
    }

    /// Writes the request's line, or counts it for a summary, or neither if it is not wanted.
    pub fn log(&self, record: &AccessRecord<'_>) {
        if self.wants(record.status, record.troubled()) {
            self.log_at(Instant::now(), record);
        }
    }

    /// [`log`](AccessLogger::log) at a given time.
    pub fn log_at(&self, now: Instant, record: &AccessRecord<'_>) {
        if !self.wants(record.status, record.troubled()) {
            return;
        }
        let (flood, cause) = match (record.reason, record.error) {
            (Some(reason), _) => (Flood::Rejections, reason),
            (None, Some(error)) => (Flood::Failures, error),
            (None, None) if self.mode.load(Ordering::Relaxed) == AccessLog::All as u8 => {
                return write(record);
            }
            (None, None) if record.broke_off => (Flood::Failures, "broke_off"),
            (None, None) => (Flood::Failures, "status_5xx"),
        };
        let (over, in_full) = {
            let mut limiter = lock(self.limiter(flood));
            (limiter.due(now), limiter.admit(now, record.route, cause))
        };
        summarize(flood, &over);
        if in_full {
            write(record);
        }
    }

    /// Writes the summaries of floods whose second is over. To be called about once a second, so
    /// that one appears also when the flood has stopped.
    pub fn tick(&self, now: Instant) {
        for flood in Flood::BOTH {
            let over = lock(self.limiter(flood)).due(now);
            summarize(flood, &over);
        }
    }

    /// Writes every pending summary at once: for the end of the process.
    pub fn flush(&self) {
        for flood in Flood::BOTH {
            let over = lock(self.limiter(flood)).close();
            summarize(flood, &over);
        }
    }

    /// Whether [`remember`](AccessLogger::remember) has any use for one more rejection of this
    /// second: a cheap question to ask before a record is put together.
    pub fn remembers(&self) -> bool {
        self.recent.wants()
    }

    /// Keeps a rejection for [`recent`](AccessLogger::recent).
    pub fn remember(&self, record: &AccessRecord<'_>) {
        if let Some(reason) = record.reason {
            let off = self.mode.load(Ordering::Relaxed) == AccessLog::Off as u8;
            self.recent.push(record, reason, !off);
        }
    }

    /// A few of the last rejections, the newest first.
    pub fn recent(&self) -> Vec<Rejected> {
        self.recent.list()
    }

    /// To be called once a second, so that a few rejections of each are kept.
    pub fn new_second(&self) {
        self.recent.refill();
    }

    fn limiter(&self, flood: Flood) -> &Mutex<Limiter> {
        match flood {
            Flood::Rejections => &self.rejections,
            Flood::Failures => &self.failures,
        }
    }
}

/// Which five lines a second a request takes one of: a flood of one must not hide the other.
#[derive(Clone, Copy)]
enum Flood {
    Rejections,
    Failures,
}

impl Flood {
    const BOTH: [Flood; 2] = [Flood::Rejections, Flood::Failures];
}

/// A limiter's state is whole between any two of its statements, so a poisoned lock tells nothing.
fn lock(limiter: &Mutex<Limiter>) -> std::sync::MutexGuard<'_, Limiter> {
    limiter.lock().unwrap_or_else(PoisonError::into_inner)
}

fn summarize(flood: Flood, summaries: &[Summary]) {
    for Summary { route, cause, count } in summaries {
        // None where more pairs of route and cause occurred than are counted apart.
        let route = Some(route.as_str()).filter(|route| !route.is_empty());
        let cause = Some(*cause).filter(|cause| !cause.is_empty());
        match flood {
            Flood::Rejections => {
                event!(target: TARGET, Level::WARN, route, reason = cause, count, "more rejected");
            }
            Flood::Failures => {
                event!(target: TARGET, Level::WARN, route, error = cause, count, "more failed");
            }
        }
    }
}

fn write(record: &AccessRecord<'_>) {
    // A level is part of a call site, so two levels are two of them.
    macro_rules! line {
        ($level:expr) => {
            event!(
                target: TARGET,
                $level,
                route = record.route,
                client = %record.client,
                method = %Cut(record.method, MAX_METHOD),
                path = %Cut(path(record.target), MAX_PATH),
                host = %Cut(record.host, MAX_HOST),
                status = (record.status != 0).then_some(record.status),
                reason = record.reason,
                error = record.error,
                aborted = record.aborted.map(AbortStage::label),
                broke_off = record.broke_off.then_some(true),
                queue_wait_ms = millis(record.queue_wait),
                upstream_ms = record.upstream_time.map(millis),
                total_ms = millis(record.total),
                bytes_in = record.bytes_in,
                bytes_out = record.bytes_out,
                trace_id = record.traceparent.and_then(trace::trace_id),
                "request"
            )
        };
    }
    if record.troubled() || record.status >= 500 {
        line!(Level::WARN);
    } else {
        line!(Level::INFO);
    }
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;
    use crate::telemetry::logging::tests::captured;

    fn record() -> AccessRecord<'static> {
        AccessRecord {
            route: "api",
            client: [192, 0, 2, 1].into(),
            method: "GET",
            target: "/a?token=secret",
            host: "example.org",
            status: 200,
            reason: None,
            error: None,
            aborted: None,
            queue_wait: Duration::from_micros(1_234),
            upstream_time: Some(Duration::from_millis(20)),
            total: Duration::from_nanos(25_000_999),
            bytes_in: 1,
            bytes_out: 2,
            traceparent: Some(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            broke_off: false,
        }
    }

    fn rejected(reason: &'static str) -> AccessRecord<'static> {
        AccessRecord { status: 503, reason: Some(reason), upstream_time: None, ..record() }
    }

    fn logged(mode: AccessLog, records: &[AccessRecord<'_>]) -> Vec<serde_json::Value> {
        captured(LogLevel::Info, || {
            let (logger, now) = (AccessLogger::new(mode), Instant::now());
            records.iter().for_each(|record| logger.log_at(now, record));
        })
    }

    #[test]
    fn a_line_says_what_happened_and_keeps_the_query_out() {
        let mut lines = logged(AccessLog::All, &[record()]);
        let line = lines[0].as_object_mut().unwrap();
        line.remove("timestamp");
        let expected = serde_json::json!({
            "level": "INFO", "message": "request", "target": "tidegate::access",
            "route": "api", "client": "192.0.2.1", "method": "GET", "path": "/a",
            "host": "example.org", "status": 200, "queue_wait_ms": 1.234, "upstream_ms": 20,
            "total_ms": 25, "bytes_in": 1, "bytes_out": 2,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        });
        assert_eq!(serde_json::Value::from(line.clone()), expected);
    }

    #[test]
    fn mode_errors_takes_errors_rejections_and_what_broke_off() {
        let wanted = [
            AccessRecord { status: 500, ..record() },
            rejected("queue_full"),
            AccessRecord { error: Some("connection_refused"), status: 502, ..record() },
            AccessRecord { broke_off: true, aborted: Some(AbortStage::ResponseBody), ..record() },
            // A rejection over gRPC is a 200.
            AccessRecord { reason: Some("max_wait"), ..record() },
        ];
        let unwanted = [
            record(),
            AccessRecord { status: 404, ..record() },
            AccessRecord { status: 0, aborted: Some(AbortStage::Queued), ..record() },
        ];
        let lines = logged(AccessLog::Errors, &[&unwanted[..], &wanted[..]].concat());
        assert_eq!(lines.len(), wanted.len());
        assert!(lines.iter().all(|line| line["level"] == "WARN"));
        assert_eq!(lines[1]["reason"], "queue_full");
        assert_eq!(lines[2]["error"], "connection_refused");
        assert_eq!(
            (&lines[3]["broke_off"], &lines[3]["aborted"]),
            (&true.into(), &"response_body".into())
        );
        assert_eq!(logged(AccessLog::All, &unwanted).len(), 3);
        assert!(logged(AccessLog::Off, &wanted).is_empty());
    }

    #[test]
    fn a_flood_ends_in_a_summary_and_does_not_hide_the_other_kind() {
        let lines = captured(LogLevel::Info, || {
            let (logger, now) = (AccessLogger::new(AccessLog::Errors), Instant::now());
            for _ in 0..100 {
                logger.log_at(now, &rejected("queue_full"));
            }
            for _ in 0..7 {
                let failed = AccessRecord { error: Some("connection_refused"), ..record() };
                logger.log_at(now, &failed);
            }
            logger.tick(now);
            logger.tick(now + Duration::from_secs(1));
            logger.tick(now + Duration::from_secs(2));
        });
        let requests = lines.iter().filter(|line| line["message"] == "request").count();
        assert_eq!((requests, lines.len()), (10, 12));
        let (rejected, failed) = (&lines[10], &lines[11]);
        assert_eq!(rejected["message"], "more rejected");
        assert_eq!((&rejected["route"], &rejected["count"]), (&"api".into(), &95.into()));
        assert_eq!(rejected["reason"], "queue_full");
        assert_eq!((&failed["error"], &failed["count"]), (&"connection_refused".into(), &2.into()));
    }

    #[test]
    fn the_end_of_the_process_brings_out_what_is_pending() {
        let lines = captured(LogLevel::Info, || {
            let logger = AccessLogger::new(AccessLog::All);
            (0..6).for_each(|_| logger.log(&rejected("draining")));
            logger.flush();
        });
        assert_eq!((lines.len(), &lines[5]["count"]), (6, &1.into()));
    }

    #[test]
    fn a_request_cannot_forge_a_line_or_fill_the_log() {
        let long = format!("/{}", "é".repeat(2_000));
        let hostile = AccessRecord {
            method: "GET\n{\"level\":\"ERROR\"}",
            target: &long,
            host: "a\u{1b}[2J\u{2028}\"\\b",
            ..record()
        };
        let lines = logged(AccessLog::All, &[hostile]);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["method"], "GET\n{\"level\":\"ERROR\"}");
        assert_eq!(lines[0]["host"], "a\u{1b}[2J\u{2028}\"\\b");
        let path = lines[0]["path"].as_str().unwrap();
        assert!(path.ends_with("é…") && path.len() <= MAX_PATH + "…".len(), "{}", path.len());
    }
}
