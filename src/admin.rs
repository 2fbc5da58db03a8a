//! The admin listener: metrics, health, status, control. Apart from the path of requests, so that
//! it answers also when everything else is full.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the live page: what happens to the application, with the last 15 minutes |
//! | `/events` | what the page shows, as server-sent events; its form may change with any version |
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
mod events;
mod facts;
mod history;
mod page;
mod sample;
mod status;
mod verdict;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap,
    HeaderValue, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
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
use events::{Events, Feed, MAX_PAGES};
use page::Page;

/// Connections at once, apart from those of open pages; a scraper and a few people need no more.
/// Beyond it the oldest is closed.
const MAX_CONNECTIONS: usize = 64;
/// File descriptors that the admin listener uses at most.
pub(crate) const DESCRIPTORS: usize = MAX_CONNECTIONS + MAX_PAGES;
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
    tasks: [JoinHandle<()>; 2],
    feed: Arc<Feed>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    state: Arc<State>,
    feed: Arc<Feed>,
    page: Page,
}

/// An open connection.
struct Connection {
    task: AbortHandle,
    /// It carries the events of a page; there is a bound for those elsewhere.
    streams: Arc<AtomicBool>,
}

type Answer = Response<Either<Full<Bytes>, Events>>;

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
        let feed = Feed::new(&state);
        let sampling = tokio::spawn(Arc::clone(&feed).run(Arc::clone(&state)));
        let shared = Shared { state, feed: Arc::clone(&feed), page: Page::new() };
        let accepting = tokio::spawn(accept(listener, Arc::new(shared)));
        Ok(Admin { address, tasks: [accepting, sampling], feed })
    }

    /// The address that is listened on, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.feed.close();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut open: VecDeque<Connection> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                open.retain(|connection| {
                    !connection.task.is_finished() && !connection.streams.load(Ordering::Relaxed)
                });
                // Whoever comes is more likely to be a scraper than whoever has been here longest.
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.task.abort();
                }
                let streams = Arc::new(AtomicBool::new(false));
                let serving = serve(stream, peer, Arc::clone(&shared), Arc::clone(&streams));
                let task = tokio::spawn(timeout(MAX_AGE, serving)).abort_handle();
                open.push_back(Connection { task, streams });
            }
            // Out of file descriptors, most likely; without a pause this would spin.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, streams: Arc<AtomicBool>) {
    // An event is small, and wanted now.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, streams) = (Arc::clone(&shared), Arc::clone(&streams));
        async move {
            let response = match (request.method(), request.uri().path()) {
                (&Method::GET, "/events") => events(&shared, &request, &streams),
                (&Method::POST, _) if control::is_order(&request) => {
                    control::answer(&shared.state, &request, peer.ip()).await.map(Either::Left)
                }
                _ => answer(&shared, &request).map(Either::Left),
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

/// The stream of a page. A page that comes back says what it has seen.
fn events(shared: &Shared, request: &Request<Incoming>, streams: &AtomicBool) -> Answer {
    let header = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    // A page cannot set a header when it opens a stream by itself.
    let query = request.uri().query().and_then(|query| query.strip_prefix("after="));
    let Some(events) = shared.feed.open(header.or(query)) else {
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        return response.map(Either::Left);
    };
    streams.store(true, Ordering::Relaxed);
    let mut response = Response::new(Either::Right(events));
    common(response.headers_mut(), "text/event-stream");
    let headers = response.headers_mut();
    // A connection that is not counted ends with its stream.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let state = &shared.state;
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
            let status = status::json(state, &state.reading(), &shared.feed);
            respond(StatusCode::OK, "application/json", status.into())
        }
        "/config" => {
            let effective = state.running.load().effective.clone();
            respond(StatusCode::OK, "application/toml", effective.into())
        }
        "/" => page(&shared.page),
        // Only HEAD comes here.
        "/events" => respond(StatusCode::OK, "text/event-stream", Bytes::new()),
        _ => text(
            StatusCode::NOT_FOUND,
            "no such page; there are: / /metrics /live /ready /status.json /config /events\n",
        ),
    }
}

fn page(page: &Page) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", page.html());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, page.policy());
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    common(response.headers_mut(), kind);
    response
}

fn common(headers: &mut HeaderMap, kind: &'static str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
