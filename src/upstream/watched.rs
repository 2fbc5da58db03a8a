//! The bytes of a connection to the application, watched.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::connect::Stream;
use super::pool::Count;
use crate::message::frames::Scanner;

/// As much is read at once. hyper's buffers grow with what a read brings, up to the longest head,
/// and three or four of them are full while a client reads slowly: one byte more here and each of
/// them takes 64 KiB, not 32. Half as much costs a quarter more CPU time for large bodies, twice as
/// much saves none.
const MAX_READ: usize = 32 * 1024 - 1;

/// Notes what moves, and lets the read side tell how a connection ended: an application that
/// answers early and closes makes writing fail while its answer waits to be read.
pub(super) struct Watched<T> {
    stream: Box<dyn Stream>,
    traffic: Arc<Traffic>,
    /// Writing has failed; what is still written goes nowhere.
    deaf: bool,
    /// Of HTTP/2: finds the frames that come.
    frames: Option<Scanner>,
    /// Goes with the socket, wherever that goes.
    _token: T,
}

/// What moves on a connection.
#[derive(Debug)]
pub(super) struct Traffic {
    origin: Instant,
    /// How often bytes have come.
    reads: AtomicU64,
    /// Microseconds from `origin` to the write that waits for the application to read; 0: none
    /// does.
    blocked: AtomicU64,
    /// Rung when it waits no more.
    count: Arc<Count>,
}

// === impl Traffic ===

impl Traffic {
    /// Of a new connection, one of so many.
    pub(super) fn new(count: &Arc<Count>) -> Arc<Traffic> {
        Arc::new(Traffic {
            origin: Instant::now(),
            reads: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            count: Arc::clone(count),
        })
    }

    /// How often bytes have come.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Whether a write has waited for so long.
    pub(super) fn is_blocked_for(&self, time: Duration) -> bool {
        let since = self.blocked.load(Ordering::Relaxed);
        since != 0 && self.origin.elapsed() >= Duration::from_micros(since) + time
    }

    fn wrote(&self, blocked: bool) {
        let before = self.blocked.load(Ordering::Relaxed);
        if blocked && before == 0 {
            let now = self.origin.elapsed().as_micros() as u64;
            self.blocked.store(now.max(1), Ordering::Relaxed);
        } else if !blocked && before != 0 {
            self.blocked.store(0, Ordering::Relaxed);
            self.count.ring();
        }
    }
}

// === impl Watched ===

impl<T> Watched<T> {
    pub(super) fn new(stream: Box<dyn Stream>, traffic: Arc<Traffic>, token: T) -> Watched<T> {
        Watched { stream, traffic, deaf: false, frames: None, _token: token }
    }

    /// Of HTTP/2: hides from h2 what it would mistake for an offence.
    pub(super) fn of_frames(mut self) -> Watched<T> {
        self.frames = Some(Scanner::default());
        self
    }

    /// Some bytes have come.
    fn came(&mut self, bytes: &mut [u8]) {
        self.traffic.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(frames) = &mut self.frames {
            frames.hide_vain(bytes);
        }
    }

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

impl<T: Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = {
            let mut limited = (&mut *buf).limit(MAX_READ);
            let reading = pin!(self.stream.read_buf(&mut limited));
            reading.poll(context).map_ok(|_| ())
        };
        if buf.filled().len() > before {
            self.came(&mut buf.filled_mut()[before..]);
        }
        polled
    }
}

impl<T: Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(context, buf);
        self.traffic.wrote(polled.is_pending());
        Poll::Ready(self.written(buf.len(), ready!(polled)))
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
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.traffic.wrote(polled.is_pending());
        Poll::Ready(self.written(len, ready!(polled)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_is_known_until_it_is_done() {
        let traffic = Traffic::new(&Arc::default());
        let time = Duration::from_millis(100);
        traffic.wrote(true);
        assert!(!traffic.is_blocked_for(time));
        tokio::time::advance(time).await;
        // Asked again meanwhile.
        traffic.wrote(true);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(traffic.is_blocked_for(time));
        traffic.wrote(false);
        assert!(!traffic.is_blocked_for(Duration::ZERO));
    }
}
