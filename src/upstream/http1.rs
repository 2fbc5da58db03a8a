//! One connection of HTTP/1.1 to the application.
//!
//! Each is driven by a task of its own, which owns the socket. Ended in order, an exchange gives
//! back at once what was held for it; broken off in the middle, it leaves that to the task, which
//! gives it back when the socket is closed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::Connected;
use super::lease::{Hearer, RequestBody, Unanswered};
use super::pool::Count;
use super::watched::{Traffic, Watched};
use crate::message::Incoming;
use crate::timer::LazyTimer;

/// The largest response head, in bytes; beyond it the answer is a 502.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// An open connection, in use by one exchange at most.
pub(super) struct Idle<H> {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) since: Instant,
    pub(super) address: Option<SocketAddr>,
    pub(super) timer: LazyTimer,
    /// How often bytes had come when the exchange began.
    reads: u64,
    shared: Arc<Shared<H>>,
}

/// What the user and the task of a connection share.
struct Shared<H> {
    traffic: Arc<Traffic>,
    kill: Notify,
    end: Mutex<End<H>>,
}

/// Who gives back what was held when the exchange broke off.
enum End<H> {
    /// The connection is open.
    Open,
    /// The exchange was broken off; the task gives it back once the socket is closed.
    Orphaned(H),
    /// The socket is closed.
    Closed,
}

// === impl Idle ===

impl<H: Send + 'static> Idle<H> {
    /// Starts HTTP/1.1 on a fresh connection. `token` is dropped when the socket is closed.
    pub(super) async fn start<T: Send + Unpin + 'static>(
        connected: Connected,
        count: &Arc<Count>,
        token: T,
    ) -> hyper::Result<Idle<H>> {
        let shared = Arc::new(Shared {
            traffic: Traffic::new(count),
            kill: Notify::new(),
            end: Mutex::new(End::Open),
        });
        let watched = Watched::new(connected.stream, Arc::clone(&shared.traffic), token);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_RESPONSE_HEAD)
            .max_header_size(MAX_RESPONSE_HEAD)
            .handshake(TokioIo::new(watched))
            .await?;
        tokio::spawn(drive(connection, Arc::clone(&shared)));
        let (since, timer) = (Instant::now(), LazyTimer::default());
        Ok(Idle { sender, since, address: connected.address, timer, reads: 0, shared })
    }

    /// Waits until the connection can take a request; `false` if it closed or took too long.
    pub(super) async fn became_ready(&mut self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.sender.ready()).await, Ok(Ok(())))
    }

    /// Sends a request. `hear` is told of what comes before the response.
    pub(super) fn send<F: Hearer>(
        &mut self,
        mut request: Request<RequestBody>,
        hear: Option<F>,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + Send + use<F, H> {
        if let Some(hear) = hear {
            hyper::ext::on_informational(&mut request, move |interim| {
                hear(interim.status(), interim.headers());
            });
        }
        let answer = self.sender.try_send_request(request);
        async move { Ok(answer.await?.map(Incoming::from)) }
    }

    /// Takes the connection into use: nothing has come yet.
    pub(super) fn begin(&mut self) {
        self.reads = self.shared.traffic.reads();
    }

    /// Whether anything has come back since the exchange began.
    pub(super) fn answered(&self) -> bool {
        self.shared.traffic.reads() != self.reads
    }

    /// Closes the connection in the middle of an exchange. What was held for it comes back when the
    /// socket is closed; that of a tunnel is closed already.
    pub(super) fn break_off(self, held: Option<H>) {
        if let Some(held) = held {
            let mut end = self.shared.lock();
            if matches!(*end, End::Open) {
                *end = End::Orphaned(held);
            }
        }
        self.shared.kill.notify_one();
    }
}

/// Owns the socket until the exchange, or the connection, has ended, or it has become a tunnel.
async fn drive<H, T>(
    connection: http1::Connection<TokioIo<Watched<T>>, RequestBody>,
    shared: Arc<Shared<H>>,
) where
    H: Send + 'static,
    T: Send + Unpin + 'static,
{
    tokio::select! {
        biased;
        () = shared.kill.notified() => {}
        // How an exchange failed is told to its lease; an unused connection that closes is no news.
        _ = connection.with_upgrades() => {}
    }
    // Both futures are gone here, and the socket with them.
    let end = std::mem::replace(&mut *shared.lock(), End::Closed);
    drop(end);
}

// === impl Shared ===

impl<H> Shared<H> {
    fn lock(&self) -> std::sync::MutexGuard<'_, End<H>> {
        self.end.lock().expect("nothing panics while it holds the lock")
    }
}
