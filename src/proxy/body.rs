//! Both bodies on their way through: streamed frame by frame, never collected.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

use super::exchange::Exchange;
use super::finish::{Finish, spawn_rest};
use super::headers;
use crate::admission::Permit;
use crate::gate::Outcome;
use crate::telemetry::metrics::AbortStage;
use crate::upstream::{Lease, UpstreamError};

/// How long a body waits for the application's 100 (RFC 9110, section 10.1.1: "not indefinitely").
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of a response on its way to the client.
#[derive(Debug)]
pub struct ResponseBody(Kind);

#[derive(Debug)]
enum Kind {
    /// Made here, or empty.
    Whole(Option<Bytes>),
    /// Coming from the application.
    Relay(Box<Relay>),
}

/// The application's response while it passes. Holds the permit, within its lease, until the end.
#[derive(Debug)]
struct Relay {
    /// `None` once the body ended or failed.
    open: Option<Open>,
    idle: IdleTimer,
}

/// What ends with the body.
#[derive(Debug)]
struct Open {
    incoming: Incoming,
    lease: Lease<Permit>,
    exchange: Box<Exchange>,
    upload: Option<Arc<Upload>>,
    finish: Option<Finish>,
}

/// The body of a request on its way to the application. It is not read before it is first polled.
pub(super) struct UploadBody {
    incoming: Incoming,
    upload: Arc<Upload>,
    idle: IdleTimer,
    /// Holds the body back until the application has asked for it.
    held: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// How far a request's body has come; outlives the body, which hyper owns.
#[derive(Debug)]
pub(super) struct Upload {
    origin: Instant,
    bytes: AtomicU64,
    /// Microseconds from `origin` to the last byte that moved.
    progress: AtomicU64,
    state: AtomicU8,
    /// The application asked for the body.
    wanted: Notify,
    asked: AtomicBool,
}

/// What became of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum UploadState {
    /// On its way.
    Partial = 0,
    /// Sent to its end.
    Whole = 1,
    /// The client broke off, or broke its framing.
    Broken = 2,
    /// The client fell silent.
    Silent = 3,
}

