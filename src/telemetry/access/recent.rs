//! The last rejections, for people who look at the admin page: a few, and never more than a few a
//! second, so that a flood of them costs next to nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::AccessRecord;
use super::text::{Cut, path};

/// How many are kept.
const KEPT: usize = 20;
/// How many of a second are kept: a flood shows a handful and not twenty of one millisecond.
const A_SECOND: u32 = 5;
/// Bytes of a path that are kept.
const MAX_PATH: usize = 96;

/// A request that was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// When.
    pub at: SystemTime,
    /// The route's name.
    pub route: String,
    /// Why.
    pub reason: &'static str,
    /// The method as received.
    pub method: String,
    /// Its path without the query; empty where the access log is off: what must not be logged is
    /// not shown either.
    pub path: String,
    /// How long it had waited.
    pub waited: Duration,
}

/// The last of them.
#[derive(Debug)]
pub(super) struct Recent {
    left: AtomicU32,
    kept: Mutex<VecDeque<Rejected>>,
}

// === impl Recent ===

impl Recent {
    /// Whether one more of this second is kept; asked before anything is put together.
    pub(super) fn wants(&self) -> bool {
        // Two at once may both be taken for the last one: then one more is kept.
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return false;
        }
        self.left.store(left - 1, Ordering::Relaxed);
        true
    }

    pub(super) fn push(&self, record: &AccessRecord<'_>, reason: &'static str, paths: bool) {
        let path = if paths { path(record.target) } else { "" };
        let rejected = Rejected {
            at: SystemTime::now(),
            route: record.route.to_owned(),
            reason,
            method: Cut(record.method, super::MAX_METHOD).to_string(),
            path: Cut(path, MAX_PATH).to_string(),
            waited: record.queue_wait,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(rejected);
    }

    /// A new second begins.
    pub(super) fn refill(&self) {
        self.left.store(A_SECOND, Ordering::Relaxed);
    }

    /// The newest first.
    pub(super) fn list(&self) -> Vec<Rejected> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().cloned().collect()
    }
}

impl Default for Recent {
    fn default() -> Recent {
        Recent { left: AtomicU32::new(A_SECOND), kept: Mutex::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccessLog;
    use crate::telemetry::access::AccessLogger;
    use std::net::Ipv4Addr;

    fn record(target: &str) -> AccessRecord<'_> {
        AccessRecord {
            route: "r",
            client: Ipv4Addr::LOCALHOST.into(),
            method: "GET",
            target,
            host: "h",
            status: 503,
            reason: Some("queue_full"),
            error: None,
            aborted: None,
            queue_wait: Duration::from_millis(7),
            upstream_time: None,
            total: Duration::from_millis(7),
            bytes_in: 0,
            bytes_out: 0,
            traceparent: None,
            broke_off: false,
        }
    }

    fn keep(logger: &AccessLogger, target: &str) {
        if logger.remembers() {
            logger.remember(&record(target));
        }
    }

    #[test]
    fn a_few_of_each_second_are_kept_and_the_newest_come_first() {
        let logger = AccessLogger::new(AccessLog::Errors);
        for second in 0..9 {
            for number in 0..1000 {
                keep(&logger, &format!("/{second}/{number}?secret"));
            }
            logger.new_second();
        }
        let kept = logger.recent();
        assert_eq!(kept.len(), KEPT);
        assert_eq!((kept[0].path.as_str(), kept[19].path.as_str()), ("/8/4", "/5/0"));
        assert_eq!((kept[0].reason, kept[0].waited), ("queue_full", Duration::from_millis(7)));
    }

    #[test]
    fn what_is_not_logged_is_not_shown() {
        let logger = AccessLogger::new(AccessLog::Off);
        keep(&logger, "/private/path");
        assert_eq!(logger.recent()[0].path, "");
    }
}
