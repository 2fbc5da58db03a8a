//! The application behind the sidecar: one that answers when told, and one that answers by itself.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};
use tokio_rustls::TlsAcceptor;

use super::soon;
use super::wire::{Message, Wire, has_ended};

/// An application that answers when told: the test accepts each connection, reads what came and
/// writes what it likes.
pub struct App {
    pub listener: TcpListener,
    pub address: SocketAddr,
}

/// An application that answers each request at once or after a while, and counts.
pub struct Echo {
    pub address: SocketAddr,
    pub counts: Arc<Counts>,
    task: JoinHandle<()>,
}

/// What an [`Echo`] has seen.
#[derive(Debug, Default)]
pub struct Counts {
    pub requests: AtomicUsize,
    /// The connections on which a request is in flight, with a number for each.
    in_flight: Mutex<HashMap<usize, Socket>>,
    /// The most requests at once. One whose connection has been closed from the other side is none,
    /// whether its task has noticed or not.
    pub most: AtomicUsize,
}

/// An address that refuses connections until somebody listens there.
pub struct Away {
    socket: TcpSocket,
    pub address: SocketAddr,
}

/// Takes connections of TLS for an application, with its certificate and key, and speaks `protocol`
/// over them (ALPN).
pub fn acceptor(pair: &(PathBuf, PathBuf), protocol: &[u8]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has them");
    let certificate = CertificateDer::from_pem_file(&pair.0).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&pair.1).expect("a key");
    let builder = builder.with_no_client_auth().with_single_cert(vec![certificate], key);
    let mut config = builder.expect("they belong together");
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

// === impl Away ===

impl Away {
    pub fn new() -> Away {
        Away::at("127.0.0.1:0".parse().expect("an address"))
    }

    /// At an address where somebody was before.
    pub fn at(address: SocketAddr) -> Away {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a socket that is not bound");
        socket.bind(address).expect("nobody is there");
        let address = socket.local_addr().expect("bound");
        Away { socket, address }
    }

    pub fn comes(self) -> App {
        App { listener: self.socket.listen(1_024).expect("bound"), address: self.address }
    }
}

// === impl App ===

impl App {
    pub async fn start() -> App {
        App::on(Ipv4Addr::LOCALHOST).await
    }

    /// At an address of its own: at the usual one its port may have been that of another test's
    /// application, whose sidecar still looks for it.
    pub async fn apart() -> App {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // Elsewhere there is but one address.
        let linux = cfg!(target_os = "linux");
        App::on(if linux { [127, 1, high, low].into() } else { Ipv4Addr::LOCALHOST }).await
    }

    async fn on(address: Ipv4Addr) -> App {
        let listener = TcpListener::bind((address, 0)).await.expect("port 0 is free");
        let address = listener.local_addr().expect("bound");
        App { listener, address }
    }

    /// The next connection that the sidecar opens.
    pub async fn accept(&self) -> Wire {
        let (stream, _) = soon("a connection", self.listener.accept()).await.expect("accepted");
        Wire::new(stream)
    }

    /// Fails if the sidecar opens a connection within `time`. Of an application that is
    /// [`apart`](App::apart).
    pub async fn stays_alone(&self, time: Duration) {
        let came = tokio::time::timeout(time, self.listener.accept()).await;
        assert!(came.is_err(), "a connection that must not be");
    }

    /// Accepts, reads a request and answers 200 with `body`; the connection stays open.
    pub async fn serve(&self, body: &str) -> (Wire, Message) {
        let mut wire = self.accept().await;
        let request = wire.request().await;
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        (wire, request)
    }
}

// === impl Echo ===

impl Echo {
    /// Answers 200 after `delay` with the target that was asked for.
    pub async fn start(delay: Duration) -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port 0 is free");
        let address = listener.local_addr().expect("bound");
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(Wire::new(stream), delay, Arc::clone(&counted)));
            }
        });
        Echo { address, counts, task }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves a connection until its client goes. A request is in flight until it is answered or its
/// connection has closed.
async fn echo(mut wire: Wire, delay: Duration, counts: Arc<Counts>) {
    use tokio::io::AsyncReadExt;
    loop {
        if wire.buffer.is_empty() {
            match wire.stream.read_buf(&mut wire.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let request = wire.request().await;
        let target = request.head.line.split(' ').nth(1).unwrap_or_default();
        let number = counts.begin(&wire);
        let left = tokio::select! {
            () = sleep(delay) => false,
            () = gone(&wire) => true,
        };
        counts.lock().remove(&number);
        if left {
            return;
        }
        let length = target.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
        if wire.try_send(answer).await.is_err() {
            return;
        }
    }
}

// === impl Counts ===

impl Counts {
    fn begin(&self, wire: &Wire) -> usize {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let socket = SockRef::from(&wire.stream).try_clone().expect("a descriptor is left");
        let mut in_flight = self.lock();
        in_flight.insert(number, socket);
        let now = in_flight.values().filter(|socket| !has_ended(socket)).count();
        self.most.fetch_max(now, Ordering::Relaxed);
        number
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Socket>> {
        self.in_flight.lock().expect("nothing panics under it")
    }
}

/// Waits until the other side has closed. Whatever it sends instead is left for later.
async fn gone(wire: &Wire) {
    if let Ok(1) = wire.stream.peek(&mut [0; 1]).await {
        std::future::pending::<()>().await;
    }
}
