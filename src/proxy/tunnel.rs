//! A connection that has left HTTP: bytes both ways, until both ends are done.
//!
//! The slot is held as long as the tunnel lives: a WebSocket is work of the application like any
//! other.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::exchange::Exchange;
use crate::admission::Permit;
use crate::timer::IdleTimer;
use crate::upstream::Lease;

/// Once one end has said that it sends nothing more, the other may be silent for so long.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What an upgraded connection carries on with.
#[derive(Debug)]
pub struct Tunnel {
    pub(super) upgrade: OnUpgrade,
    pub(super) lease: Lease<Permit>,
    pub(super) exchange: Box<Exchange>,
    /// The longest silence; `None`: no bound.
    pub(super) idle: Option<Duration>,
}

/// The client's end, watched.
struct Watched<C> {
    client: C,
    moved: Arc<Moved>,
}

/// What has moved.
#[derive(Debug, Default)]
struct Moved {
    to_client: AtomicU64,
    to_application: AtomicU64,
    /// One end has closed.
    halved: AtomicBool,
}

// === impl Tunnel ===

impl Tunnel {
    /// Carries bytes until both ends have closed, one of them is lost, or both are silent for too
    /// long.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts the tunnel.
    pub async fn run<C: AsyncRead + AsyncWrite + Unpin>(self, client: C) {
        // Dropped in reverse: the application's socket is closed before the slot comes back.
        let Tunnel { upgrade, lease, mut exchange, idle } = self;
        let Ok(upgraded) = upgrade.await else { return };
        let mut application = TokioIo::new(upgraded);
        let moved = Arc::new(Moved::default());
        let mut client = Watched { client, moved: Arc::clone(&moved) };
        carry(&mut client, &mut application, &moved, idle).await;
        drop(application);
        lease.finish_and_close();
        exchange.sent(moved.to_client.load(Ordering::Relaxed) as usize);
        exchange.complete();
    }
}

async fn carry<C, A>(
    client: &mut Watched<C>,
    application: &mut A,
    moved: &Moved,
    idle: Option<Duration>,
) where
    C: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    let mut copying = pin!(copy_bidirectional(client, application));
    let mut timer = IdleTimer::new(idle);
    let mut seen = (0, false);
    std::future::poll_fn(|task| {
        if copying.as_mut().poll(task).is_ready() {
            return Poll::Ready(());
        }
        let now = moved.total();
        if now != seen {
            if now.1 && !seen.1 {
                timer = IdleTimer::new(Some(idle.unwrap_or(LAST_WORDS).min(LAST_WORDS)));
            }
            seen = now;
            timer.progress();
        }
        timer.poll(task)
    })
    .await;
}

// === impl Moved ===

impl Moved {
    fn total(&self) -> (u64, bool) {
        let bytes =
            self.to_client.load(Ordering::Relaxed) + self.to_application.load(Ordering::Relaxed);
        (bytes, self.halved.load(Ordering::Relaxed))
    }
}

// === impl Watched ===

impl<C: AsyncRead + Unpin> AsyncRead for Watched<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.client).poll_read(task, buf);
        let read = buf.filled().len() - before;
        self.moved.to_application.fetch_add(read as u64, Ordering::Relaxed);
        if polled.is_ready() && read == 0 {
            self.moved.halved.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Watched<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.client).poll_write(task, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.moved.to_client.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.moved.halved.store(true, Ordering::Relaxed);
        Pin::new(&mut self.client).poll_shutdown(task)
    }
}
