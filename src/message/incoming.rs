//! A body on its way in.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::sending::Upload;

/// Frames that are smaller, in bytes, are put together while they wait...
const SMALL: usize = 1_024;
/// ...to pieces of this size.
const PIECE: usize = 16 * 1_024;

/// A body on its way in, whichever version of HTTP brings it. Dropped before its end, it is taken
/// back: the stream of HTTP/2 is reset.
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
    /// Came before anybody wanted it. Its room in the window is not given back yet.
    kept: Kept,
    /// Behind what is kept the stream has failed.
    failed: Option<h2::Error>,
    /// All data have come; trailers may follow.
    data_ended: bool,
    ended: bool,
    /// What of the announced length is to come.
    left: Option<u64>,
    /// Asks for the body, once, when it is wanted and has not begun.
    ask: Option<Box<dyn FnOnce() + Send>>,
    /// What goes the other way on the same stream, and ends with this.
    upload: Option<Upload>,
}

/// What has come and waits, in few pieces.
#[derive(Debug, Default)]
struct Kept {
    pieces: VecDeque<Bytes>,
    /// Small frames, behind the pieces.
    small: BytesMut,
}

// === impl Incoming ===

impl Incoming {
    /// The body of a message of HTTP/2, with its head's fields.
    #[must_use]
    pub fn streamed(stream: RecvStream, fields: &HeaderMap) -> Incoming {
        Incoming(Kind::Http2(Box::new(Inflow {
            stream,
            kept: Kept::default(),
            failed: None,
            data_ended: false,
            ended: false,
            left: announced(fields),
            ask: None,
            upload: None,
        })))
    }

    /// With what goes the other way at the same time, and is broken off when this ends.
    #[must_use]
    pub fn answering(mut self, upload: Option<Upload>) -> Incoming {
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

    /// Takes over what has come, and wakes the task when more has, although nobody wants it yet.
    /// Ready: some has, or its end. Always pending in HTTP/1, where it is not read before it is
    /// wanted.
    pub fn poll_keep(&mut self, task: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Kind::Http1(_) => Poll::Pending,
            Kind::Http2(inflow) => inflow.poll_keep(task),
        }
    }

    /// Takes over what comes as long as nobody wants it. Never resolves.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn keep(&mut self) -> Infallible {
        poll_fn(|task| {
            let _ = self.poll_keep(task);
            Poll::Pending
        })
        .await
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
        let nothing_waits = self.kept.is_empty() && self.failed.is_none();
        self.ended || nothing_waits && self.stream.is_end_stream()
    }

    fn poll_keep(&mut self, task: &mut Context<'_>) -> Poll<()> {
        while !self.data_ended && self.failed.is_none() {
            match self.stream.poll_data(task) {
                Poll::Ready(Some(Ok(data))) => self.kept.push(data),
                Poll::Ready(Some(Err(error))) => self.failed = Some(error),
                Poll::Ready(None) => self.data_ended = true,
                Poll::Pending if self.kept.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }

    /// The next data, what was kept first.
    fn poll_data(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(data) = self.kept.pop() {
            return Poll::Ready(Some(Ok(data)));
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if self.data_ended { Poll::Ready(None) } else { self.stream.poll_data(task) }
    }

    fn poll_frame(&mut self, task: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let data = self.poll_data(task);
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
        let trailers = ready!(self.stream.poll_trailers(task));
        Poll::Ready(match trailers {
            Ok(trailers) => {
                self.ended = true;
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Err(error) => self.broke_off(error),
        })
    }

    fn broke_off(&mut self, error: h2::Error) -> Option<io::Result<Frame<Bytes>>> {
        self.ended = true;
        Some(Err(io::Error::other(error)))
    }
}

impl std::fmt::Debug for Inflow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflow").field("left", &self.left).field("ended", &self.ended).finish()
    }
}

// === impl Kept ===

impl Kept {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }

    fn push(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
        }
        let full = self.small.len() >= PIECE || data.len() >= SMALL;
        if full && !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        if data.len() >= SMALL {
            self.pieces.push_back(data);
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let small = || (!self.small.is_empty()).then(|| std::mem::take(&mut self.small).freeze());
        self.pieces.pop_front().or_else(small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_become_few_pieces_and_nothing_changes_its_place() {
        let mut kept = Kept::default();
        let mut sent = Vec::new();
        for index in 0..20_000_usize {
            let frame = vec![index as u8; if index % 5_000 == 0 { SMALL } else { 10 }];
            sent.extend_from_slice(&frame);
            kept.push(frame.into());
        }
        assert!(kept.pieces.len() < 25, "{}", kept.pieces.len());
        let mut came = Vec::new();
        while let Some(piece) = kept.pop() {
            came.extend_from_slice(&piece);
        }
        assert!(came == sent && kept.is_empty());
    }
}
