//! Opening a connection to the application.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use super::UpstreamError;

/// A connection's bytes, whatever carries them.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: one exchange at a time.
    Http1,
    /// HTTP/2: many exchanges at once.
    Http2,
}

/// An open connection, on which nothing has been said yet.
pub struct Connected {
    /// Its bytes.
    pub stream: Box<dyn Stream>,
    /// What both ends agreed on.
    pub protocol: Protocol,
    /// The address that was connected to, if it has one.
    pub address: Option<SocketAddr>,
}

/// The future of [`Connect::connect`].
pub type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<Connected, UpstreamError>> + Send + 'a>>;

/// Opens connections. Tests bring their own.
pub trait Connect: Send + Sync + 'static {
    /// Opens one connection, which speaks `only` this, if it is given. The caller bounds the time.
    fn connect(&self, only: Option<Protocol>) -> Connecting<'_>;

    /// What a connection speaks if the caller does not mind; `None`: only the other end can tell
    /// (ALPN).
    fn protocol(&self) -> Option<Protocol>;

    /// Whether the application is still at the address; a connection to one that it has left is not
    /// used again.
    fn is_current(&self, address: SocketAddr) -> bool {
        let _ = address;
        true
    }
}

/// Plain TCP. The name is resolved for each connection, so that a new address is used from the next
/// connection on; the addresses are tried in the resolver's order.
#[derive(Debug)]
pub struct TcpConnector {
    host: String,
    port: u16,
}

// === impl TcpConnector ===

impl TcpConnector {
    /// To a host name or bare address.
    #[must_use]
    pub fn new(host: &str, port: u16) -> TcpConnector {
        TcpConnector { host: host.to_owned(), port }
    }

    async fn open(&self) -> Result<(TcpStream, SocketAddr), UpstreamError> {
        let addresses = lookup_host((self.host.as_str(), self.port)).await;
        let mut failed = UpstreamError::DnsError;
        for address in addresses.map_err(|_| UpstreamError::DnsError)? {
            match open_one(address).await {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => failed = UpstreamError::connecting(&error),
            }
        }
        Err(failed)
    }
}

impl Connect for TcpConnector {
    fn connect(&self, _: Option<Protocol>) -> Connecting<'_> {
        Box::pin(async {
            let (stream, address) = self.open().await?;
            let address = Some(address);
            Ok(Connected { stream: Box::new(stream), protocol: Protocol::Http1, address })
        })
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(Protocol::Http1)
    }
}

async fn open_one(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Small requests must not wait for the acknowledgement of earlier ones.
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(15));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}
