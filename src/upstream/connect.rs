//! Opening a connection to the application: what the pool asks for, and who can do it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::UpstreamError;
use super::resolve::Resolve;
use super::tcp::TcpConnector;
use super::tls::{TlsConnector, TlsError, TlsSettings};
use super::unix::UnixConnector;

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

/// Where an application listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// TCP.
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        /// 1 to 65,535.
        port: u16,
        /// How old an answer of the resolver may be.
        dns_refresh: Duration,
    },
    /// The path of a socket, on which HTTP/1.1 is spoken.
    Unix(PathBuf),
}

/// What is spoken over TCP.
#[derive(Clone, Debug)]
pub enum Spoken {
    /// This, without TLS.
    Plain(Protocol),
    /// TLS, and what the application chooses.
    Tls(TlsSettings),
}

/// The connector of an application. `resolver` looks names up.
///
/// # Errors
///
/// TLS is to be spoken, and a file for it cannot be used.
pub fn connector(
    address: &Address,
    spoken: Spoken,
    resolver: Arc<dyn Resolve>,
) -> Result<Box<dyn Connect>, TlsError> {
    let (host, port, dns_refresh) = match address {
        Address::Unix(path) => return Ok(Box::new(UnixConnector::new(path))),
        Address::Tcp { host, port, dns_refresh } => (host, *port, *dns_refresh),
    };
    let tcp = |protocol| TcpConnector::with(host, port, protocol, dns_refresh, resolver);
    Ok(match spoken {
        Spoken::Plain(protocol) => Box::new(tcp(protocol)),
        Spoken::Tls(settings) => Box::new(TlsConnector::new(tcp(Protocol::Http1), settings)?),
    })
}
