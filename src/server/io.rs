//! A client's connection as hyper sees it: a shared socket, perhaps beneath TLS, that tells what
//! moves.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{io, mem};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::Instant;

use super::meter::Meter;
use crate::net::Socket;
use crate::proxy::{Client, Phase};

/// As much of a body is read at once: hyper's buffers grow with what a read brings, and several are
/// full while an upload is slow to be taken.
const MAX_READ: usize = 16 * 1024 - 1;

/// Reads and writes what a client says.
pub(super) struct ClientIo {
    client: Arc<Client>,
    transport: Transport,
    /// Read before, and to be read again.
    first: Bytes,
    /// hyper's bound on a head holds only for what it has read, and it reads as far as its buffer
    /// goes.
    max_head: usize,
    /// How much of the present head has come.
    head: usize,
    /// hyper is done: the end may be told on the wire.
    free: bool,
    /// What is said past hyper, between two of its messages, and not written yet.
    interim: Bytes,
    /// What hyper answers to a head that it cannot read, kept back: there may be a better answer.
    held: Vec<u8>,
    /// Reads along on a connection of HTTP/2.
    meter: Option<Meter>,
}

/// The bytes of a socket.
#[derive(Debug)]
pub(super) struct SocketIo {
    socket: Arc<Socket>,
    /// Read before, and to be read again.
    first: Bytes,
}

/// What lies between a socket and HTTP.
enum Transport {
    Plain(SocketIo),
    Secure(Box<dyn Secure>),
}

/// TLS over a [`SocketIo`].
pub(super) trait Secure: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Secure for T {}

// === impl ClientIo ===

impl ClientIo {
    /// Of a client's socket, as it is.
    pub(super) fn plain(client: &Arc<Client>, socket: SocketIo, max_head: usize) -> ClientIo {
        ClientIo::over(Transport::Plain(socket), client, max_head)
    }

    /// Of a client's socket beneath TLS.
    pub(super) fn secure(
        client: &Arc<Client>,
        stream: Box<dyn Secure>,
        max_head: usize,
    ) -> ClientIo {
        ClientIo::over(Transport::Secure(stream), client, max_head)
    }

    fn over(transport: Transport, client: &Arc<Client>, max_head: usize) -> ClientIo {
        let client = Arc::clone(client);
        let first = Bytes::new();
        let interim = Bytes::new();
        ClientIo {
            client,
            transport,
            first,
            max_head,
            head: 0,
            free: false,
            interim,
            held: Vec::new(),
            meter: None,
        }
    }

