//! The use of a connection to the application for one exchange.
//!
//! A [`Lease`] holds what must not be given back before the application is rid of the request (`H`:
//! in the proxy, the permit). Ended in order, it gives it back at once; dropped in the middle of an
//! exchange, as soon as the application can know: when the socket of HTTP/1.1 is closed, or the
//! stream of HTTP/2 reset.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::UpstreamError;
use super::connect::Protocol;
use super::http1::Idle;
use super::http2::Stream;
use super::pool::Pool;
use crate::message::{Incoming, Source};
use crate::timer::LazyTimer;

/// The body of a request on its way to the application; `None`: it has none.
pub struct RequestBody(Option<Pin<Box<dyn Source + Send>>>);

/// The application's answer, on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Unanswered>> + Send>>;

/// Is told of an interim response (1xx).
pub trait Hearer: Fn(StatusCode, &HeaderMap) + Send + Sync + 'static {}

impl<F: Fn(StatusCode, &HeaderMap) + Send + Sync + 'static> Hearer for F {}

/// Of interim responses that nobody wants to hear.
pub const UNHEARD: Option<fn(StatusCode, &HeaderMap)> = None;

/// Why a request got no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// It was never written, and comes back.
    Unsent(Box<Request<RequestBody>>),
    /// The exchange failed before the head of the response.
    Failed(UpstreamError, Loss),
}

/// What a failed exchange says of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The application took leave before it looked at it (RFC 9113, sections 6.8 and 8.7).
    TookLeave,
    /// The application says that it did not look at it.
    Refused,
    /// The connection is gone without a word.
    Gone,
    /// Anything else.
    Other,
}

/// The use of one connection, for one exchange.
pub struct Lease<H: Send + 'static> {
    /// `None` once the lease has ended.
    carrier: Option<Carrier<H>>,
    held: Option<H>,
    pool: Arc<Pool<H>>,
    shard: usize,
    reused: bool,
}

/// What carries an exchange.
pub(super) enum Carrier<H: Send + 'static> {
    /// A whole connection of HTTP/1.1.
    Whole(Idle<H>),
    /// A stream of a connection of HTTP/2.
    Stream(Stream, LazyTimer),
}

const IN_USE: &str = "a lease that is used has not ended";

// === impl Lease ===

impl<H: Send + 'static> Lease<H> {
    pub(super) fn new(
        mut carrier: Carrier<H>,
        pool: Arc<Pool<H>>,
        shard: usize,
        held: H,
        reused: bool,
    ) -> Lease<H> {
        if let Carrier::Whole(idle) = &mut carrier {
            idle.begin();
        }
        Lease { carrier: Some(carrier), held: Some(held), pool, shard, reused }
    }

    /// Whether the connection had served another request before: it may have been closed meanwhile.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// What is spoken on it.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match &self.carrier {
            Some(Carrier::Stream(..)) => Protocol::Http2,
            Some(Carrier::Whole(_)) | None => Protocol::Http1,
        }
    }

    /// Whether anything has come back since the exchange began, as far as can be told before the
    /// head of the answer.
    #[must_use]
    pub fn answered(&self) -> bool {
        matches!(&self.carrier, Some(Carrier::Whole(idle)) if idle.answered())
    }

    /// Sends a request. `hear` is told of what comes before the response. The future does not
    /// borrow the lease.
    pub fn send(&mut self, request: Request<RequestBody>, hear: Option<impl Hearer>) -> Answer {
        match self.carrier.as_mut().expect(IN_USE) {
            Carrier::Whole(idle) => Box::pin(idle.send(request, hear)),
            Carrier::Stream(stream, _) => Box::pin(stream.send(request, hear)),
        }
    }

    /// What is held until the exchange ends.
    pub fn held_mut(&mut self) -> &mut H {
        self.held.as_mut().expect("a lease holds until it ends")
    }

    /// Ready once `deadline` has passed; at the end of the exchange nothing has to be taken back.
    pub fn poll_deadline(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        match self.carrier.as_mut().expect(IN_USE) {
            Carrier::Whole(idle) => idle.timer.poll(deadline, context),
            Carrier::Stream(_, timer) => timer.poll(deadline, context),
        }
    }

    /// There was no answer in time.
    pub fn timed_out(&self) {
        if let Some(Carrier::Stream(stream, _)) = &self.carrier {
            stream.timed_out();
        }
    }

    /// The exchange is over and whole: gives back what was held, and the connection to its pool.
    pub fn finish(mut self) {
        let held = self.held.take();
        match self.carrier.take() {
            Some(Carrier::Whole(idle)) => self.pool.put_back(self.shard, idle),
            Some(Carrier::Stream(..)) | None => {}
        }
        // After the connection, so that whoever is let in next finds it.
        drop(held);
    }

    /// The application is done, and what carried the exchange is of no further use.
    pub fn finish_and_close(mut self) {
        drop(self.held.take());
    }

    /// Gives the connection up and returns what was held: for another attempt.
    #[must_use]
    pub fn into_held(mut self) -> H {
        if let Some(Carrier::Stream(stream, _)) = &self.carrier {
            stream.retire();
        }
        self.held.take().expect("a lease holds until it ends")
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// Of some request.
    pub fn new(body: impl Source + Send + 'static) -> RequestBody {
        RequestBody(Some(Box::pin(body)))
    }

    /// No body.
    #[must_use]
    pub fn none() -> RequestBody {
        RequestBody(None)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| body.as_mut().poll_frame(task))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |body| body.size_hint())
    }
}

impl Source for RequestBody {
    fn poll_waiting(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.as_mut().map_or(Poll::Pending, |body| body.as_mut().poll_waiting(task))
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("size", &self.size_hint()).finish()
    }
}

// === impl Unanswered ===

impl From<TrySendError<Request<RequestBody>>> for Unanswered {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Unanswered {
        match error.take_message() {
            Some(unsent) => Unanswered::Unsent(Box::new(unsent)),
            None => Unanswered::Failed(UpstreamError::exchanging(error.error()), Loss::Other),
        }
    }
}

impl From<h2::Error> for Unanswered {
    fn from(error: h2::Error) -> Unanswered {
        let failure = UpstreamError::streaming(&error);
        let took_leave =
            error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let loss = if took_leave {
            Loss::TookLeave
        } else if refused {
            Loss::Refused
        } else if error.is_io() && failure == UpstreamError::ConnectionTerminated {
            // TLS would say why.
            Loss::Gone
        } else {
            Loss::Other
        };
        Unanswered::Failed(failure, loss)
    }
}

impl<H: Send + 'static> Drop for Lease<H> {
    fn drop(&mut self) {
        let held = self.held.take();
        if let Some(Carrier::Whole(idle)) = self.carrier.take() {
            idle.break_off(held);
        }
        // Else the stream was reset with the answer, which was dropped before.
    }
}

impl<H: Send + 'static> fmt::Debug for Lease<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("reused", &self.reused).finish_non_exhaustive()
    }
}
