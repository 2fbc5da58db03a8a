//! A body on its way out, on a stream of HTTP/2.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use tokio::task::AbortHandle;

use crate::timer::IdleTimer;

/// A body that can be sent on a stream of HTTP/2.
pub trait Source: Body<Data = Bytes, Error = io::Error> {
    /// Asked instead of `poll_frame` while the peer takes nothing. Ready: the body ends with this,
    /// at once, and what waits is not sent.
    fn poll_waiting(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Pending
    }
}

/// A body that is being sent by a task of its own. Dropped, it is broken off.
#[derive(Debug)]
pub struct Upload(AbortHandle);

/// Sends a body on a stream of HTTP/2.
struct Outflow<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body, and waits for the peer's window.
    waiting: Option<Waiting>,
    /// Runs while it waits.
    patience: IdleTimer,
    /// How the stream is reset if the body breaks off.
    broken: Reason,
}

#[derive(Debug)]
struct Waiting {
    data: Bytes,
    /// Nothing follows.
    last: bool,
}

// === impl Upload ===

impl Upload {
    /// Sends a body: at once as far as that is possible, and the rest on a task of its own; `None`:
    /// there is no rest. A body that breaks off resets its stream with CANCEL.
    pub async fn start<B>(body: B, stream: SendStream<Bytes>) -> Option<Upload>
    where
        B: Source + Unpin + Send + 'static,
    {
        let mut outflow = Outflow::new(body, stream, None, Reason::CANCEL);
        if poll_fn(|task| Poll::Ready(outflow.poll(task))).await.is_ready() {
            return None;
        }
        let sending = tokio::spawn(async move { poll_fn(|task| outflow.poll(task)).await });
        Some(Upload(sending.abort_handle()))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Outflow ===

/// Sends a body to its end. If that breaks off, the stream is reset with `broken`; if the peer's
/// window stays shut for longer than `patience`, with CANCEL.
///
/// # Cancel safety
///
/// Dropping the future breaks the body off: the stream is reset.
pub async fn send<B>(body: B, stream: SendStream<Bytes>, patience: Option<Duration>, broken: Reason)
where
    B: Source + Unpin,
{
    let mut outflow = Outflow::new(body, stream, patience, broken);
    poll_fn(|task| outflow.poll(task)).await;
}

impl<B: Source + Unpin> Outflow<B> {
    fn new(
        body: B,
        stream: SendStream<Bytes>,
        patience: Option<Duration>,
        broken: Reason,
    ) -> Outflow<B> {
        Outflow { body, stream, waiting: None, patience: IdleTimer::new(patience), broken }
    }

    /// Ready: the body has been sent, or nobody wants it.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        // Asked first, and each time: whoever takes a request back while the window is shut, or
        // while its body has nothing to say, is heard at once.
        if self.stream.poll_reset(task).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let goes_on = match self.waiting.take() {
                Some(waiting) => ready!(self.poll_waiting(waiting, task)),
                None => {
                    let next = ready!(Pin::new(&mut self.body).poll_frame(task));
                    self.take(next)
                }
            };
            if !goes_on {
                return Poll::Ready(());
            }
        }
    }

    /// Takes the next of the body; `false`: nothing follows.
    fn take(&mut self, next: Option<io::Result<Frame<Bytes>>>) -> bool {
        match next.map(|frame| frame.map(Frame::into_data)) {
            None => {
                // Fails where the stream is no more, here as below.
                let _ = self.stream.send_data(Bytes::new(), true);
                false
            }
            Some(Err(_)) => {
                self.stream.send_reset(self.broken);
                false
            }
            Some(Ok(Ok(data))) => {
                let last = self.body.is_end_stream();
                self.waiting = (last || !data.is_empty()).then_some(Waiting { data, last });
                true
            }
            Some(Ok(Err(frame))) => match frame.into_trailers() {
                Ok(trailers) => {
                    self.stream.reserve_capacity(0);
                    let _ = self.stream.send_trailers(trailers);
                    false
                }
                // Of no kind that there is.
                Err(_) => true,
            },
        }
    }

    /// Sends what waits as far as the peer lets it; `false`: nothing follows.
    fn poll_waiting(&mut self, mut waiting: Waiting, task: &mut Context<'_>) -> Poll<bool> {
        if !waiting.data.is_empty() {
            self.stream.reserve_capacity(waiting.data.len());
        }
        while !waiting.data.is_empty() && self.stream.capacity() == 0 {
            match self.stream.poll_capacity(task) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(false),
                Poll::Pending => {
                    if let Poll::Ready(end) = Pin::new(&mut self.body).poll_waiting(task) {
                        return Poll::Ready(self.take(end));
                    }
                    self.waiting = Some(waiting);
                    ready!(self.patience.poll(task));
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(false);
                }
            }
        }
        self.patience.progress();
        let room = self.stream.capacity().min(waiting.data.len());
        let part = waiting.data.split_to(room);
        let last = waiting.last && waiting.data.is_empty();
        if self.stream.send_data(part, last).is_err() {
            return Poll::Ready(false);
        }
        if !waiting.data.is_empty() {
            self.waiting = Some(waiting);
        }
        Poll::Ready(!last)
    }
}