    /// What was read and not used is read again.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.head = bytes.len();
        self.first = kept(bytes);
    }

    /// Whether something that was put back waits to be read.
    pub(super) fn has_first(&self) -> bool {
        !self.first.is_empty()
    }

    /// From now on the end of what is written is told on the wire. While hyper has the connection
    /// it is not: the connection lingers first.
    pub(super) fn set_free(&mut self) {
        self.free = true;
    }

    /// Whether a head has come as far as it may, without its end.
    pub(super) fn is_head_full(&self) -> bool {
        self.head >= self.max_head
    }

    /// What hyper answered to a head that it could not read, if it was kept back.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        mem::take(&mut self.held)
    }

    /// Keeps hyper's answer back to a head that it cannot read: nobody else writes while a head is
    /// coming, unless the client has left something untaken.
    fn hold(&mut self, bytes: &[u8]) -> bool {
        let activity = &self.client.activity;
        let refuses = !self.free
            && !activity.is_multiplexed()
            && activity.phase().0 == Phase::Head
            && !activity.is_blocked()
            && bytes.starts_with(b"HTTP/1.1 4");
        if refuses {
            self.held.extend_from_slice(bytes);
        }
        refuses
    }

    /// What comes from here on is weighed.
    pub(super) fn weigh(&mut self, meter: Meter) {
        self.meter = Some(meter);
    }

    /// Ready once there is something to read, the end included.
    pub(super) fn poll_news(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.poll_news(task),
            Transport::Secure(stream) => {
                // What comes may be nothing but TLS's own: only reading can tell.
                let mut space = [0; 1024];
                let mut buf = ReadBuf::new(&mut space);
                ready!(Pin::new(stream).poll_read(task, &mut buf))?;
                if buf.filled().is_empty() {
                    self.client.activity.end_of_input();
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                self.client.activity.received();
                self.put_back(Bytes::copy_from_slice(buf.filled()));
                Poll::Ready(Ok(()))
            }
        }
    }

    /// How much may be read now, so that no head becomes longer than it may. Never nothing: that
    /// would look like the end of the input.
    fn allowance(&mut self) -> usize {
        if self.client.activity.is_multiplexed() {
            return usize::MAX;
        }
        match self.client.activity.phase().0 {
            Phase::Idle => self.head = 0,
            Phase::Head => {}
            Phase::Busy => return MAX_READ,
        }
        self.max_head.saturating_sub(self.head).max(1)
    }

    /// Writes to the end what is said past hyper. It may have been begun: hyper waits.
    fn poll_interim(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let polled = match &mut self.transport {
                Transport::Plain(socket) => Pin::new(socket).poll_write(task, &self.interim),
                Transport::Secure(stream) => Pin::new(stream).poll_write(task, &self.interim),
            };
            let written = ready!(self.noted(polled))?;
            self.interim.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Passes on whether a write found the client reading.
    fn noted(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.client.activity.wrote(polled.is_pending());
        polled
    }

    /// Reads along what was written.
    fn weigh_out<'b>(&mut self, written: usize, parts: impl Iterator<Item = &'b [u8]>) {
        let Some(meter) = &mut self.meter else { return };
        let (mut left, mut of_responses) = (written, false);
        for part in parts {
            let taken = left.min(part.len());
            of_responses |= meter.wrote(&part[..taken]);
            left -= taken;
        }
        if of_responses {
            self.client.activity.delivered();
        }
        self.client.activity.delivers(meter.is_delivering());
    }

    /// Notes what has come, and reads it along where it is HTTP/2. Who sends what is of no use, or
    /// no HTTP/2, is told so and cut off.
    fn came(&mut self, bytes: &mut [u8], task: &mut Context<'_>) -> io::Result<()> {
        let Some(meter) = &mut self.meter else {
            self.client.activity.came(bytes.ends_with(b"\r\n\r\n"));
            return Ok(());
        };
        let weighed = meter.read(bytes, Instant::now());
        let activity = &self.client.activity;
        activity.asked(meter.is_delivering(), meter.heading_since());
        let Err(offence) = weighed else { return Ok(()) };
        if let Some(farewell) = meter.farewell(offence) {
            // If there is room for it: nobody waits for such a client.
            let (said, told) = match &mut self.transport {
                Transport::Plain(socket) => (Pin::new(socket).poll_write(task, &farewell), true),
                Transport::Secure(stream) => {
                    let said = Pin::new(&mut *stream).poll_write(task, &farewell);
                    (said, Pin::new(stream).poll_flush(task).is_ready())
                }
            };
            tracing::debug!(said = said.is_ready() && told, ?offence, "ends a connection");
        }
        Err(io::Error::other("a connection of HTTP/2 that gives offence"))
    }
}

/// Bytes of which none is left still hold the memory from which they were cut, for a silent client
/// as long as it stays.
fn kept(bytes: Bytes) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { bytes }
}

