//! The bodies of messages: as they come, over either version of HTTP, and as they go over HTTP/2.
//!
//! HTTP/1 is hyper's. Streams of HTTP/2 are served with h2 itself, since a proxy must be able to do
//! on them what hyper does not: pass interim responses on, let go of a stream whose window is shut
//! as soon as nobody wants it, and tell a body that was taken back from one that has ended.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use crate::timer::IdleTimer;

/// A body on its way in. Dropped before its end, it is taken back: the stream of HTTP/2 is reset.
#[derive(Debug)]
pub struct Incoming(Kind);

#[derive(Debug)]
enum Kind {
    Http1(hyper::body::Incoming),
    // Boxed, so that what is handed on so often is small.
    Http2(Box<Inflow>),
}

/// A body that comes on a stream of HTTP/2.
struct Inflow {
    stream: RecvStream,
    /// Came before anybody wanted it.
    begun: Option<Result<Bytes, h2::Error>>,
    /// All data have come; trailers may follow.
    data_ended: bool,
    ended: bool,
    /// What of the announced length is to come.
    left: Option<u64>,
    /// Asks for the body, once, when it is wanted and has not begun.
    ask: Option<Box<dyn FnOnce() + Send>>,
    /// What goes the other way on the same stream, and ends with this.
    upload: Option<Outgoing>,
}

/// A body that is being sent by a task of its own. Dropped, it is broken off.
#[derive(Debug)]
pub struct Outgoing {
    task: AbortHandle,
    whole: Arc<AtomicBool>,
}

/// Sends a body on a stream of HTTP/2.
struct Outflow<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body, and waits for the peer's window.
    waiting: Option<Waiting>,
    /// Runs while it waits.
    patience: IdleTimer,
}

#[derive(Debug)]
struct Waiting {
    data: Bytes,
    /// Nothing follows.
    last: bool,
}

/// How the sending of a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it was handed over to the connection.
    Whole,
    /// The body broke off, or the peer let it wait for too long.
    Broken,
    /// The peer does not want it, or is gone.
    Refused,
}

// === impl Incoming ===

impl Incoming {
    /// The body of a message of HTTP/2, with its head's fields.
    #[must_use]
    pub fn streamed(stream: RecvStream, fields: &HeaderMap) -> Incoming {
        Incoming(Kind::Http2(Box::new(Inflow {
            stream,
            begun: None,
            data_ended: false,
            ended: false,
            left: announced(fields),
            ask: None,
            upload: None,
        })))
    }

    /// With what goes the other way at the same time, and is broken off when this ends.
    #[must_use]
    pub fn answering(mut self, upload: Option<Outgoing>) -> Incoming {
        if let Kind::Http2(inflow) = &mut self.0 {
            inflow.upload = upload;
        }
        self
    }

    /// Calls `ask` when somebody wants the body and it has not begun to come by itself. In HTTP/1
    /// hyper does so.
    #[must_use]
    pub fn asking(mut self, ask: impl FnOnce() + Send + 'static) -> Incoming {
        if let Kind::Http2(inflow) = &mut self.0 {
            inflow.ask = Some(Box::new(ask));
        }
        self
    }

