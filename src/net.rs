//! A stream socket, of TCP or of Unix.
//!
//! Shared by reference: one side reads and writes it, others may watch it for its end.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// A socket on its way from one runtime to another.
#[derive(Debug)]
pub enum Detached {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Calls the method of the same name on whichever socket it is.
macro_rules! on {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

// === impl Detached ===

impl Detached {
    /// Belongs to the present runtime from now on.
    ///
    /// # Errors
    ///
    /// The runtime cannot watch it.
    pub fn attach(self) -> io::Result<Socket> {
        Ok(match self {
            Detached::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Detached::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}

// === impl Socket ===

impl Socket {
    /// Leaves its runtime.
    ///
    /// # Errors
    ///
    /// The runtime cannot let go of it.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Socket::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Socket::Unix(stream) => Detached::Unix(stream.into_std()?),
        })
    }

    /// Small answers do not wait for the acknowledgement of earlier ones, and unsent bytes beyond
    /// `max_unsent` make it take no more.
    pub fn tune(&self, max_unsent: u32) {
        if let Socket::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
            #[cfg(any(target_os = "linux", target_os = "android"))]
            let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(max_unsent);
        }
    }

    /// Ready once something can be read, the end included.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub fn poll_read_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, stream => stream.poll_read_ready(task))
    }

    /// Ready once something can be written.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, stream => stream.poll_write_ready(task))
    }

    /// Resolves once one of those states holds.
    ///
    /// # Errors
    ///
    /// The runtime is shutting down.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        on!(self, stream => stream.ready(interest).await)
    }

    /// Runs an operation on the socket's readiness; one that would block clears it.
    ///
    /// # Errors
    ///
    /// What the operation returns.
    pub fn try_io<R>(
        &self,
        interest: Interest,
        operation: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        on!(self, stream => stream.try_io(interest, operation))
    }

    /// Reads what is there into the unfilled part, at most `most` bytes.
    ///
    /// # Errors
    ///
    /// Of the system; `WouldBlock` if nothing is there.
    pub fn try_read(&self, buf: &mut ReadBuf<'_>, most: usize) -> io::Result<usize> {
        use bytes::BufMut;
        on!(self, stream => stream.try_read_buf(&mut (&mut *buf).limit(most)))
    }

    /// Whether bytes are there to be read. This is the kernel's word: what the runtime knows may be
    /// older.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = on!(self, stream => socket2::SockRef::from(stream).peek(&mut byte));
        peeked.is_ok_and(|bytes| bytes > 0)
    }

    /// Resolves once bytes are there to be read, or the other end has closed. Others may wait for
    /// the same.
    ///
    /// # Cancel safety
    ///
    /// Nothing is read; dropping the future loses nothing.
    pub async fn readable(&self) {
        loop {
            let Ok(ready) = self.ready(Interest::READABLE).await else { return };
            if ready.is_read_closed() || self.has_unread() {
                return;
            }
            // What the runtime knew was old.
            let again = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
            let _ = self.try_io(Interest::READABLE, again);
        }
    }

    /// Writes what fits.
    ///
    /// # Errors
    ///
    /// Of the system; `WouldBlock` if nothing fits.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        on!(self, stream => stream.try_write(bytes))
    }

    /// Writes what fits of several buffers.
    ///
    /// # Errors
    ///
    /// Of the system; `WouldBlock` if nothing fits.
    pub fn try_write_vectored(&self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        on!(self, stream => stream.try_write_vectored(bufs))
    }

    /// Says that nothing more will be written.
    pub fn shutdown_write(&self) {
        // It may be closed already.
        let _ = on!(self, stream => socket2::SockRef::from(stream).shutdown(Shutdown::Write));
    }

    /// Closing it will send a reset, and discard what was not sent yet.
    pub fn reset_on_close(&self) {
        let linger = Some(Duration::ZERO);
        let _ = on!(self, stream => socket2::SockRef::from(stream).set_linger(linger));
    }

    /// Resolves when the other end has closed, wholly or for writing, or reset the connection.
    ///
    /// An end behind unread bytes that fill the receive window cannot be seen.
    ///
    /// # Cancel safety
    ///
    /// Nothing is read; dropping the future loses nothing.
    pub async fn hung_up(&self) {
        loop {
            let Ok(ready) = self.ready(watched()).await else { return };
            if ready.is_read_closed() || ready.is_write_closed() || ready.is_error() {
                return;
            }
            // Urgent data, say. Clears that readiness, so that the loop does not spin.
            let again = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
            let _ = self.try_io(watched(), again);
        }
    }

    /// Reads and throws away, until the end, so many bytes, or a silence of such a length.
    ///
    /// # Errors
    ///
    /// Of the system.
    pub async fn discard(&self, bytes: usize, silence: Duration) -> io::Result<()> {
        let mut left = bytes;
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 {
            timeout(silence, poll_fn(|task| self.poll_read_ready(task))).await??;
            match self.try_read(&mut ReadBuf::new(&mut buffer), usize::MAX) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Anything but readable: unread bytes would make that true for ever.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn watched() -> Interest {
    Interest::PRIORITY | Interest::ERROR
}

/// Elsewhere only a reset is seen; `max_wait` bounds the rest.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn watched() -> Interest {
    Interest::ERROR
}
