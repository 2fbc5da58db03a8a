//! One request, start to end: match, admit, forward, respond.
//!
//! [`Proxy::handle`] is the whole way; there is no way back, and any refusal leaves sideways, once,
//! into `respond`. Knows nothing of listeners and sockets; a request's connection is a [`Client`].
//!
//! ## Departures
//!
//! What hyper decides before anybody can look, and what therefore differs from the letter of the
//! RFCs or from "as received". Each stands in a test (`tests/it/framing.rs`, `forwarding.rs`):
//!
//! - A bare LF ends a line of a head, as RFC 9112, section 2.2, permits and nginx and HAProxy do;
//!   it is forwarded as CR LF, so that nobody behind tidegate can read it in another way. In the
//!   framing of chunks it is an error.
//! - Blanks behind a chunk's size, and whatever bytes stand in its extension but CR and LF, are
//!   passed over, as nginx and HAProxy do; chunks are framed anew, without extensions.
//! - HTTP/1.2 and later are refused (400, 502), although RFC 9110, section 2.5, would have them
//!   read as HTTP/1.1; so are characters in a target that no URI has, but for those that browsers
//!   send in spite of it. A client that says `PRI * HTTP/2.0` in the middle of HTTP/1.1 is closed
//!   without an answer.
//! - The fragment of a target is dropped; what is matched and forwarded is the same, without it.
//! - Equal lengths on several lines become one. A length beside `Transfer-Encoding: chunked` is
//!   dropped and the connection closed after the answer (RFC 9112, section 6.1).
//! - Field names are forwarded in lower case; an answer without `Date` gets one. A client of
//!   HTTP/1.0 is answered in that version.
//! - `Content-Length` of a 304 is dropped; that of an answer to HEAD stays.
//! - Trailers pass only if `Trailer` names them, and to a client only if it said `TE: trailers`:
//!   RFC 9110, section 6.5.1, lets whoever forwards a message discard them.
//! - Interim responses other than 100 pass from HTTP/1.1 to HTTP/1.1 only: hyper can neither take
//!   nor give them in HTTP/2.

mod arrival;
mod attempt;
mod body;
mod client;
mod exchange;
mod finish;
mod forward;
mod forwarded;
#[cfg(fuzzing)]
pub mod fuzzing;
mod headers;
mod hops;
mod interim;
mod lag;
mod outcome;
mod patience;
mod plan;
mod prepare;
mod respond;
pub mod route;
mod screen;
mod tunnel;
mod upload;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::admission::{Admission, Entry, Permit};
use crate::config::Config;
use crate::gate::{Arrival, Rejection};
use crate::telemetry::access::AccessLogger;
use crate::telemetry::metrics::{Metrics, Reading};
use crate::upstream::{Connect, Pool, PoolLimits, UpstreamError};
use arrival::Flows;
use exchange::Exchange;
use forward::forward;
use forwarded::Forwarding;
use interim::Opened;
use lag::Lag;
use patience::Patience;
use plan::{Plan, denied_reading, route_reading, upstream_reading};
use prepare::prepare;
use respond::Refusal;
use route::RouteTable;
use screen::screen;
use upload::discard;

pub use body::ResponseBody;
pub use client::{Activity, Client, Phase};
pub use forwarded::Peer;
pub use interim::Interims;
pub use plan::{MAX_EXEMPT, lane_limits, limits};
pub(crate) use respond::{HEADER_TIMEOUT, TOO_MANY_CONNECTIONS};
pub use tunnel::Tunnel;

/// The client left: its connection is closed without an answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client left")]
pub struct Gone;

/// Everything that requests share.
pub struct Proxy {
    table: RouteTable,
    plans: Vec<Plan>,
    backends: Vec<Backend>,
    forwarding: Forwarding,
    flows: Flows,
    /// One for each worker.
    lags: Vec<Lag>,
    metrics: Arc<Metrics>,
    access: Arc<AccessLogger>,
}

/// One application: its gate and its connections.
#[derive(Debug)]
struct Backend {
    authority: HeaderValue,
    scheme: &'static str,
    admission: Arc<Admission>,
    pool: Arc<Pool<Permit>>,
    /// The last attempt to reach it succeeded.
    up: AtomicBool,
}

// === impl Proxy ===

