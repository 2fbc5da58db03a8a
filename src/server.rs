//! The side that clients see: listeners, workers, connections.
//!
//! One acceptor for each address gives every connection to the least-loaded worker. A worker is a
//! thread with a runtime of its own; a connection stays on it, and so do its upstream connections.
//! Knows nothing of routes: each request goes to [`Proxy::handle`]. Read `accept`, then
//! `connection`.

mod accept;
mod connection;
#[cfg(fuzzing)]
pub mod fuzzing;
mod greeting;
mod http1;
mod http2;
mod io;
mod listener;
mod meter;
mod proxy_protocol;
mod registry;
mod tls;
mod worker;

use std::io as stdio;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config;
use crate::proxy::Proxy;
use registry::{Command, Registry};
use worker::Worker;

use listener::Acceptor;
pub use listener::{Listener, SocketFile};
pub use tls::{Tls, TlsError};

/// Connections that may wait to be accepted; the kernel bounds it further (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// The most file descriptors beside those of clients: connections that are being refused.
pub const EXTRA_DESCRIPTORS: usize = accept::MAX_REFUSALS;

/// A running server. Dropping it stops accepting; what has been accepted goes on.
#[derive(Debug)]
pub struct Server {
    acceptors: Mutex<Vec<Accepting>>,
    context: Arc<Context>,
    /// Ends the workers when it is dropped with the last sender.
    workers: Arc<[Worker]>,
}

/// A listener at work. Dropped, it stops.
#[derive(Debug)]
struct Accepting {
    /// As it stands in the configuration.
    configured: config::Listen,
    /// With the port that the system chose; none for a Unix socket.
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What all connections share.
#[derive(Debug)]
struct Context {
    registry: Registry,
    live: ArcSwap<Live>,
}

/// What a change of the configuration replaces.
#[derive(Debug)]
struct Live {
    proxy: Arc<Proxy>,
    http1: conn::http1::Builder,
    http2: h2::server::Builder,
    tls: Option<Arc<Tls>>,
    /// Trusted peers say for whom they speak.
    proxy_protocol: bool,
    max_head: usize,
    header_timeout: Duration,
    idle_timeout: Duration,
}

/// Opens the socket of a listener.
///
/// # Errors
///
/// The address is in use, is not one of this machine's, or may not be used.
pub fn bind(address: SocketAddr) -> stdio::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // A restart must not wait for connections of the process before it.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

// === impl Server ===

impl Server {
    /// Starts workers, and accepts on sockets that [`bind`] opened. Call it inside a runtime: the
    /// acceptors run there.
    ///
    /// # Errors
    ///
    /// A worker's thread or runtime cannot be started, or a socket cannot be used.
    pub fn start(
        settings: &config::Server,
        tls: Option<Arc<Tls>>,
        listeners: Vec<Listener>,
        proxy: Arc<Proxy>,
    ) -> stdio::Result<Server> {
        let context = Arc::new(Context {
            registry: Registry::new(settings.max_connections),
            live: ArcSwap::from_pointee(Live::new(settings, tls, proxy)),
        });
        let workers: stdio::Result<Vec<_>> =
            (0..settings.workers).map(|index| Worker::start(index, Arc::clone(&context))).collect();
        let workers: Arc<[Worker]> = workers?.into();
        let server = Server { acceptors: Mutex::default(), context, workers };
        server.listen(listeners)?;
        Ok(server)
    }

    /// Takes a changed configuration into effect: listeners open and close, and connections go by
    /// it from their next request on. `listeners` are those that are not open yet.
    ///
    /// # Errors
    ///
    /// A socket cannot be used; nothing has changed then.
    pub fn reconfigure(
        &self,
        settings: &config::Server,
        tls: Option<Arc<Tls>>,
        listeners: Vec<Listener>,
        proxy: Arc<Proxy>,
    ) -> stdio::Result<()> {
        self.listen(listeners)?;
        self.context.live.store(Arc::new(Live::new(settings, tls, proxy)));
        self.context.registry.set_max(settings.max_connections);
        self.acceptors().retain(|acceptor| settings.listen.contains(&acceptor.configured));
        Ok(())
    }

    /// Whether clients are accepted there.
    #[must_use]
    pub fn listens_on(&self, listen: &config::Listen) -> bool {
        self.acceptors().iter().any(|acceptor| acceptor.configured == *listen)
    }

    fn listen(&self, listeners: Vec<Listener>) -> stdio::Result<()> {
        let mut started = Vec::new();
        for listener in listeners {
            let address = listener.address()?;
            let configured = listener.configured().clone();
            let socket = Acceptor::new(listener)?;
            let (stop, stopped) = watch::channel(false);
            let (context, workers) = (Arc::clone(&self.context), Arc::clone(&self.workers));
            let task = tokio::spawn(accept::accept(socket, context, workers, stopped));
            started.push(Accepting { configured, address, stop, task });
        }
        self.acceptors().extend(started);
        Ok(())
    }

    fn acceptors(&self) -> MutexGuard<'_, Vec<Accepting>> {
        self.acceptors.lock().expect("nothing panics while it holds the lock")
    }

    /// The proxy as it is now.
    #[must_use]
    pub fn proxy(&self) -> Arc<Proxy> {
        Arc::clone(&self.context.live.load().proxy)
    }

    /// The IP addresses that are listened on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.acceptors().iter().filter_map(|acceptor| acceptor.address).collect()
    }

    /// Client connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.context.registry.alive()
    }

    /// Stops accepting, closes idle connections, and lets the others end with their present
    /// response.
    pub fn drain(&self) {
        // The acceptors see it before anything else that they could do, and close their sockets.
        for acceptor in self.acceptors().iter() {
            acceptor.stop.send_replace(true);
        }
        self.context.registry.command_all(Command::Drain);
    }

    /// Waits until no connection is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn drained(&self) {
        while self.acceptors().iter().any(|acceptor| !acceptor.task.is_finished()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.context.registry.empty().await;
    }

    /// Cuts every connection off.
    pub fn cut(&self) {
        self.context.registry.command_all(Command::Cut);
    }

    /// Worker threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }
}

// === impl Accepting ===

impl Drop for Accepting {
    fn drop(&mut self) {
        // Who is waiting already is still accepted.
        self.stop.send_replace(true);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.acceptors().iter().for_each(|acceptor| acceptor.task.abort());
    }
}

// === impl Live ===

impl Live {
    fn new(settings: &config::Server, tls: Option<Arc<Tls>>, proxy: Arc<Proxy>) -> Live {
        let mut http1 = conn::http1::Builder::new();
        http1.half_close(false).max_buf_size(settings.max_header_bytes).header_read_timeout(None);
        Live {
            proxy,
            http1,
            http2: http2::builder(settings.max_streams, settings.max_header_bytes),
            tls,
            proxy_protocol: settings.proxy_protocol,
            max_head: settings.max_header_bytes,
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
        }
    }
}
