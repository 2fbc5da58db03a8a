//! Interim responses (1xx) of the application on their way to the client.
//!
//! A proxy passes them on (RFC 9110, section 15.2). They wait here until whoever writes to the
//! client takes them. On a stream of HTTP/2 that is who serves it; hyper's server of HTTP/1 cannot
//! send any, so that whoever writes for it asks each time that hyper has nothing more to write.
//! Knows nothing of sockets.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{StatusCode, Version};

use super::headers;

/// As much as may wait to be sent, in bytes; what comes beyond is dropped.
const MOST: usize = 64 * 1024;
/// What a status line and the end of a head take, roughly.
const LINE: usize = 40;

/// What the requests of a connection of HTTP/1, one after the other, or the one of a stream of
/// HTTP/2, are told before their responses.
#[derive(Debug, Default)]
pub struct Interims(Mutex<State>);

/// An interim response.
#[derive(Debug)]
pub struct Said {
    /// 102 to 199, or 100 where the client speaks HTTP/2.
    pub status: StatusCode,
    /// What may be passed on of its fields.
    pub fields: HeaderMap,
}

#[derive(Debug, Default)]
struct State {
    /// Counts requests: what comes late belongs to none that is open.
    request: u64,
    /// Of who writes to the client, while a request waits for its response.
    open: Option<Waker>,
    waiting: Vec<Said>,
    /// Bytes of what waits.
    size: usize,
    /// Of a stream of HTTP/2: bytes that have been taken. Nobody knows whether the client has.
    taken: usize,
    /// The body is to be asked for.
    asks: bool,
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
        if version < Version::HTTP_11 {
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

    /// Takes what waits to be sent. Ask only between two messages.
    #[must_use]
    pub fn take(&self) -> Vec<Said> {
        self.lock().take()
    }

    /// The same on a stream of HTTP/2, where it is taken at once and may wait elsewhere: all in all
    /// no more than may wait here.
    #[must_use]
    pub fn take_some(&self) -> Vec<Said> {
        let mut state = self.lock();
        let mut some = state.take();
        some.retain(|said| {
            state.taken += said.size();
            state.taken <= MOST
        });
        if std::mem::take(&mut state.asks) {
            some.push(interim(StatusCode::CONTINUE, HeaderMap::new()));
        }
        some
    }

    /// The client is to send its request's body (100). Of HTTP/2: in HTTP/1 hyper says so.
    pub fn ask_for_body(&self) {
        let mut state = self.lock();
        if let Some(waker) = &state.open {
            waker.wake_by_ref();
            state.asks = true;
        }
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
        state.size = 0;
    }
}

// === impl Interim ===

impl Interim {
    /// An interim response came. 100 is no news, since it means the body of this hop, and neither
    /// is 101.
    pub(super) fn say(&self, status: StatusCode, fields: &HeaderMap) {
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        let said = interim(status, fields.clone());
        let mut state = self.interims.lock();
        if state.request == self.request {
            state.say(said);
        }
    }
}

// === impl State ===

impl State {
    fn take(&mut self) -> Vec<Said> {
        if !self.waiting.is_empty()
            && let Some(waker) = &self.open
        {
            waker.wake_by_ref();
        }
        self.size = 0;
        std::mem::take(&mut self.waiting)
    }

    fn say(&mut self, said: Said) {
        let size = said.size();
        let Some(waker) = &self.open else { return };
        if self.size + size <= MOST {
            waker.wake_by_ref();
            self.waiting.push(said);
            self.size += size;
        }
    }
}

/// An interim response as it may be passed on.
fn interim(status: StatusCode, mut fields: HeaderMap) -> Said {
    headers::response(&mut fields, status);
    // It has no body, whatever it says.
    fields.remove(CONTENT_LENGTH);
    fields.remove(TRANSFER_ENCODING);
    Said { status, fields }
}

// === impl Said ===

impl Said {
    /// As it is sent over HTTP/1.1.
    pub fn write(&self, head: &mut Vec<u8>) {
        let (status, reason) = (self.status.as_u16(), self.status.canonical_reason());
        let line = format!("HTTP/1.1 {status} {}\r\n", reason.unwrap_or_default());
        head.extend_from_slice(line.as_bytes());
        for (name, value) in &self.fields {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
    }

    fn size(&self) -> usize {
        let fields = self.fields.iter();
        LINE + fields.map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
    }
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

    fn taken(interims: &Interims) -> String {
        let mut text = Vec::new();
        interims.take().iter().for_each(|said| said.write(&mut text));
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_told_while_it_waits_and_not_after() {
        let interims = Arc::new(Interims::default());
        let opened = interims.open(Version::HTTP_11).await.unwrap();
        let interim = opened.interim();
        interim.say(StatusCode::CONTINUE, &HeaderMap::new());
        assert!(interims.take().is_empty());
        interim.say(StatusCode::EARLY_HINTS, &early_hints());
        assert_eq!(
            taken(&interims),
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n"
        );
        opened.taken().await;
        interim.say(StatusCode::PROCESSING, &HeaderMap::new());
        drop(opened);
        assert!(interims.take().is_empty(), "the client left");
        interim.say(StatusCode::PROCESSING, &HeaderMap::new());
        let _next = interims.open(Version::HTTP_11).await.unwrap();
        interim.say(StatusCode::PROCESSING, &HeaderMap::new());
        assert!(interims.take().is_empty(), "the next request has nothing to do with it");
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let interims = Arc::new(Interims::default());
        let opened = interims.open(Version::HTTP_11).await.unwrap();
        for _ in 0..10_000 {
            opened.interim().say(StatusCode::PROCESSING, &HeaderMap::new());
        }
        let waiting = taken(&interims).len();
        assert!((MOST / 2..=MOST).contains(&waiting), "{waiting}");
    }

    #[tokio::test]
    async fn an_older_version_has_none() {
        let interims = Arc::new(Interims::default());
        assert!(interims.open(Version::HTTP_10).await.is_none());
        assert!(interims.open(Version::HTTP_2).await.is_some());
    }

    #[tokio::test]
    async fn a_body_is_asked_for_as_long_as_there_is_no_response() {
        let interims = Arc::new(Interims::default());
        interims.ask_for_body();
        assert!(interims.take_some().is_empty());
        let opened = interims.open(Version::HTTP_2).await.unwrap();
        // However much else there is to say.
        for _ in 0..10 {
            for _ in 0..1_000 {
                opened.interim().say(StatusCode::PROCESSING, &HeaderMap::new());
            }
            let _ = interims.take_some();
        }
        interims.ask_for_body();
        let said: Vec<_> = interims.take_some().iter().map(|said| said.status).collect();
        assert_eq!(said, [StatusCode::CONTINUE]);
        drop(opened);
        interims.ask_for_body();
        assert!(interims.take_some().is_empty());
    }
}