impl Proxy {
    /// Builds gates, pools and routes. `connect` makes the connector of each upstream.
    #[must_use]
    pub fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        access: Arc<AccessLogger>,
        connect: &dyn Fn(&crate::config::Upstream) -> Box<dyn Connect>,
    ) -> Arc<Proxy> {
        let mut lanes = vec![Vec::new(); config.upstreams.len()];
        let mut plans = Vec::new();
        for route in &config.routes {
            let lanes = &mut lanes[route.upstream];
            let lane = lane_limits(route, &config.upstreams[route.upstream]).map(|limits| {
                lanes.push(limits);
                lanes.len() - 1
            });
            plans.push(Plan::new(route, lane));
        }
        let backends = config.upstreams.iter().zip(lanes).map(|(upstream, lanes)| {
            let pool = PoolLimits {
                max_connections: upstream.max_connections,
                connect_timeout: upstream.connect_timeout,
                idle_timeout: upstream.idle_timeout,
            };
            Backend {
                authority: authority(&upstream.host, upstream.port),
                scheme: "http",
                admission: Admission::new(&limits(upstream, lanes)),
                pool: Pool::new(connect(upstream), config.server.workers, pool),
                up: AtomicBool::new(true),
            }
        });
        Arc::new(Proxy {
            table: RouteTable::new(&config.routes),
            plans,
            backends: backends.collect(),
            forwarding: Forwarding::new(config.server.forwarded, &config.server.trusted_proxies),
            flows: Flows::default(),
            lags: (0..config.server.workers).map(|_| Lag::new()).collect(),
            metrics,
            access,
        })
    }

    /// Serves one request.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the client left before there was an answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future means that the client left: a waiting request leaves the queue; one in
    /// flight is cancelled or finished, as its route says.
    pub async fn handle(
        self: Arc<Proxy>,
        client: Arc<Client>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Gone> {
        let has_body = !request.body().is_end_stream();
        let (route, target) = match screen(&request) {
            Ok(target) => (self.find(&request, &target), target),
            Err(fault) => {
                let route = self.plans.len() - 1;
                let target = PathAndQuery::from_static("/");
                let nowhere = HeaderValue::from_static("");
                let exchange = Exchange::new(&self, &client, route, &request, &target, &nowhere);
                return Ok(self.turn_away(&client, exchange, Refusal::Fault(fault), request, true));
            }
        };
        let plan = &self.plans[route];
        client.activity.set_patience(plan.idle_body_timeout);
        let mut exchange =
            Exchange::new(&self, &client, route, &request, &target.path_and_query, &target.host);
        let lane = match plan.lane_for(target.path_and_query.path()) {
            Ok(lane) => lane,
            Err(refusal) => {
                return Ok(self.turn_away(&client, exchange, refusal, request, has_body));
            }
        };
        let (arrival, patience) = self.arrival(plan, lane, request.headers(), client.peer());
        let permit = match self.admit(&client, plan, arrival, &mut exchange).await? {
            Ok(permit) => permit,
            Err(rejection) => {
                exchange.rejected(rejection.reason);
                let refusal = Refusal::Rejected(rejection);
                return Ok(self.turn_away(&client, exchange, refusal, request, has_body));
            }
        };
        let opened = client.interims.open(request.version()).await;
        let interim = opened.as_ref().map(Opened::interim);
        let mut outgoing = prepare(&self, plan, &client, request, target, interim);
        let waited = exchange.queue_wait();
        outgoing.shorten(plan, patience, waited);
        let deadline =
            patience.remaining().map(|left| Instant::now() + left.saturating_sub(waited));
        let forwarded = forward(&self, plan, &client, exchange, outgoing, permit, deadline);
        let answered = tokio::select! {
            biased;
            () = client.gone() => return Err(Gone),
            answered = forwarded => answered,
        };
        if let Some(opened) = opened {
            opened.taken().await;
        }
        match answered {
            Ok(response) => Ok(response),
            // Its end was read before it could be seen, or its stream is no more.
            Err((Refusal::BadBody, _)) if client.activity.broke_off() => Err(Gone),
            Err((refusal, exchange)) => Ok(self.refuse(&client, exchange, refusal, has_body)),
        }
    }

    /// Turns away everybody who waits, and all who come.
    pub fn drain(&self) {
        self.backends.iter().for_each(|backend| backend.admission.drain());
    }

    /// Requests that are with the applications, those without a client any more included.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let lanes = self.backends.iter().flat_map(|backend| backend.admission.snapshot().lanes);
        lanes.map(|lane| u64::from(lane.in_flight)).sum()
    }

    /// Counts a request whose head could not be read, and which therefore has no route: the
    /// connection has answered it.
    pub fn unheard(&self, client: &Client, status: u16) {
        self.metrics.route(self.plans.len() - 1).request(status);
        tracing::debug!(client = %client.peer().address(), status, "a request's head could not be read");
    }

    /// A worker's loop was so late, and looks at itself again at `due`.
    pub fn lagged(&self, worker: usize, lag: Duration, due: Instant) {
        self.metrics.worker(worker).lag(lag);
        self.lags[worker].measured(lag, due);
    }

    /// Keeps one worker's share of the upstream connections young. Run it on that worker.
    pub async fn keep_pools(self: Arc<Proxy>, worker: usize) {
        let reapers = self.backends.iter().map(|backend| Arc::clone(&backend.pool).reap(worker));
        let mut tasks: Vec<_> = reapers.map(tokio::spawn).collect();
        while let Some(task) = tasks.pop() {
            let _ = task.await;
        }
    }

    /// What the gates hold, each taken at one instant. The caller adds what it knows of the server.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let snapshots: Vec<_> = self.backends.iter().map(|b| b.admission.snapshot()).collect();
        let routes = self.plans.iter().map(|plan| match plan.lane() {
            Some(lane) => route_reading(&snapshots[plan.backend].lanes[lane]),
            None => denied_reading(),
        });
        let upstreams = self.backends.iter().zip(&snapshots).map(|(backend, snapshot)| {
            let up = backend.up.load(Ordering::Relaxed);
            upstream_reading(snapshot, up, u64::from(backend.pool.open()))
        });
        Reading { routes: routes.collect(), upstreams: upstreams.collect(), ..Reading::default() }
    }

    /// The metric families.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The access log.
    #[must_use]
    pub fn access(&self) -> &AccessLogger {
        &self.access
    }

    fn find<B>(&self, request: &Request<B>, target: &screen::Target) -> usize {
        let host = target.host.to_str().ok().filter(|host| !host.is_empty());
        self.table.find(request.method().as_str(), host, target.path_and_query.path())
    }

    /// What the gate is told of a request, and how long its client still waits.
    fn arrival(
        &self,
        plan: &Plan,
        lane: usize,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> (Arrival, Patience) {
        let Some(marks) = &plan.marks else { return (Arrival::at(lane), Patience::default()) };
        let patience = marks.patience(headers);
        let admission = &self.backends[plan.backend].admission;
        let arrival = Arrival {
            lane,
            class: marks.class(headers, peer, &self.forwarding),
            flow: marks.flow(headers, peer, &self.forwarding, &self.flows),
            deadline: patience.remaining().map(|remaining| admission.time_in(remaining)),
        };
        (arrival, patience)
    }

    async fn admit(
        &self,
        client: &Client,
        plan: &Plan,
        arrival: Arrival,
        exchange: &mut Exchange,
    ) -> Result<Result<Permit, Rejection>, Gone> {
        let wait = match self.backends[plan.backend].admission.enter(arrival) {
            Entry::Admitted(permit) => {
                exchange.waited(Duration::ZERO);
                return Ok(Ok(permit));
            }
            Entry::Rejected(rejection) => return Ok(Err(rejection)),
            Entry::Queued(wait) => wait,
        };
        let (result, waited) = tokio::select! {
            // A client that left in the very moment of its grant must not reach the application.
            biased;
            () = client.gone() => return Err(Gone),
            resolved = wait => resolved,
        };
        exchange.waited(waited);
        Ok(result)
    }

    /// Refuses a request of which nothing but the head was read.
    fn turn_away(
        &self,
        client: &Client,
        exchange: Box<Exchange>,
        refusal: Refusal,
        request: Request<Incoming>,
        unread: bool,
    ) -> Response<ResponseBody> {
        if client.activity.is_multiplexed() && !request.body().is_end_stream() {
            discard(request.into_body());
        }
        self.refuse(client, exchange, refusal, unread)
    }

    /// The one way out without an answer of the application.
    fn refuse(
        &self,
        client: &Client,
        mut exchange: Box<Exchange>,
        refusal: Refusal,
        unread: bool,
    ) -> Response<ResponseBody> {
        let style = &self.plans[exchange.route()].reject;
        // A stream of HTTP/2 that nobody reads ends by itself; the connection goes on.
        let close = unread && !client.activity.is_multiplexed();
        if close {
            client.activity.leave_unread();
        }
        let response = respond::refusal(refusal, style, close, exchange.is_grpc());
        exchange.sent(response.body().len());
        exchange.refused(response.status().as_u16());
        response.map(ResponseBody::whole)
    }

    fn backend(&self, plan: &Plan) -> &Backend {
        &self.backends[plan.backend]
    }

    fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    fn lag(&self, worker: usize) -> &Lag {
        &self.lags[worker]
    }

    fn route_name(&self, route: usize) -> &str {
        &self.plans[route].name
    }
}

/// The `Host` for a client that names none (HTTP/1.0).
fn authority(host: &str, port: u16) -> HeaderValue {
    let text =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    HeaderValue::from_str(&text).expect("a checked host is a valid field value")
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("plans", &self.plans).finish_non_exhaustive()
    }
}

// === impl Backend ===

impl Backend {
    fn authority(&self) -> HeaderValue {
        self.authority.clone()
    }

    /// What its URLs begin with.
    fn scheme(&self) -> &'static str {
        self.scheme
    }

    fn pool(&self) -> &Arc<Pool<Permit>> {
        &self.pool
    }

    /// Remembers whether the application could be reached.
    fn note(&self, result: Result<(), UpstreamError>) {
        let up = match result {
            Ok(()) => true,
            // Shortages of our own say nothing of the application.
            Err(UpstreamError::ConnectionLimitReached | UpstreamError::ProxyInternalError) => {
                return;
            }
            Err(_) => false,
        };
        if self.up.load(Ordering::Relaxed) != up {
            self.up.store(up, Ordering::Relaxed);
        }
    }
}
