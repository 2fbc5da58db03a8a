//! Interim responses (1xx) of the application on their way to a client of HTTP/1.1.
//!
//! A proxy passes them on (RFC 9110, section 15.2). hyper's server cannot send any, so that they go
//! past it: whoever writes for hyper asks here, each time that hyper has nothing more to write, for
//! what is to be said before the response. Knows nothing of sockets.

use std::fmt::Write;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{StatusCode, Version};

use super::headers;

/// As much as may wait to be written; what comes beyond is dropped.
const MOST: usize = 64 * 1024;

/// What the requests of a connection, one after the other, are told before their responses.
#[derive(Debug, Default)]
pub struct Interims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Counts requests: what comes late belongs to none that is open.
    request: u64,
    /// Of the connection, while a request waits for its response.
    open: Option<Waker>,
    waiting: Vec<u8>,
}

/// A request that may be told something. Its end closes it.
#[derive(Debug)]
pub(super) struct Opened {
    interims: Arc<Interims>,
    request: u64,
}

/// Where to say it.
#[derive(Clone, Debug)]
pub(super) struct Interim {
    interims: Arc<Interims>,
    request: u64,
}

// === impl Interims ===

impl Interims {
    /// A request begins to wait for its response. `None`: its client would not understand (RFC
    /// 9110, section 15.2: "a server MUST NOT send a 1xx response to an HTTP/1.0 client").
    pub(super) async fn open(self: &Arc<Interims>, version: Version) -> Option<Opened> {
        if version != Version::HTTP_11 {
            return None;
        }
        let request = poll_fn(|task| {
            let mut state = self.lock();
            state.request += 1;
            state.open = Some(task.waker().clone());
            Poll::Ready(state.request)
        });
        Some(Opened { request: request.await, interims: Arc::clone(self) })
    }

    /// Takes what waits to be written. Ask only between two messages.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            return None;
        }
        if let Some(waker) = &state.open {
            waker.wake_by_ref();
        }
        Some(std::mem::take(&mut state.waiting))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}

// === impl Opened ===

impl Opened {
    /// Where the application's connection says what came.
    pub(super) fn interim(&self) -> Interim {
        Interim { interims: Arc::clone(&self.interims), request: self.request }
    }

    /// Waits until what came before the response has been taken.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost but the wait.
    pub(super) async fn taken(&self) {
        poll_fn(|task| {
            let mut state = self.interims.lock();
            if state.waiting.is_empty() {
                return Poll::Ready(());
            }
            state.open = Some(task.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = self.interims.lock();
        state.open = None;
        state.waiting.clear();
    }
}

// === impl Interim ===

impl Interim {
    /// An interim response came. Those of which hyper takes care by itself are no news: 100, which
    /// means the body of this hop, and 101.
    pub(super) fn say(&self, status: StatusCode, fields: &HeaderMap) {
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        let head = written(status, fields.clone());
        let mut state = self.interims.lock();
        if state.request != self.request || state.waiting.len() + head.len() > MOST {
            return;
        }
        if let Some(waker) = state.open.clone() {
            state.waiting.extend_from_slice(&head);
            drop(state);
            waker.wake();
        }
    }
}

/// The head as it is sent.
fn written(status: StatusCode, mut fields: HeaderMap) -> Vec<u8> {
    headers::response(&mut fields, status);
    // It has no body, whatever it says.
    fields.remove(CONTENT_LENGTH);
    fields.remove(TRANSFER_ENCODING);
    let mut line = String::with_capacity(64);
    let reason = status.canonical_reason().unwrap_or_default();
    write!(line, "HTTP/1.1 {} {reason}\r\n", status.as_u16()).expect("a string takes everything");
    let mut head = line.into_bytes();
    for (name, value) in &fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early_hints() -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in [("link", "</a>"), ("connection", "x"), ("x", "1"), ("link", "</b>")] {
            fields.append(name, value.parse().unwrap());
        }
        fields.insert(CONTENT_LENGTH, 9.into());
        fields
    }

    #[tokio::test]
    async fn a_request_is_told_while_it_waits_and_not_after() {
        let interims = Arc::new(Interims::default());
        let opened = interims.open(Version::HTTP_11).await.unwrap();
        let interim = opened.interim();
        interim.say(StatusCode::CONTINUE, &HeaderMap::new());
        assert_eq!(interims.take(), None);
        interim.say(StatusCode::EARLY_HINTS, &early_hints());
        let said = String::from_utf8(interims.take().unwrap()).unwrap();
        assert_eq!(said, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n");
        opened.taken().await;
        interim.say(StatusCode::PROCESSING, &HeaderMap::new());
        drop(opened);
        assert_eq!(interims.take(), None, "the client left");
        interim.say(StatusCode::PROCESSING, &HeaderMap::new());
        let _next = interims.open(Version::HTTP_11).await.unwrap();
        interim.say(StatusCode::PROCESSING, &HeaderMap::new());
        assert_eq!(interims.take(), None, "the next request has nothing to do with it");
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let interims = Arc::new(Interims::default());
        let opened = interims.open(Version::HTTP_11).await.unwrap();
        for _ in 0..10_000 {
            opened.interim().say(StatusCode::PROCESSING, &HeaderMap::new());
        }
        let waiting = interims.take().unwrap().len();
        assert!((MOST - 100..=MOST).contains(&waiting), "{waiting}");
    }

    #[tokio::test]
    async fn other_versions_have_none() {
        let interims = Arc::new(Interims::default());
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert!(interims.open(version).await.is_none());
        }
    }
}
