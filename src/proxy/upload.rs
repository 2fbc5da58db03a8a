//! The body of a request on its way to the application: streamed frame by frame, never collected.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::EXPECT;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::body::{is_last, without_forbidden_trailers};
use super::headers::Nominated;
use crate::message::{Incoming, Source};
use crate::timer::{IdleTimer, LazyTimer};

/// How long a body waits for the application's 100 (RFC 9110, section 10.1.1: "not indefinitely").
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// A body that nobody wants is still read for so long...
const LINGER_TIME: Duration = Duration::from_secs(1);
/// ...and so many bytes.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// What of a refused request has come with its head is read past, up to so much.
const SWALLOW_BYTES: u64 = 64 * 1024;
/// hyper hands out what it has read on its next turns.
const SWALLOW_TURNS: u32 = 4;

/// The body of a request on its way to the application. It is not read before it is first polled.
pub(super) struct UploadBody {
    /// `None` once it was dropped.
    incoming: Option<Incoming>,
    /// What nobody wants any more is still read: see [`discard`].
    lingers: bool,
    nominated: Nominated,
    upload: Arc<Upload>,
    idle: IdleTimer,
    late: LazyTimer,
    /// Holds the body back until the application has asked for it.
    held: Option<Held>,
}

/// The wait of a body until it is wanted.
type Held = Pin<Box<dyn Future<Output = ()> + Send>>;

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
    /// Nothing more is sent after it; unset: no such time.
    end: OnceLock<Instant>,
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
    /// The client fell silent, or went on for too long.
    Silent = 3,
}

// === impl UploadBody ===

impl UploadBody {
    /// `held`: wait for the application's 100 before reading, or for the client, which sends
    /// without being asked once this resolves.
    pub(super) fn new(
        incoming: Incoming,
        upload: &Arc<Upload>,
        idle: Option<Duration>,
        held: Option<impl Future<Output = ()> + Send + 'static>,
        lingers: bool,
        nominated: Nominated,
    ) -> UploadBody {
        let wanted = Arc::clone(upload);
        let held = held.map(|sends| {
            Box::pin(async move {
                tokio::select! {
                    () = wanted.wait_until_asked() => {}
                    () = sends => {}
                    () = tokio::time::sleep(CONTINUE_TIMEOUT) => {}
                }
            }) as Held
        });
        UploadBody {
            incoming: Some(incoming),
            lingers,
            nominated,
            upload: Arc::clone(upload),
            idle: IdleTimer::new(idle),
            late: LazyTimer::default(),
            held,
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
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        if let Some(held) = &mut this.held {
            if incoming.poll_keep(context).is_pending() {
                ready!(held.as_mut().poll(context));
            }
            this.held = None;
        }
        match Pin::new(&mut *incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.progress();
                this.upload.moved(frame.data_ref().map_or(0, Bytes::len));
                if is_last(&frame, incoming) {
                    this.upload.set(UploadState::Whole);
                }
                Poll::Ready(Some(Ok(without_forbidden_trailers(frame, &this.nominated))))
            }
            Poll::Ready(None) => {
                this.upload.set(UploadState::Whole);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.upload.set(UploadState::Broken);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                let end = this.upload.end.get();
                if end.is_none_or(|&end| this.late.poll(end, context).is_pending()) {
                    ready!(this.idle.poll(context));
                }
                this.upload.set(UploadState::Silent);
                Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Source for UploadBody {
    fn poll_waiting(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(incoming) = &mut self.incoming {
            let _ = incoming.poll_keep(task);
        }
        Poll::Pending
    }
}

impl Drop for UploadBody {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take()
            && self.lingers
            && self.upload.state() == UploadState::Partial
        {
            discard(incoming);
        }
    }
}

/// Reads what is left of a body of HTTP/2 that nobody wants, for a while, and throws it away. Else
/// its stream would be reset at once (RFC 9113, section 8.1), and a client that is still writing
/// may take the reset for the answer.
pub(super) fn discard(mut incoming: Incoming) {
    let reading = async move {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = incoming.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    tokio::spawn(async move {
        let _ = tokio::time::timeout(LINGER_TIME, reading).await;
    });
}

/// Reads past the body of a refused request of HTTP/1 that has come together with its head. Says
/// whether that was all of it: the connection can then go on.
pub(super) async fn swallow(request: Request<Incoming>) -> bool {
    // Who waits to be asked for it is not asked.
    let asks = request.headers().contains_key(EXPECT);
    let mut incoming = request.into_body();
    if asks || incoming.size_hint().lower() > SWALLOW_BYTES {
        return false;
    }
    let mut bytes = 0;
    for _ in 0..SWALLOW_TURNS {
        while let Poll::Ready(next) =
            poll_fn(|task| Poll::Ready(Pin::new(&mut incoming).poll_frame(task))).await
        {
            let Some(frame) = next else { return true };
            let Ok(frame) = frame else { return false };
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if bytes > SWALLOW_BYTES {
                return false;
            }
        }
        tokio::task::yield_now().await;
    }
    false
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
            end: OnceLock::new(),
        }
    }
}

impl Upload {
    /// Sets the end, once.
    pub(super) fn ends_at(&self, end: Instant) {
        let _ = self.end.set(end);
    }

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
