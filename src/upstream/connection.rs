//! One connection to the application, and the exclusive use of it for one exchange.
//!
//! Each connection is driven by a task of its own, which owns the socket. A [`Lease`] holds what
//! must not be given back before the application is rid of the request (`H`: in the proxy, the
//! permit). Ended in order, the lease gives it back at once; dropped in the middle of an exchange,
//! it leaves it to the task, which gives it back when the socket is closed.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::Stream;
use super::pool::Pool;
use crate::timer::LazyTimer;

/// The body of a request on its way to the application.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// The largest response head, in bytes; beyond it the answer is a 502.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// An open connection that nobody uses.
pub(super) struct Idle<H> {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) since: Instant,
    shared: Arc<Shared<H>>,
    timer: LazyTimer,
}

/// The exclusive use of one connection, for one exchange.
pub struct Lease<H: Send + 'static> {
    /// `None` once the lease has ended.
    connection: Option<Idle<H>>,
    held: Option<H>,
    pool: Arc<Pool<H>>,
    shard: usize,
    reused: bool,
}

/// What the lease and the task of a connection share.
struct Shared<H> {
    /// Bytes have come since the exchange began.
    answered: AtomicBool,
    kill: Notify,
    end: Mutex<End<H>>,
}

/// Who gives back what was held when the exchange broke off.
enum End<H> {
    /// The connection is open.
    Open,
    /// The lease was dropped; the task gives it back once the socket is closed.
    Orphaned(H),
    /// The socket is closed.
    Closed,
}

/// Notes that bytes have come, and lets the read side tell how a connection ended: an application
/// that answers early and closes makes writing fail while its answer waits to be read.
struct Watched<H> {
    stream: Box<dyn Stream>,
    shared: Arc<Shared<H>>,
    /// Writing has failed; what is still written goes nowhere.
    deaf: bool,
}

// === impl Idle ===

impl<H: Send + 'static> Idle<H> {
    /// Starts HTTP/1.1 on a fresh stream. `token` is dropped when the socket is closed.
    pub(super) async fn start<T: Send + 'static>(
        stream: Box<dyn Stream>,
        token: T,
    ) -> hyper::Result<Idle<H>> {
        let shared = Arc::new(Shared {
            answered: AtomicBool::new(false),
            kill: Notify::new(),
            end: Mutex::new(End::Open),
        });
        let watched = Watched { stream, shared: Arc::clone(&shared), deaf: false };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_RESPONSE_HEAD)
            .max_header_size(MAX_RESPONSE_HEAD)
            .handshake(TokioIo::new(watched))
            .await?;
        tokio::spawn(drive(connection, Arc::clone(&shared), token));
        Ok(Idle { sender, since: Instant::now(), shared, timer: LazyTimer::default() })
    }

    /// Waits until the connection can take a request; `false` if it closed or took too long.
    pub(super) async fn became_ready(&mut self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.sender.ready()).await, Ok(Ok(())))
    }

    /// The connection is going to be used from another worker: its timer belongs to this one's
    /// runtime.
    pub(super) fn leave_worker(&mut self) {
        self.timer = LazyTimer::default();
    }

    /// Takes the connection into use.
    pub(super) fn lease(self, pool: Arc<Pool<H>>, shard: usize, held: H, reused: bool) -> Lease<H> {
        self.shared.answered.store(false, Ordering::Relaxed);
        Lease { connection: Some(self), held: Some(held), pool, shard, reused }
    }
}

/// Owns the socket until the exchange, or the connection, has ended.
async fn drive<H, T>(
    connection: http1::Connection<TokioIo<Watched<H>>, RequestBody>,
    shared: Arc<Shared<H>>,
    token: T,
) where
    H: Send + 'static,
{
    tokio::select! {
        biased;
        () = shared.kill.notified() => {}
        // How an exchange failed is told to its lease; an unused connection that closes is no news.
        _ = connection => {}
    }
    // Both futures are gone here, and the socket with them.
    let end = std::mem::replace(&mut *shared.lock(), End::Closed);
    drop(end);
    drop(token);
}

// === impl Lease ===

impl<H: Send + 'static> Lease<H> {
    /// Whether the connection had served another request before: it may have been closed meanwhile.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Whether anything has come back since the exchange began.
    #[must_use]
    pub fn answered(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.shared.answered.load(Ordering::Relaxed))
    }

    /// Sends a request. The future does not borrow the lease.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<H>
    {
        let connection = self.connection.as_mut().expect("a lease that is used has not ended");
        connection.sender.try_send_request(request)
    }

    /// What is held until the exchange ends.
    pub fn held_mut(&mut self) -> &mut H {
        self.held.as_mut().expect("a lease holds until it ends")
    }

    /// Ready once `deadline` has passed; at the end of the exchange nothing has to be taken back.
    pub fn poll_deadline(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let connection = self.connection.as_mut().expect("a lease that is used has not ended");
        connection.timer.poll(deadline, context)
    }

    /// The exchange is over and whole: gives back what was held, and the connection to its pool.
    pub fn finish(mut self) {
        let held = self.held.take();
        if let Some(mut idle) = self.connection.take() {
            idle.since = Instant::now();
            self.pool.put_back(self.shard, idle);
        }
        // After the connection, so that whoever is let in next finds it.
        drop(held);
    }

    /// The application is done, and the connection is of no further use.
    pub fn finish_and_close(mut self) {
        drop(self.held.take());
    }

    /// Closes the connection and returns what was held: for another attempt.
    #[must_use]
    pub fn into_held(mut self) -> H {
        self.held.take().expect("a lease holds until it ends")
    }
}

impl<H: Send + 'static> Drop for Lease<H> {
    fn drop(&mut self) {
        let Some(Idle { shared, .. }) = self.connection.take() else { return };
        if let Some(held) = self.held.take() {
            let mut end = shared.lock();
            if matches!(*end, End::Open) {
                *end = End::Orphaned(held);
            }
        }
        shared.kill.notify_one();
    }
}

impl<H: Send + 'static> fmt::Debug for Lease<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("reused", &self.reused).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<H> Shared<H> {
    fn lock(&self) -> std::sync::MutexGuard<'_, End<H>> {
        self.end.lock().expect("nothing panics while it holds the lock")
    }
}

// === impl Watched ===

impl<H> Watched<H> {
    /// What to say of a write of `len` bytes.
    fn written(&mut self, len: usize, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Ok(written) => Ok(written),
            Err(_) => {
                self.deaf = true;
                Ok(len)
            }
        }
    }
}

impl<H: Send> AsyncRead for Watched<H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buf);
        if buf.filled().len() > before {
            self.shared.answered.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<H: Send> AsyncWrite for Watched<H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, buf));
        Poll::Ready(self.written(buf.len(), written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(len));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bufs));
        Poll::Ready(self.written(len, written))
    }
}
