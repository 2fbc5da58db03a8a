//! One connection of HTTP/2 to the application, shared by many exchanges.
//!
//! Never more streams are opened than the application allows at once: h2 would keep the rest in a
//! queue of its own, which nobody bounds and no metric shows.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::connect::Connected;
use super::lease::{RequestBody, Unanswered};
use super::pool::Count;
use super::watched::{Traffic, Watched};
use super::{Hearer, UpstreamError};
use crate::message::{Incoming, Upload};

/// What one response may send ahead of its client, in bytes. The connection's window is as large as
/// that of all its streams together, so that a client that does not read stalls nobody else's.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The most streams at once on one connection, whatever the application allows.
const MAX_STREAMS: u32 = 256;
/// The largest response head, in bytes, as HPACK counts them (RFC 9113, section 6.5.2).
const MAX_RESPONSE_HEAD: u32 = 64 * 1024;
/// What of a request's body may wait to be written, in bytes.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// What small frames may take beyond their bytes while they wait, in bytes: those of many clients
/// of HTTP/1 that read slowly. Beyond it h2 ends the connection.
const FRAME_BUDGET: usize = 16 * 1024 * 1024;
/// So many streams that were taken back are remembered for a second, and what the application still
/// sends on them is its right. Beyond that h2 resets them again, which is no offence either: an
/// application that is late is not to lose its connection, and everybody's streams with it.
const RESET_STREAMS: usize = 8 * MAX_STREAMS as usize;
/// An application that has not read for so long gets no more requests on the same connection: h2
/// would keep them, and the notice that they were taken back, as long as it does not read.
const STUCK: Duration = Duration::from_millis(100);
/// Stands for the application's bound on streams until it has told it.
const UNTOLD: u32 = 0x7fff_fffe;

/// A connection.
pub(super) struct Multiplexed {
    sender: SendRequest<Bytes>,
    streams: AtomicU32,
    told: Arc<Told>,
    traffic: Arc<Traffic>,
    /// Takes no new streams.
    retired: AtomicBool,
    origin: Instant,
    /// Microseconds from `origin` to the end of the last stream.
    since: AtomicU64,
    pub(super) address: Option<SocketAddr>,
    count: Arc<Count>,
}

/// What the task of a connection knows of it.
struct Told {
    /// The application's bound on streams.
    max_streams: AtomicU32,
    over: AtomicBool,
}

/// One stream's place in a connection.
pub(super) struct Stream {
    connection: Arc<Multiplexed>,
    /// How often bytes had come when its request was sent.
    reads: u64,
}

// === impl Multiplexed ===

impl Multiplexed {
    /// Starts HTTP/2 on a fresh connection, and waits until the application has answered in kind.
    /// `token` is dropped when the socket is closed.
    pub(super) async fn start<T: Send + Unpin + 'static>(
        connected: Connected,
        count: Arc<Count>,
        token: T,
    ) -> Result<Arc<Multiplexed>, UpstreamError> {
        let traffic = Traffic::new(&count);
        let watched = Watched::new(connected.stream, Arc::clone(&traffic), token).of_frames();
        let handshake = Builder::new()
            .initial_max_send_streams(UNTOLD as usize)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
            .max_header_list_size(MAX_RESPONSE_HEAD)
            .max_send_buffer_size(MAX_SEND_BUFFER)
            .data_frame_budget(FRAME_BUDGET)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(None)
            .enable_push(false)
            .handshake(watched);
        let failed = |error: h2::Error| UpstreamError::streaming(&error);
        let (sender, mut connection) = handshake.await.map_err(failed)?;
        let answered = |task: &mut Context<'_>| match Pin::new(&mut connection).poll(task) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(UpstreamError::HttpProtocolError)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
            Poll::Pending if allowed(&connection) == UNTOLD => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        };
        poll_fn(answered).await?;
        let max_streams = AtomicU32::new(allowed(&connection));
        let told = Arc::new(Told { max_streams, over: AtomicBool::new(false) });
        tokio::spawn(drive(connection, Arc::clone(&told)));
        let origin = Instant::now();
        Ok(Arc::new(Multiplexed {
            sender,
            streams: AtomicU32::new(0),
            told,
            traffic,
            retired: AtomicBool::new(false),
            origin,
            since: AtomicU64::new(0),
            address: connected.address,
            count,
        }))
    }

    /// A place for one more stream, if there is one.
    pub(super) fn stream(self: &Arc<Multiplexed>) -> Option<Stream> {
        if self.is_over() || self.traffic.is_blocked_for(STUCK) {
            return None;
        }
        let most = self.told.max_streams.load(Ordering::Relaxed).min(MAX_STREAMS);
        let next = |streams: u32| (streams < most).then_some(streams + 1);
        let taken = self.streams.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        taken.is_ok().then(|| Stream { connection: Arc::clone(self), reads: 0 })
    }

    /// Takes no streams any more.
    pub(super) fn is_over(&self) -> bool {
        self.retired.load(Ordering::Relaxed) || self.told.over.load(Ordering::Relaxed)
    }

    /// Has carried nothing for so long.
    pub(super) fn is_idle_for(&self, limit: Duration) -> bool {
        let since = Duration::from_micros(self.since.load(Ordering::Relaxed));
        self.is_idle() && self.origin.elapsed().saturating_sub(since) >= limit
    }

    /// Carries nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
    }
}