/// Fires when nothing has moved for a while. Costs nothing as long as something always does.
#[derive(Debug)]
pub(super) struct IdleTimer {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

// === impl ResponseBody ===

impl ResponseBody {
    /// A body that is known whole.
    pub(super) fn whole(bytes: Bytes) -> ResponseBody {
        ResponseBody(Kind::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    /// The rest of an exchange: the body of the application's response.
    pub(super) fn relay(
        incoming: Incoming,
        lease: Lease<Permit>,
        exchange: Box<Exchange>,
        upload: Option<Arc<Upload>>,
        finish: Option<Finish>,
        idle: Option<Duration>,
    ) -> ResponseBody {
        let ended = incoming.is_end_stream();
        let open = Some(Open { incoming, lease, exchange, upload, finish });
        let mut relay = Relay { open, idle: IdleTimer::new(idle) };
        if ended {
            relay.end();
            return ResponseBody(Kind::Whole(None));
        }
        ResponseBody(Kind::Relay(Box::new(relay)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Relay(relay) => relay.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Relay(relay) => relay.open.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Kind::Relay(relay) => match &relay.open {
                Some(open) => open.incoming.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

// === impl Relay ===

impl Relay {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        match Pin::new(&mut open.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.progress();
                open.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
                if is_last(&frame, &open.incoming) {
                    self.end();
                }
                Poll::Ready(Some(Ok(without_forbidden_trailers(frame))))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(self.fail("broke off")))),
            Poll::Pending => {
                ready!(self.idle.poll(context));
                Poll::Ready(Some(Err(self.fail("fell silent"))))
            }
        }
    }

    /// The application is done.
    fn end(&mut self) {
        let Some(Open { lease, exchange, upload, .. }) = self.open.take() else { return };
        // A connection on which a request is still being sent cannot serve another.
        match upload {
            Some(upload) if upload.state() != UploadState::Whole => lease.finish_and_close(),
            _ => lease.finish(),
        }
        exchange.complete();
    }

    /// The application broke off: the client must see that its response is not whole.
    fn fail(&mut self, how: &str) -> io::Error {
        if let Some(Open { lease, mut exchange, .. }) = self.open.take() {
            exchange.failed(UpstreamError::HttpResponseIncomplete);
            drop(lease);
            exchange.complete();
        }
        io::Error::other(format!("the upstream's response {how}"))
    }
}

impl Drop for Relay {
    /// The client left, or cannot be written to.
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        let Open { incoming, mut lease, mut exchange, upload, finish } = open;
        exchange.aborted(AbortStage::ResponseBody);
        let whole = upload.is_none_or(|upload| upload.state() == UploadState::Whole);
        match finish.filter(|_| whole) {
            Some(finish) => spawn_rest(incoming, lease, finish),
            None => lease.held_mut().note(Outcome::Unknown),
        }
    }
}

// === impl UploadBody ===

impl UploadBody {
    /// `held`: wait for the application's 100 before reading.
    pub(super) fn new(
        incoming: Incoming,
        upload: &Arc<Upload>,
        idle: Option<Duration>,
        held: bool,
    ) -> UploadBody {
        let wanted = Arc::clone(upload);
        let wait = async move {
            let _ = tokio::time::timeout(CONTINUE_TIMEOUT, wanted.wait_until_asked()).await;
        };
        UploadBody {
            incoming,
            upload: Arc::clone(upload),
            idle: IdleTimer::new(idle),
            held: held.then(|| Box::pin(wait) as Pin<Box<dyn Future<Output = ()> + Send>>),
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if let Some(held) = &mut this.held {
            ready!(held.as_mut().poll(context));
            this.held = None;
        }
        match Pin::new(&mut this.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.progress();
                this.upload.moved(frame.data_ref().map_or(0, Bytes::len));
                if is_last(&frame, &this.incoming) {
                    this.upload.set(UploadState::Whole);
                }
                Poll::Ready(Some(Ok(without_forbidden_trailers(frame))))
            }
            Poll::Ready(None) => {
                this.upload.set(UploadState::Whole);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.upload.set(UploadState::Broken);
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
            Poll::Pending => {
                ready!(this.idle.poll(context));
                this.upload.set(UploadState::Silent);
                Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

// === impl Upload ===

impl Default for Upload {
    fn default() -> Upload {
        Upload {
            origin: Instant::now(),
            bytes: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            state: AtomicU8::new(UploadState::Partial as u8),
            wanted: Notify::new(),
            asked: AtomicBool::new(false),
        }
    }
}

impl Upload {
    /// When the last of the body moved.
    pub(super) fn last_progress(&self) -> Instant {
        self.origin + Duration::from_micros(self.progress.load(Ordering::Relaxed))
    }

    fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.progress.store(self.origin.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// What has become of the body.
    pub(super) fn state(&self) -> UploadState {
        match self.state.load(Ordering::Relaxed) {
            0 => UploadState::Partial,
            1 => UploadState::Whole,
            2 => UploadState::Broken,
            _ => UploadState::Silent,
        }
    }

    /// Bytes read from the client.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The application asks for the body (100 Continue).
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.wanted.notify_one();
    }

    async fn wait_until_asked(&self) {
        while !self.asked.load(Ordering::Acquire) {
            self.wanted.notified().await;
        }
    }

    fn set(&self, state: UploadState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// Whether nothing comes after a frame. After trailers hyper does not ask again.
fn is_last(frame: &Frame<Bytes>, incoming: &Incoming) -> bool {
    frame.is_trailers() || incoming.is_end_stream()
}

fn without_forbidden_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

// === impl IdleTimer ===

impl IdleTimer {
    pub(super) fn new(limit: Option<Duration>) -> IdleTimer {
        IdleTimer { limit, timer: None, moved: false }
    }

    /// Something moved: the silence starts anew.
    pub(super) fn progress(&mut self) {
        self.moved = true;
    }

    /// Ready when the silence has lasted too long. Call it only when nothing can move.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let timer = match &mut self.timer {
            None => self.timer.insert(Box::pin(sleep_until(Instant::now() + limit))),
            Some(timer) => {
                if self.moved {
                    timer.as_mut().reset(Instant::now() + limit);
                }
                timer
            }
        };
        self.moved = false;
        timer.as_mut().poll(context)
    }
}
