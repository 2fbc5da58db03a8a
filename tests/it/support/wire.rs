//! One end of a TCP connection, byte by byte: the client's, or the application's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{PATIENCE, soon};

/// An end of a connection. Reading has a deadline; what is not HTTP fails the test.
#[derive(Debug)]
pub struct Wire {
    pub stream: TcpStream,
    /// Received and not yet taken.
    pub buffer: Vec<u8>,
}

/// How the other side ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed,
    /// By a reset.
    Reset,
}

/// The first line and the fields of a message, as they came.
#[derive(Clone, Debug)]
pub struct Head {
    /// Every byte, with the empty line.
    pub raw: String,
    /// The first line.
    pub line: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
}

/// A message. Its body is taken out of its framing.
#[derive(Clone, Debug)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The body came to the end that its framing promised.
    pub whole: bool,
}

// === impl Wire ===

impl Wire {
    pub fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).expect("a TCP socket");
        Wire { stream, buffer: Vec::new() }
    }

    pub async fn connect(address: SocketAddr) -> Wire {
        let stream = soon(("connected to", address), TcpStream::connect(address)).await;
        Wire::new(stream.expect("connected"))
    }

    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> Wire {
        let socket = TcpSocket::new_v4().expect("a descriptor is left");
        socket.bind((source, 0).into()).expect("an address of this machine");
        let stream = soon(("connected to", address), socket.connect(address)).await;
        Wire::new(stream.expect("connected"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("sent");
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("bytes are taken", self.stream.write_all(bytes.as_ref())).await
    }

    /// Takes exactly so many bytes.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more().await.expect("open"), "ended early: {}", self.shown());
        }
        self.buffer.drain(..count).collect()
    }

    /// The same; `None` if the connection ends before.
    pub async fn try_exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.more().await.unwrap_or(false) {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Throws away what has come; nothing is awaited.
    pub fn discard_what_came(&mut self) {
        self.buffer.clear();
        let mut space = [0; 16 * 1024];
        while matches!(self.stream.try_read(&mut space), Ok(1..)) {}
    }

    /// Takes everything up to and including `mark`.
    pub async fn through(&mut self, mark: &str) -> String {
        let mut looked = 0;
        loop {
            if let Some(at) = find(&self.buffer[looked..], mark.as_bytes()) {
                let at = looked + at;
                let taken = self.buffer.drain(..at + mark.len()).collect();
                return String::from_utf8(taken).expect("UTF-8");
            }
            looked = self.buffer.len().saturating_sub(mark.len());
            let more = self.more().await.expect("open");
            let peer = self.stream.peer_addr();
            assert!(more, "{peer:?} ended before {mark:?}: {}", self.shown());
        }
    }

    /// Takes a head.
    pub async fn head(&mut self) -> Head {
        Head::parse(&self.through("\r\n\r\n").await)
    }

    /// Takes a whole request.
    pub async fn request(&mut self) -> Message {
        let head = self.head().await;
        let bodyless = !head.has("transfer-encoding") && !head.has("content-length");
        self.message(head, bodyless).await
    }

    /// The same of a connection that may end instead.
    pub async fn try_request(&mut self) -> Option<Message> {
        while !self.buffer.windows(4).any(|four| four == b"\r\n\r\n") {
            if !self.more().await.unwrap_or(false) {
                return None;
            }
        }
        Some(self.request().await)
    }

    /// Takes a response to GET; see [`Wire::response_to`].
    pub async fn response(&mut self) -> Message {
        self.response_to("GET").await
    }

    /// Takes a response, to its end or to where it breaks off. An interim response counts as one.
    pub async fn response_to(&mut self, method: &str) -> Message {
        let head = self.head().await;
        let bodyless = method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304);
        self.message(head, bodyless).await
    }

    /// Sends a request and takes its response.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Message {
        let method = request.as_ref().split(|byte| *byte == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method).into_owned();
        self.send(request).await;
        self.response_to(&method).await
    }

    /// GET, with keep-alive.
    pub async fn get(&mut self, path: &str) -> Message {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: app\r\n\r\n")).await
    }

    /// Takes all that comes until the other side has closed.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await.expect("closed in order") {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the other side has ended the connection. What comes before stays in the buffer.
    pub async fn end(&mut self) -> End {
        loop {
            match self.more().await {
                Ok(true) => {}
                Ok(false) => return End::Closed,
                Err(_) => return End::Reset,
            }
        }
    }

    /// Whether the other side has already closed; nothing is awaited.
    pub fn has_ended(&self) -> bool {
        has_ended(&socket2::SockRef::from(&self.stream))
    }

    /// Fails if the other side sends or closes within `time`. For what must not happen, when
    /// nothing else that happens proves it.
    pub async fn stays_silent(&mut self, time: Duration) {
        assert!(self.buffer.is_empty(), "{}", self.shown());
        let came = tokio::time::timeout(time, self.stream.read_buf(&mut self.buffer)).await;
        assert!(came.is_err(), "{came:?}: {}", self.shown());
    }

    /// Neither reads nor writes for a while: to be slow is what is tested.
    pub async fn pause(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Says that nothing more is to be sent.
    pub async fn shut(&mut self) {
        self.stream.shutdown().await.expect("shut down for writing");
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&self.stream).set_linger(linger).expect("a TCP socket");
    }

    /// Makes the kernel buffer little, so that a slow reader is felt soon; but not so little that
    /// the window closes after each packet.
    pub fn small_buffers(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_recv_buffer_size(64 * 1024).expect("a TCP socket");
        socket.set_send_buffer_size(64 * 1024).expect("a TCP socket");
    }

    async fn more(&mut self) -> io::Result<bool> {
        let read = self.stream.read_buf(&mut self.buffer);
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(read) => Ok(read? > 0),
            Err(_) => panic!("nothing more within {PATIENCE:?} after: {}", self.shown()),
        }
    }

    async fn message(&mut self, head: Head, bodyless: bool) -> Message {
        let mut message = Message { head, body: Vec::new(), trailers: Vec::new(), whole: true };
        if bodyless {
            return message;
        }
        if message.head.has("transfer-encoding") {
            message.whole = self.chunks(&mut message).await;
        } else if let Some(length) = message.head.field("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.buffer.len() < length && self.more().await.unwrap_or(false) {}
            message.whole = self.buffer.len() >= length;
            let taken = length.min(self.buffer.len());
            message.body = self.buffer.drain(..taken).collect();
        } else {
            message.whole = self.end().await == End::Closed;
            message.body = std::mem::take(&mut self.buffer);
        }
        message
    }

    /// Takes chunks; `false` if they break off.
    async fn chunks(&mut self, message: &mut Message) -> bool {
        assert_eq!(message.head.field("transfer-encoding"), Some("chunked"));
        loop {
            let Some(size) = self.line().await else { return false };
            let size = usize::from_str_radix(&size, 16).expect("a chunk size without extensions");
            if size == 0 {
                break;
            }
            while self.buffer.len() < size + 2 {
                if !self.more().await.unwrap_or(false) {
                    message.body.append(&mut self.buffer);
                    return false;
                }
            }
            message.body.extend(self.buffer.drain(..size));
            assert_eq!(self.buffer.drain(..2).collect::<Vec<_>>(), b"\r\n");
        }
        loop {
            match self.line().await {
                Some(line) if line.is_empty() => return true,
                Some(line) => message.trailers.push(field(&line)),
                None => return false,
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return Some(String::from_utf8(line).expect("UTF-8"));
            }
            if !self.more().await.unwrap_or(false) {
                return None;
            }
        }
    }

    fn shown(&self) -> String {
        let shown = &self.buffer[..self.buffer.len().min(400)];
        String::from_utf8_lossy(shown).into_owned()
    }
}

/// Whether the other side has already closed a connection; nothing is awaited and nothing read.
pub fn has_ended(socket: &socket2::Socket) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match socket.peek(&mut byte) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
    (name.to_ascii_lowercase(), value.to_owned())
}

// === impl Head ===

impl Head {
    fn parse(raw: &str) -> Head {
        let mut lines = raw.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().expect("split yields one").to_owned();
        Head { raw: raw.to_owned(), line, fields: lines.map(field).collect() }
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        let code = self.line.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status line: {:?}", self.line))
    }

    /// The values of all fields of this name, in their order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of the one field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} more than once: {all:?}");
        all.first().copied()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

// === impl Message ===

impl Message {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// Checks that tidegate itself answered, with this status and, in `Proxy-Status`, for this
    /// reason.
    #[track_caller]
    pub fn assert_own(&self, status: u16, proxy_status: &str) {
        assert_eq!(self.status(), status, "{}", self.head.raw);
        let said = self.field("proxy-status").unwrap_or_default();
        assert_eq!(said, format!("tidegate; error={proxy_status}"), "{}", self.head.raw);
    }
}
