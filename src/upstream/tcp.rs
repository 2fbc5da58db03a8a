//! Connections over TCP: the addresses of a name, one after the other with a short head start.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::UpstreamError;
use super::connect::{Connect, Connected, Connecting, Protocol};
use super::resolve::{Names, Resolve, SystemResolver};

/// How long an attempt is alone before the next address is tried beside it (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long the answer of the resolver is kept where nobody says otherwise.
const DNS_REFRESH: Duration = Duration::from_secs(5);

/// Plain TCP, on which HTTP/1.1 or HTTP/2 (by prior knowledge) is spoken.
#[derive(Debug)]
pub struct TcpConnector {
    names: Names,
    protocol: Protocol,
}

/// Doubts the addresses if connecting is given up, by a timeout for example: whoever would have
/// answered may have moved.
struct Doubt<'a> {
    names: &'a Names,
    given_up: bool,
}

// === impl TcpConnector ===

impl TcpConnector {
    /// HTTP/1.1 to a host name or bare address.
    #[must_use]
    pub fn new(host: &str, port: u16) -> TcpConnector {
        TcpConnector::with(host, port, Protocol::Http1, DNS_REFRESH, Arc::new(SystemResolver))
    }

    /// With a protocol, an age that the resolver's answers may have, and a resolver of one's own.
    #[must_use]
    pub fn with(
        host: &str,
        port: u16,
        protocol: Protocol,
        dns_refresh: Duration,
        resolver: Arc<dyn Resolve>,
    ) -> TcpConnector {
        TcpConnector { names: Names::new(host, port, dns_refresh, resolver), protocol }
    }

    /// Connects to the first address that answers.
    pub(super) async fn open(&self) -> Result<(TcpStream, SocketAddr), UpstreamError> {
        let addresses = self.names.current().await?;
        let mut doubt = Doubt { names: &self.names, given_up: true };
        let opened = match race(&addresses).await {
            Ok(opened) => Ok(opened),
            Err(error) => match self.names.again(&addresses).await {
                Some(newer) => race(&newer).await,
                None => Err(error),
            },
        };
        doubt.given_up = false;
        opened
    }
}

impl Connect for TcpConnector {
    fn connect(&self, only: Option<Protocol>) -> Connecting<'_> {
        Box::pin(async move {
            let (stream, address) = self.open().await?;
            let protocol = only.unwrap_or(self.protocol);
            Ok(Connected { stream: Box::new(stream), protocol, address: Some(address) })
        })
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(self.protocol)
    }

    fn is_current(&self, address: SocketAddr) -> bool {
        self.names.has(address)
    }
}

/// The first of the addresses that answers. The next one is tried as soon as one has failed, or has
/// had its head start.
async fn race(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), UpstreamError> {
    let mut failed = UpstreamError::DnsError;
    let mut left = addresses.iter().copied();
    // Dropping it ends the attempts that came too late.
    let mut attempts = JoinSet::new();
    loop {
        match left.next() {
            // The usual case needs no task.
            Some(only) if left.len() == 0 && attempts.is_empty() => {
                let stream = open(only).await.map_err(|error| UpstreamError::connecting(&error));
                return stream.map(|stream| (stream, only)).map_err(|error| failed.or(error));
            }
            Some(address) => {
                attempts.spawn(async move { open(address).await.map(|stream| (stream, address)) });
            }
            None if attempts.is_empty() => return Err(failed),
            None => {}
        }
        tokio::select! {
            biased;
            Some(joined) = attempts.join_next() => match joined {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(error)) => failed = failed.or(UpstreamError::connecting(&error)),
                Err(_) => failed = UpstreamError::ProxyInternalError,
            },
            () = sleep(HEAD_START), if left.len() > 0 => {}
        }
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Small requests must not wait for the acknowledgement of earlier ones.
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(15));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

// === impl Doubt ===

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if self.given_up {
            self.names.doubt();
        }
    }
}

// === impl UpstreamError ===

impl UpstreamError {
    /// Of the failures at two addresses, the one that says more: that a host refused tells of the
    /// application, that an address family has no way out tells of this machine.
    fn or(self, other: UpstreamError) -> UpstreamError {
        if self == UpstreamError::ConnectionRefused { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::resolve::testing::Script;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that refuses, and stays refusing: its port is bound and nobody listens.
    fn refusing() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    /// An address that answers nothing: its backlog is full.
    async fn black_hole() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
        let (socket, address) = refusing();
        socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(HEAD_START, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        (socket, waiting, address)
    }

    fn connector(script: &Arc<Script>) -> TcpConnector {
        let resolver = Arc::clone(script) as Arc<dyn Resolve>;
        TcpConnector::with("app", 80, Protocol::Http2, DNS_REFRESH, resolver)
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_one_refuses() {
        let ((_refusing, refused), (_listener, good)) = (refusing(), listener().await);
        let connector = connector(&Script::new(&[Some(&[refused, good])]));
        let connected = connector.connect(None).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((connected.address, connected.protocol), (Some(good), Protocol::Http2));
        assert!(connector.is_current(good));
        let connected = connector.connect(Some(Protocol::Http1)).await;
        assert_eq!(connected.map(|c| c.protocol).ok(), Some(Protocol::Http1));
    }

    #[tokio::test]
    async fn the_next_address_is_tried_beside_one_that_is_silent() {
        let ((_a, _b, silent), (_listener, good)) = (black_hole().await, listener().await);
        let connector = connector(&Script::new(&[Some(&[silent, good])]));
        let connected = timeout(PATIENCE, connector.connect(None)).await.expect("in time");
        assert_eq!(connected.map(|connected| connected.address).ok(), Some(Some(good)));
    }

    #[tokio::test]
    async fn a_name_that_has_moved_is_followed_at_once() {
        let ((_refusing, old), (_listener, new)) = (refusing(), listener().await);
        let script = Script::new(&[Some(&[old]), Some(&[new])]);
        let connector = connector(&script);
        // The first answer is young, and believed.
        let refused = connector.connect(None).await.map(|connected| connected.address);
        assert_eq!(refused, Err(UpstreamError::ConnectionRefused));
        let mut connected = connector.connect(None).await;
        while connected.is_err() {
            tokio::task::yield_now().await;
            connected = connector.connect(None).await;
        }
        assert_eq!(connected.map(|connected| connected.address).ok(), Some(Some(new)));
        assert_eq!(script.asked(), 2);
        assert!(!connector.is_current(old) && connector.is_current(new));
    }

    #[tokio::test]
    async fn giving_up_on_a_silent_address_asks_for_a_new_one() {
        let ((_a, _b, old), (_listener, new)) = (black_hole().await, listener().await);
        let connector = connector(&Script::new(&[Some(&[old]), Some(&[new])]));
        assert!(timeout(HEAD_START, connector.connect(None)).await.is_err());
        let connected = timeout(PATIENCE, connector.connect(None)).await.expect("in time");
        assert_eq!(connected.map(|connected| connected.address).ok(), Some(Some(new)));
    }

    #[tokio::test]
    async fn a_refusal_says_more_than_what_came_before_or_after() {
        let (_refusing, refused) = refusing();
        let nowhere: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        for order in [[refused, nowhere], [nowhere, refused]] {
            let connector = connector(&Script::new(&[Some(&order)]));
            let failed = timeout(PATIENCE, connector.connect(None)).await;
            // Where IPv6 leads somewhere, the documentation's addresses are silent.
            if let Ok(failed) = failed {
                assert_eq!(failed.map(|c| c.address), Err(UpstreamError::ConnectionRefused));
            }
        }
    }
}
