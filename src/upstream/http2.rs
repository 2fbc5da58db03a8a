//! One connection of HTTP/2 to the application, shared by many exchanges.
//!
//! Never more streams are opened than the application allows at once: h2 would keep the rest in a
//! queue of its own, which nobody bounds and no metric shows.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::UpstreamError;
use super::connect::Connected;
use super::lease::RequestBody;
use super::pool::Count;
use super::watched::Watched;

/// What one response may send ahead of its client, in bytes. The connection's window is as large as
/// that of all its streams together, so that a client that does not read stalls nobody else's.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The most streams at once on one connection, whatever the application allows.
const MAX_STREAMS: u32 = 256;
/// The largest response head, in bytes, as HPACK counts them (RFC 9113, section 6.5.2).
const MAX_RESPONSE_HEAD: u32 = 64 * 1024;
/// What of a request's body may wait to be written, in bytes.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Stands for the application's bound on streams until it has told it.
const UNTOLD: u32 = 0x7fff_fffe;

/// A connection.
pub(super) struct Multiplexed {
    sender: SendRequest<RequestBody>,
    streams: AtomicU32,
    /// The application's bound on streams.
    max_streams: watch::Receiver<u32>,
    /// Takes no new streams.
    retired: AtomicBool,
    origin: Instant,
    /// Microseconds from `origin` to the end of the last stream.
    since: AtomicU64,
    pub(super) address: Option<SocketAddr>,
    count: Arc<Count>,
}

/// One stream's place in a connection.
pub(super) struct Stream(Arc<Multiplexed>);

// === impl Multiplexed ===

impl Multiplexed {
    /// Starts HTTP/2 on a fresh connection, and waits until the application has answered in kind.
    /// `token` is dropped when the socket is closed.
    pub(super) async fn start<T: Send + Unpin + 'static>(
        connected: Connected,
        count: Arc<Count>,
        token: T,
    ) -> Result<Arc<Multiplexed>, UpstreamError> {
        let bell = Arc::new(Notify::new());
        let watched = Watched::new(connected.stream, Arc::default(), token).ringing(&bell);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_max_send_streams(UNTOLD as usize)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
            .max_header_list_size(MAX_RESPONSE_HEAD)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .handshake(TokioIo::new(watched))
            .await
            .map_err(|error| UpstreamError::exchanging(&error))?;
        let (told, mut max_streams) = watch::channel(UNTOLD);
        tokio::spawn(drive(connection, told, bell));
        if max_streams.wait_for(|most| *most != UNTOLD).await.is_err() {
            return Err(UpstreamError::HttpProtocolError);
        }
        let origin = Instant::now();
        Ok(Arc::new(Multiplexed {
            sender,
            streams: AtomicU32::new(0),
            max_streams,
            retired: AtomicBool::new(false),
            origin,
            since: AtomicU64::new(0),
            address: connected.address,
            count,
        }))
    }

    /// A place for one more stream, if there is one.
    pub(super) fn stream(self: &Arc<Multiplexed>) -> Option<Stream> {
        if self.is_over() {
            return None;
        }
        let most = (*self.max_streams.borrow()).min(MAX_STREAMS);
        let next = |streams: u32| (streams < most).then_some(streams + 1);
        let taken = self.streams.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        taken.is_ok().then(|| Stream(Arc::clone(self)))
    }

    /// Takes no streams any more.
    pub(super) fn is_over(&self) -> bool {
        self.retired.load(Ordering::Relaxed) || self.sender.is_closed()
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

/// Serves a connection to its end, and tells how many streams it may have at once.
///
/// hyper reads on a task of its own and does not tell when the application's settings have come: so
/// they are looked at whenever bytes come, until they are known, and then with each request.
async fn drive<T: Send + Unpin + 'static>(
    mut connection: Connection<TokioIo<Watched<T>>, RequestBody, TokioExecutor>,
    told: watch::Sender<u32>,
    bell: Arc<Notify>,
) {
    let mut rung = pin!(bell.notified());
    poll_fn(|task| {
        // How an exchange failed is told to it; that the connection ends is no news.
        let polled = Pin::new(&mut connection).poll(task);
        loop {
            let most = u32::try_from(connection.current_max_send_streams()).unwrap_or(MAX_STREAMS);
            told.send_if_modified(|told| std::mem::replace(told, most) != most);
            if most != UNTOLD || rung.as_mut().poll(task).is_pending() {
                return polled.map(|_| ());
            }
            rung.set(bell.notified());
        }
    })
    .await;
}

// === impl Stream ===

impl Stream {
    /// What sends its request.
    pub(super) fn sender(&self) -> SendRequest<RequestBody> {
        self.0.sender.clone()
    }

    /// The connection takes no more requests.
    pub(super) fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let since = self.0.origin.elapsed().as_micros() as u64;
        self.0.since.store(since, Ordering::Relaxed);
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
        self.0.count.ring();
    }
}
