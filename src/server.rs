//! The side that clients see: listeners, workers, connections.
//!
//! One acceptor for each address gives every connection to the least-loaded worker. A worker is a
//! thread with a runtime of its own; a connection stays on it, and so do its upstream connections.
//! Knows nothing of routes: each request goes to [`Proxy::handle`]. Read `accept`, then
//! `connection`.

mod accept;
mod connection;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http1;
mod http2;
mod io;
mod registry;
mod worker;

use std::io as stdio;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config;
use crate::proxy::Proxy;
use registry::{Command, Registry};
use worker::Worker;

/// Connections that may wait to be accepted; the kernel bounds it further (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// Requests at once on one connection of HTTP/2.
const MAX_STREAMS: u32 = 100;

/// The most file descriptors beside those of clients: connections that are being refused.
pub const EXTRA_DESCRIPTORS: usize = accept::MAX_REFUSALS;

/// A running server. Dropping it stops accepting; what has been accepted goes on.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    acceptors: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    context: Arc<Context>,
    /// Ends the workers when it is dropped with the last sender.
    workers: Arc<[Worker]>,
}

/// What all connections share.
#[derive(Debug)]
struct Context {
    proxy: Arc<Proxy>,
    registry: Registry,
    http1: conn::http1::Builder,
    http2: conn::http2::Builder<TokioExecutor>,
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
        listeners: Vec<TcpListener>,
        proxy: Arc<Proxy>,
    ) -> stdio::Result<Server> {
        let mut http1 = conn::http1::Builder::new();
        http1.half_close(false).max_buf_size(settings.max_header_bytes).header_read_timeout(None);
        let context = Arc::new(Context {
            proxy,
            registry: Registry::new(settings.max_connections),
            http1,
            http2: http2::builder(MAX_STREAMS, settings.max_header_bytes),
            max_head: settings.max_header_bytes,
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
        });
        let workers: stdio::Result<Vec<_>> =
            (0..settings.workers).map(|index| Worker::start(index, Arc::clone(&context))).collect();
        let workers: Arc<[Worker]> = workers?.into();
        let mut addresses = Vec::new();
        let mut acceptors = Vec::new();
        let (stop, stopped) = watch::channel(false);
        for listener in listeners {
            addresses.push(listener.local_addr()?);
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (context, workers) = (Arc::clone(&context), Arc::clone(&workers));
            acceptors.push(tokio::spawn(accept::accept(
                listener,
                context,
                workers,
                stopped.clone(),
            )));
        }
        Ok(Server { addresses, acceptors, stop, context, workers })
    }

    /// The addresses that are listened on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
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
        self.stop.send_replace(true);
        self.context.registry.command_all(Command::Drain);
    }

    /// Waits until no connection is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn drained(&self) {
        for acceptor in &self.acceptors {
            while !acceptor.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
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

impl Drop for Server {
    fn drop(&mut self) {
        self.acceptors.iter().for_each(JoinHandle::abort);
    }
}
