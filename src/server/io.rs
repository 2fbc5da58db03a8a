//! A client's socket as hyper sees it: shared, and telling what moves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::proxy::{Client, Phase};

/// Reads and writes a client's socket.
#[derive(Debug)]
pub(super) struct ClientIo {
    client: Arc<Client>,
    /// Read before, and to be read again.
    first: Bytes,
    /// hyper's bound on a head holds only for what it has read, and it reads as far as its buffer
    /// goes.
    max_head: usize,
    /// How much of the present head has come.
    head: usize,
}

// === impl ClientIo ===

impl ClientIo {
    pub(super) fn new(client: Arc<Client>, first: Bytes, max_head: usize) -> ClientIo {
        let head = first.len();
        ClientIo { client, first, max_head, head }
    }

    /// How much may be read now, so that no head becomes longer than it may. Never nothing: that
    /// would look like the end of the input.
    fn allowance(&mut self) -> usize {
        match self.client.activity.phase().0 {
            Phase::Idle => self.head = 0,
            Phase::Head => {}
            Phase::Busy => return usize::MAX,
        }
        self.max_head.saturating_sub(self.head).max(1)
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let len = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..len]);
            self.first.advance(len);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.client.stream.poll_read_ready(context))?;
            let allowance = self.allowance();
            match self.client.stream.try_read_buf(&mut (&mut *buf).limit(allowance)) {
                Ok(0) if buf.remaining() > 0 => {
                    self.client.activity.end_of_input();
                    return Poll::Ready(Ok(()));
                }
                Ok(read) => {
                    self.head += read;
                    self.client.activity.received();
                    if read < allowance && buf.remaining() > 0 {
                        self.emptied();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.client.activity.end_of_input();
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl ClientIo {
    /// The socket's buffer has been read to its end: says so without the system call that would
    /// find it out. Sound because a worker's runtime has one thread: no news can have come since
    /// the read.
    fn emptied(&self) {
        let nothing = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        let _ = self.client.stream.try_io(Interest::READABLE, nothing);
    }

    fn poll_written(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let polled = self.client.stream.poll_write_ready(context);
            self.client.activity.wrote(polled.is_pending());
            ready!(polled)?;
            match write() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(context, || self.client.stream.try_write(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: the connection closes the socket itself, after it has lingered.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(context, || self.client.stream.try_write_vectored(bufs))
    }
}
