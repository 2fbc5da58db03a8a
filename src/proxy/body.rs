//! The body of a response on its way to the client: streamed frame by frame, never collected.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::exchange::Exchange;
use super::finish::{Finish, spawn_rest};
use super::headers::{self, Nominated};
use super::respond::overdue;
use super::upload::{Upload, UploadState};
use crate::admission::Permit;
use crate::gate::Outcome;
use crate::message::{Incoming, Source};
use crate::telemetry::metrics::AbortStage;
use crate::timer::IdleTimer;
use crate::upstream::{Lease, UpstreamError};

/// The body of a response on its way to the client.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    /// How long the client may leave a part of it untaken; `None`: for ever.
    patience: Option<Duration>,
}

#[derive(Debug)]
enum Kind {
    /// Made here, or empty.
    Whole(Option<Bytes>),
    /// Coming from the application.
    Relay(Box<Relay>),
}

/// The application's response while it passes. Holds the permit, within its lease, until the end.
#[derive(Debug)]
pub(super) struct Relay {
    /// `None` once the body ended or failed.
    open: Option<Open>,
    /// The application broke off; said once what came before is on its way.
    failed: Option<io::Error>,
    idle: IdleTimer,
}

/// What ends with the body.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) incoming: Incoming,
    /// The first frame, if it came with the head.
    pub(super) first: Option<Frame<Bytes>>,
    pub(super) lease: Lease<Permit>,
    pub(super) exchange: Box<Exchange>,
    pub(super) upload: Option<Arc<Upload>>,
    pub(super) finish: Option<Finish>,
    pub(super) nominated: Nominated,
}

/// Takes what has come of a body together with its head: a response that breaks off in its first
/// bytes is then none, and the client can be told so.
pub(super) async fn first_frame(incoming: &mut Incoming) -> io::Result<Option<Frame<Bytes>>> {
    if incoming.is_end_stream() {
        return Ok(None);
    }
    poll_fn(|context| match Pin::new(&mut *incoming).poll_frame(context) {
        Poll::Ready(Some(frame)) => Poll::Ready(frame.map(Some)),
        Poll::Ready(None) | Poll::Pending => Poll::Ready(Ok(None)),
    })
    .await
}

// === impl ResponseBody ===

impl ResponseBody {
    /// A body that is known whole. `patience` bounds the silence of the client.
    pub(super) fn whole(bytes: Bytes, patience: Option<Duration>) -> ResponseBody {
        ResponseBody { kind: Kind::Whole((!bytes.is_empty()).then_some(bytes)), patience }
    }

    /// How long the client may leave a part of the body untaken; `None`: for ever.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// The rest of an exchange: the body of the application's response. `idle` bounds the silence
    /// of the application, `patience` that of the client.
    pub(super) fn relay(
        open: Open,
        idle: Option<Duration>,
        patience: Option<Duration>,
    ) -> ResponseBody {
        let ended = open.first.is_none() && open.incoming.is_end_stream()
            // What may come in HTTP/2 in spite of it is not passed on.
            || open.exchange.is_bodiless();
        let open = Some(open);
        let idle = IdleTimer::new(idle);
        let mut relay = Relay { open, failed: None, idle };
        if ended {
            relay.end();
            return ResponseBody::whole(Bytes::new(), patience);
        }
        ResponseBody { kind: Kind::Relay(Box::new(relay)), patience }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Relay(relay) => relay.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Relay(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Kind::Relay(relay) => relay.size_hint(),
        }
    }
}

impl Source for ResponseBody {
    fn poll_waiting(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.kind {
            Kind::Whole(_) => Poll::Pending,
            Kind::Relay(relay) => relay.poll_waiting(task),
        }
    }
}

// === impl Relay ===

impl Relay {
    fn is_end_stream(&self) -> bool {
        self.open.is_none() && self.failed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(open) = &self.open else { return SizeHint::with_exact(0) };
        let taken = open.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        // What was taken is still to come.
        match open.incoming.size_hint().exact() {
            Some(left) => SizeHint::with_exact(left + taken),
            None => SizeHint::default(),
        }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(open) = &mut self.open else { return Poll::Ready(None) };
        let polled = match open.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut open.incoming).poll_frame(context),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.progress();
                open.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
                let frame = without_forbidden_trailers(frame, &open.nominated);
                if is_last(&frame, &open.incoming) {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            // Its request ends at the same time, and the application may have been quicker to say
            // what it thinks of that.
            Poll::Ready(Some(Err(_))) if is_overdue(open) => self.expire(context),
            Poll::Ready(Some(Err(_))) => self.fail("broke off", context),
            Poll::Pending => {
                if let Some(end) = open.exchange.end()
                    && open.lease.poll_deadline(end, context).is_ready()
                {
                    return self.expire(context);
                }
                ready!(self.idle.poll(context));
                self.fail("fell silent", context)
            }
        }
    }

    /// While the client takes nothing: what comes is kept, and a deadline is a deadline.
    fn poll_waiting(&mut self, task: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(open) = &mut self.open else { return Poll::Pending };
        let _ = open.incoming.poll_keep(task);
        match open.exchange.end() {
            Some(end) if open.lease.poll_deadline(end, task).is_ready() => self.expire(task),
            Some(_) | None => Poll::Pending,
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

    /// The application broke off: the client must see that its response is not whole. But first it
    /// gets what there is: what has not been written yet is dropped once the body fails.
    fn fail(
        &mut self,
        how: &str,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(Open { lease, mut exchange, .. }) = self.open.take() {
            exchange.failed(UpstreamError::HttpResponseIncomplete);
            drop(lease);
            exchange.complete();
        }
        self.failed = Some(io::Error::other(format!("the upstream's response {how}")));
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The time of a call of gRPC is up: the application is let go, and the client gets what a
    /// server would say.
    fn expire(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.open.as_ref().is_some_and(|open| open.exchange.may_end_in_trailers()) {
            return self.fail("lasted too long", context);
        }
        if let Some(Open { incoming, lease, mut exchange, .. }) = self.open.take() {
            exchange.failed(UpstreamError::HttpResponseTimeout);
            // First the stream, which is reset by it.
            drop(incoming);
            drop(lease);
            exchange.complete();
        }
        Poll::Ready(Some(Ok(Frame::trailers(overdue()))))
    }

    /// The client left, or cannot be written to.
    fn leave(&mut self) {
        let Some(open) = self.open.take() else { return };
        let Open { incoming, mut lease, mut exchange, upload, finish, .. } = open;
        exchange.aborted(AbortStage::ResponseBody);
        let whole = upload.is_none_or(|upload| upload.state() == UploadState::Whole);
        match finish.filter(|_| whole) {
            Some(finish) => spawn_rest(incoming, lease, finish),
            None => lease.held_mut().note(Outcome::Unknown),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whether nothing comes after a frame. After trailers hyper does not ask again.
pub(super) fn is_last(frame: &Frame<Bytes>, incoming: &Incoming) -> bool {
    frame.is_trailers() || incoming.is_end_stream()
}

fn is_overdue(open: &Open) -> bool {
    open.exchange.end().is_some_and(|end| end <= Instant::now())
}

pub(super) fn without_forbidden_trailers(
    frame: Frame<Bytes>,
    nominated: &Nominated,
) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::trailers(&mut trailers, nominated);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}