/// Takes as much as there is room for, and at most so much.
fn take(first: &mut Bytes, buf: &mut ReadBuf<'_>, most: usize) -> usize {
    let len = first.len().min(buf.remaining()).min(most);
    buf.put_slice(&first[..len]);
    first.advance(len);
    *first = kept(mem::take(first));
    len
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            let len = take(&mut this.first, buf, usize::MAX);
            let from = buf.filled().len() - len;
            return Poll::Ready(this.came(&mut buf.filled_mut()[from..], task));
        }
        let allowance = this.allowance();
        let polled = match &mut this.transport {
            Transport::Plain(socket) => socket.poll_read_at_most(task, buf, allowance),
            Transport::Secure(stream) => poll_read_at_most(stream, task, buf, allowance),
        };
        match ready!(polled) {
            Ok(0) => this.client.activity.end_of_input(),
            Ok(read) => {
                this.head += read;
                this.client.activity.received();
                let from = buf.filled().len() - read;
                return Poll::Ready(this.came(&mut buf.filled_mut()[from..], task));
            }
            Err(error) => {
                this.client.activity.end_of_input();
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads at most `most` bytes from a stream that has no bound of its own.
fn poll_read_at_most(
    stream: &mut Box<dyn Secure>,
    task: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let most = most.min(buf.remaining());
    let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
    ready!(Pin::new(stream).poll_read(task, &mut part))?;
    let read = part.filled().len();
    buf.advance(read);
    Poll::Ready(Ok(read))
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(task))?;
        if self.hold(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(task, bytes),
            Transport::Secure(stream) => Pin::new(stream).poll_write(task, bytes),
        };
        let written = ready!(self.noted(polled))?;
        self.weigh_out(written, std::iter::once(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper has written all that it has.
        if self.interim.is_empty() {
            let mut text = Vec::new();
            self.client.interims.take().iter().for_each(|said| said.write(&mut text));
            self.interim = text.into();
        }
        ready!(self.poll_interim(task))?;
        match &mut self.transport {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Secure(stream) => {
                let polled = Pin::new(stream).poll_flush(task);
                self.client.activity.wrote(polled.is_pending());
                polled
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.free {
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(task),
            Transport::Secure(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => true,
            Transport::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(task))?;
        if let [only] = bufs
            && self.hold(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        let polled = match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(task, bufs),
            Transport::Secure(stream) => Pin::new(stream).poll_write_vectored(task, bufs),
        };
        let written = ready!(self.noted(polled))?;
        self.weigh_out(written, bufs.iter().map(|part| &part[..]));
        Poll::Ready(Ok(written))
    }
}

// === impl SocketIo ===

impl SocketIo {
    pub(super) fn new(client: &Client) -> SocketIo {
        SocketIo { socket: Arc::clone(&client.socket), first: Bytes::new() }
    }

    /// What was read and not used is read again.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.first = kept(bytes);
    }

    /// Ready once there is something to read, the end included.
    pub(super) fn poll_news(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() { self.socket.poll_read_ready(task) } else { Poll::Ready(Ok(())) }
    }

    /// Reads some more behind what is there; nothing: the end.
    pub(super) async fn read_some(&mut self, bytes: &mut BytesMut) -> io::Result<usize> {
        let mut space = [0; 1024];
        let mut buf = ReadBuf::new(&mut space);
        let read = poll_fn(|task| self.poll_read_at_most(task, &mut buf, usize::MAX)).await?;
        bytes.extend_from_slice(buf.filled());
        Ok(read)
    }

    fn poll_read_at_most(
        &mut self,
        task: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(take(&mut self.first, buf, most)));
        }
        loop {
            ready!(self.socket.poll_read_ready(task))?;
            match self.socket.try_read(buf, most) {
                Ok(read) => {
                    if read > 0 && read < most && buf.remaining() > 0 {
                        self.emptied();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The socket's buffer has been read to its end: says so without the system call that would
    /// find it out. Sound because a worker's runtime has one thread: no news can have come since
    /// the read.
    fn emptied(&self) {
        let nothing = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        let _ = self.socket.try_io(Interest::READABLE, nothing);
    }

    fn poll_written(
        &self,
        task: &mut Context<'_>,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(task))?;
            match write() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for SocketIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_at_most(task, buf, usize::MAX).map_ok(|_| ())
    }
}

impl AsyncWrite for SocketIo {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(task, || self.socket.try_write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.shutdown_write();
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(task, || self.socket.try_write_vectored(bufs))
    }
}
