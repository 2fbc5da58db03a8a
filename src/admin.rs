//! The admin listener: metrics, health, status, control. Apart from the path of requests, so that
//! it answers also when everything else is full.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | the Prometheus text format |
//! | `/live` | 200 while the process runs |
//! | `/ready` | 200 while new requests are wanted, else 503; a full queue is not unready |
//! | `/status.json` | what the gates hold, at one instant |
//! | `/config` | the configuration in force, as TOML |
//! | POST `/reload` | loads the configuration again; 200, or 422 with the diagnostics |
//! | POST `/drain` | drains, without ending; 200 when nothing is under way any more |
//!
//! POST is taken from loopback alone, never from a page in a browser (`Origin`), and can be
//! switched off (`admin.control`).

mod control;
mod status;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::proxy::Proxy;
use crate::server::{Server, Tls};
use crate::telemetry::metrics;

/// Connections at once; a scraper and a few people need no more. Beyond it the oldest is closed.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// The longest life of an admin connection; a scraper opens another.
const MAX_AGE: Duration = Duration::from_secs(300);

/// What the admin endpoints show.
#[derive(Debug)]
pub struct State {
    /// The listeners, which own the connections and the request path.
    pub server: Arc<Server>,
    /// What runs.
    pub running: ArcSwap<Running>,
    /// What became of the last change of the configuration.
    pub reload: Mutex<Reload>,
    /// Takes what a request asks for that changes something.
    pub orders: mpsc::Sender<Order>,
    /// When the process began to serve.
    pub started: Instant,
    /// A shutdown is under way.
    pub draining: AtomicBool,
}

/// A configuration in force.
#[derive(Debug)]
pub struct Running {
    /// All of it.
    pub config: Config,
    /// The same as TOML, secrets masked.
    pub effective: String,
    /// TLS with clients, which knows when its certificates end.
    pub tls: Option<Arc<Tls>>,
}

/// What became of changes of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Reload {
    /// When the last one was tried; `None`: none was.
    pub tried: Option<SystemTime>,
    /// Why it did not take effect.
    pub error: Option<String>,
}

/// What a request asks for that changes something.
#[derive(Debug)]
pub enum Order {
    /// Load the configuration again, and tell what changed or why nothing did.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
    /// Drain, and tell when nothing is under way any more.
    Drain(oneshot::Sender<()>),
}

/// A running admin listener; dropping it stops it.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

// === impl State ===

impl State {
    /// Whether new requests are wanted.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed)
    }

    /// The request path as it is now.
    #[must_use]
    pub fn proxy(&self) -> Arc<Proxy> {
        self.server.proxy()
    }

    fn reading(&self) -> metrics::Reading {
        let mut reading = self.proxy().reading();
        reading.connections = self.server.connections() as u64;
        reading.ready = self.ready();
        reading.draining = !self.ready();
        let running = self.running.load();
        reading.certificates = running.tls.as_ref().map(|tls| tls.expiries()).unwrap_or_default();
        reading
    }
}

// === impl Admin ===

impl Admin {
    /// Starts answering on a socket. Call it inside a runtime.
    ///
    /// # Errors
    ///
    /// The socket cannot be used.
    pub fn start(listener: std::net::TcpListener, state: Arc<State>) -> std::io::Result<Admin> {
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::spawn(accept(listener, state));
        Ok(Admin { address, task })
    }

    /// The address that is listened on, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                open.retain(|connection| !connection.is_finished());
                // Whoever comes is more likely to be a scraper than whoever has been here longest.
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let serving = timeout(MAX_AGE, serve(stream, peer, Arc::clone(&state)));
                open.push_back(tokio::spawn(serving).abort_handle());
            }
            // Out of file descriptors, most likely; without a pause this would spin.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move {
            let response = match *request.method() {
                Method::POST if control::is_order(&request) => {
                    control::answer(&state, &request, peer.ip()).await
                }
                _ => answer(&state, &request),
            };
            Ok::<_, Infallible>(response)
        }
    });
    // An admin connection that fails has no one to be told.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if control::is_order(request) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            let page = state.proxy().metrics().encode(&state.reading());
            respond(StatusCode::OK, metrics::CONTENT_TYPE, page.into())
        }
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" if state.ready() => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/status.json" => {
            let status = status::json(state, &state.reading());
            respond(StatusCode::OK, "application/json", status.into())
        }
        "/config" => {
            let effective = state.running.load().effective.clone();
            respond(StatusCode::OK, "application/toml", effective.into())
        }
        "/" => text(StatusCode::OK, "tidegate: /metrics /live /ready /status.json /config\n"),
        _ => text(
            StatusCode::NOT_FOUND,
            "no such page; there are: /metrics /live /ready /status.json /config\n",
        ),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