/// How many streams an application allows at once.
fn allowed<T: AsyncRead + AsyncWrite + Unpin>(connection: &Connection<T, Bytes>) -> u32 {
    u32::try_from(connection.max_concurrent_send_streams()).unwrap_or(MAX_STREAMS)
}

/// Serves a connection to its end, and notes how many streams it may have at once.
async fn drive<T: Send + Unpin + 'static>(
    mut connection: Connection<Watched<T>, Bytes>,
    told: Arc<Told>,
) {
    poll_fn(|task| {
        // How an exchange failed is told to it; that the connection ends is no news.
        let polled = Pin::new(&mut connection).poll(task);
        told.max_streams.store(allowed(&connection), Ordering::Relaxed);
        polled.map(|_| ())
    })
    .await;
    told.over.store(true, Ordering::Relaxed);
}

// === impl Stream ===

impl Stream {
    /// Sends a request. `hear` is told of what comes before the response.
    pub(super) fn send<F: Hearer>(
        &mut self,
        request: Request<RequestBody>,
        hear: Option<F>,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + Send + use<F> {
        self.reads = self.connection.traffic.reads();
        let sender = self.connection.sender.clone();
        async move {
            let Ok(mut sender) = sender.ready().await else {
                return Err(Unanswered::Unsent(Box::new(request)));
            };
            let (head, body) = request.into_parts();
            let ended = body.is_end_stream();
            let (response, stream) = sender.send_request(Request::from_parts(head, ()), ended)?;
            let upload = if ended { None } else { Upload::start(body, stream).await };
            let response = heard(response, hear).await?;
            let (head, body) = response.into_parts();
            let body = Incoming::streamed(body, &head.headers).answering(upload);
            Ok(Response::from_parts(head, body))
        }
    }

    /// The connection takes no more requests.
    pub(super) fn retire(&self) {
        self.connection.retired.store(true, Ordering::Relaxed);
    }

    /// No answer came in time. If nothing else has come either, nobody may be there any more, and
    /// the connection takes no more requests.
    pub(super) fn timed_out(&self) {
        if self.connection.traffic.reads() == self.reads {
            self.retire();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let connection = &self.connection;
        let since = connection.origin.elapsed().as_micros() as u64;
        connection.since.store(since, Ordering::Relaxed);
        connection.streams.fetch_sub(1, Ordering::AcqRel);
        connection.count.ring();
    }
}

/// The response, and to `hear` what comes before it.
async fn heard<F: Hearer>(
    mut response: ResponseFuture,
    hear: Option<F>,
) -> Result<Response<h2::RecvStream>, h2::Error> {
    poll_fn(|task| {
        while let Poll::Ready(Some(interim)) = response.poll_informational(task) {
            let interim = interim?;
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                // RFC 9113, section 8.6: there is no such thing.
                return Poll::Ready(Err(Reason::PROTOCOL_ERROR.into()));
            }
            if let Some(hear) = &hear {
                hear(interim.status(), interim.headers());
            }
        }
        Pin::new(&mut response).poll(task)
    })
    .await
}