    /// Ready once some of the body, or its end, has come; never in HTTP/1, where it is not read
    /// before it is wanted.
    pub fn poll_begun(&mut self, task: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Kind::Http1(_) => Poll::Pending,
            Kind::Http2(inflow) => inflow.poll_begun(task),
        }
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(incoming: hyper::body::Incoming) -> Incoming {
        Incoming(Kind::Http1(incoming))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Kind::Http1(incoming) => Pin::new(incoming).poll_frame(task).map_err(io::Error::other),
            Kind::Http2(inflow) => inflow.poll_frame(task),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1(incoming) => incoming.is_end_stream(),
            Kind::Http2(inflow) => inflow.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1(incoming) => incoming.size_hint(),
            Kind::Http2(inflow) if inflow.is_ended() => SizeHint::with_exact(0),
            Kind::Http2(inflow) => inflow.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// The length that a message announces; h2 holds it to that.
fn announced(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

// === impl Inflow ===

impl Inflow {
    fn is_ended(&self) -> bool {
        self.ended || self.begun.is_none() && self.stream.is_end_stream()
    }

    fn poll_begun(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.begun.is_none() && !self.data_ended {
            match ready!(self.stream.poll_data(task)) {
                Some(data) => self.begun = Some(data),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(())
    }

    fn poll_frame(&mut self, task: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.data_ended {
            let data = match self.begun.take() {
                Some(data) => Poll::Ready(Some(data)),
                None => self.stream.poll_data(task),
            };
            let ask = self.ask.take();
            if let (Poll::Pending, Some(ask)) = (&data, ask) {
                ask();
            }
            match ready!(data) {
                Some(Ok(data)) => {
                    // Fails where the stream is no more: nobody waits for room there.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.broke_off(error)),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(task));
        Poll::Ready(match trailers {
            Ok(trailers) => {
                self.ended = true;
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Err(error) => self.broke_off(error),
        })
    }

    /// A stream that is reset with NO_ERROR has ended all the same where that is how an application
    /// says that it needs no more of an upload (RFC 9113, section 8.1). Anywhere else, or before
    /// all of its length, it broke off.
    fn broke_off(&mut self, error: h2::Error) -> Option<io::Result<Frame<Bytes>>> {
        self.ended = true;
        let uploads = self.upload.as_ref().is_some_and(|upload| !upload.is_whole());
        let whole = uploads && self.left.unwrap_or(0) == 0;
        if whole && error.is_reset() && error.reason() == Some(Reason::NO_ERROR) {
            return None;
        }
        Some(Err(io::Error::other(error)))
    }
}

impl std::fmt::Debug for Inflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflow").field("left", &self.left).field("ended", &self.ended).finish()
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// Sends a body: at once as far as that is possible, and the rest on a task of its own; `None`:
    /// there is no rest. A body that breaks off resets its stream with CANCEL.
    pub async fn start<B>(body: B, stream: SendStream<Bytes>) -> Option<Outgoing>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let mut outflow = Outflow::new(body, stream, None);
        if poll_fn(|task| Poll::Ready(outflow.poll(Reason::CANCEL, task))).await.is_ready() {
            return None;
        }
        let whole = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&whole);
        let sending = tokio::spawn(async move {
            let sent = poll_fn(|task| outflow.poll(Reason::CANCEL, task)).await;
            done.store(sent == Sent::Whole, Ordering::Relaxed);
        });
        Some(Outgoing { task: sending.abort_handle(), whole })
    }

    fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Outflow ===

/// Sends a body to its end. If that breaks off, the stream is reset with `broken`; if the peer's
/// window stays shut for longer than `patience`, with CANCEL.
///
/// # Cancel safety
///
/// Dropping the future breaks the body off: the stream is reset.
pub async fn send<B>(
    body: B,
    stream: SendStream<Bytes>,
    patience: Option<Duration>,
    broken: Reason,
) -> Sent
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut outflow = Outflow::new(body, stream, patience);
    poll_fn(|task| outflow.poll(broken, task)).await
}

impl<B: Body<Data = Bytes> + Unpin> Outflow<B> {
    fn new(body: B, stream: SendStream<Bytes>, patience: Option<Duration>) -> Outflow<B> {
        Outflow { body, stream, waiting: None, patience: IdleTimer::new(patience) }
    }

    fn poll(&mut self, broken: Reason, task: &mut Context<'_>) -> Poll<Sent> {
        // Asked first, and each time: whoever takes a request back while the window is shut, or
        // while its body has nothing to say, is heard at once.
        if self.stream.poll_reset(task).is_ready() {
            return Poll::Ready(Sent::Refused);
        }
        loop {
            let sent = match self.waiting.take() {
                Some(waiting) => ready!(self.poll_waiting(waiting, task)),
                None => ready!(self.poll_body(broken, task)),
            };
            if let Some(sent) = sent {
                return Poll::Ready(sent);
            }
        }
    }

    /// Takes the next of the body.
    fn poll_body(&mut self, broken: Reason, task: &mut Context<'_>) -> Poll<Option<Sent>> {
        let sent = match ready!(Pin::new(&mut self.body).poll_frame(task)) {
            None => self.stream.send_data(Bytes::new(), true),
            Some(Err(_)) => {
                self.stream.send_reset(broken);
                return Poll::Ready(Some(Sent::Broken));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = self.body.is_end_stream();
                    self.waiting = (last || !data.is_empty()).then_some(Waiting { data, last });
                    return Poll::Ready(None);
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => self.stream.send_trailers(trailers),
                    // Of no kind that there is.
                    Err(_) => return Poll::Ready(None),
                },
            },
        };
        Poll::Ready(Some(if sent.is_ok() { Sent::Whole } else { Sent::Refused }))
    }

    /// Sends what waits as far as the peer lets it.
    fn poll_waiting(&mut self, mut waiting: Waiting, task: &mut Context<'_>) -> Poll<Option<Sent>> {
        if !waiting.data.is_empty() {
            self.stream.reserve_capacity(waiting.data.len());
        }
        while !waiting.data.is_empty() && self.stream.capacity() == 0 {
            match self.stream.poll_capacity(task) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Some(Sent::Refused)),
                Poll::Pending => {
                    self.waiting = Some(waiting);
                    ready!(self.patience.poll(task));
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Some(Sent::Broken));
                }
            }
        }
        self.patience.progress();
        let room = self.stream.capacity().min(waiting.data.len());
        let part = waiting.data.split_to(room);
        let last = waiting.last && waiting.data.is_empty();
        if self.stream.send_data(part, last).is_err() {
            return Poll::Ready(Some(Sent::Refused));
        }
        if !waiting.data.is_empty() {
            self.waiting = Some(waiting);
        }
        Poll::Ready(last.then_some(Sent::Whole))
    }
}
