//! One request, start to end: match, admit, forward, respond.
//!
//! [`Proxy::handle`] is the whole way; there is no way back, and any refusal leaves sideways, once,
//! into `respond`. Knows nothing of listeners and sockets; a request's connection is a [`Client`].
//!
//! ## Departures
//!
//! What hyper and h2 decide before anybody can look, and what therefore differs from the letter of
//! the RFCs or from "as received". Each stands in a test (`tests/it/framing.rs`, `forwarding.rs`,
//! `http2_abuse.rs`):
//!
//! - A bare LF ends a line of a head, as RFC 9112, section 2.2, permits and nginx and HAProxy do;
//!   it is forwarded as CR LF, so that nobody behind tidegate can read it in another way. In the
//!   framing of chunks it is an error.
//! - Blanks behind a chunk's size, and whatever bytes stand in its extension but CR and LF, are
//!   passed over, as nginx and HAProxy do; chunks are framed anew, without extensions.
//! - HTTP/1.2 to HTTP/1.9 are refused (400, 502), although RFC 9110, section 2.5, would have them
//!   read as HTTP/1.1; so are characters in a target that no URI has, but for those that browsers
//!   send in spite of it.
//! - The fragment of a target is dropped; what is matched and forwarded is the same, without it.
//! - Equal lengths on several lines become one. A length beside `Transfer-Encoding: chunked` is
//!   dropped and the connection closed after the answer (RFC 9112, section 6.1).
//! - A head of HTTP/1 has at most 100 fields (431, 502), about as many as HAProxy (101) and Envoy
//!   (100) take.
//! - Field names are forwarded in lower case; an answer without `Date` gets one. A client of
//!   HTTP/1.0 is answered in that version.
//! - OPTIONS for an absolute target without a path is forwarded for `/` and not for `*` (RFC 9112,
//!   section 3.2.4), as by nginx and HAProxy: for the parser of URIs both are one.
//! - Pseudo-fields in trailers, and those of a request in a response (RFC 9113, section 8.3), are
//!   dropped by h2 without a word.
//! - A field that cannot be decoded, or whose name or value no field may have, ends its connection
//!   of HTTP/2, as section 5.4.1 leaves to choose; with PROTOCOL_ERROR also where HPACK is at
//!   fault, which would be COMPRESSION_ERROR.
//! - `Content-Length` of a 304 is dropped; that of an answer to HEAD stays.
//! - Trailers pass only if `Trailer` names them, and to a client only if it said `TE: trailers`:
//!   RFC 9110, section 6.5.1, lets whoever forwards a message discard them.
//! - A client that closes its sending side has left, as it has for nginx, Envoy and Go: a place in
//!   a queue is worth more than an answer to somebody who may be gone.

mod arrival;
mod attempt;
mod backend;
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
mod outage;
mod outcome;
mod patience;
mod plan;
mod prepare;
mod respond;
pub mod route;
mod screen;
mod succession;
mod tunnel;
mod upload;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use tokio::time::Instant;

use crate::admission::{Entry, Permit};
use crate::config::{self, Config};
use crate::gate::{Arrival, LaneSnapshot, Rejection};
use crate::message::Incoming;
use crate::telemetry::access::AccessLogger;
use crate::telemetry::metrics::{Metrics, Reading, RouteEvents};
use crate::upstream::Connect;
use arrival::Flows;
use backend::{Backend, LaneAt};
use exchange::Exchange;
use forward::forward;
use forwarded::Forwarding;
use interim::Opened;
use lag::Lag;
use patience::Patience;
use plan::{Plan, route_reading};
use prepare::{prepare, shorten};
use respond::Refusal;
use route::RouteTable;
use screen::screen;
use succession::Former;
use upload::{discard, swallow};

pub use body::ResponseBody;
pub use client::{Activity, Client, Phase};
pub use forwarded::Peer;
pub use interim::{Interims, Said};
pub use plan::{MAX_EXEMPT, lane_limits, limits};
pub(crate) use respond::{HEADER_TIMEOUT, PLAIN_INSTEAD_OF_TLS, TOO_MANY_CONNECTIONS, unreadable};
pub use tunnel::Tunnel;

/// The client left: its connection is closed without an answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client left")]
pub struct Gone;

/// Everything that requests share under one configuration. Another configuration has another one,
/// which shares with this one all that lives longer: gates, connections, counts.
pub struct Proxy {
    table: RouteTable,
    /// In the order of the configuration.
    plans: Vec<Plan>,
    /// Routes of earlier configurations: what waits there goes on.
    former: Vec<Former>,
    /// In the order of the configuration, then those of earlier ones.
    backends: Vec<Arc<Backend>>,
    forwarding: Forwarding,
    common: Arc<Common>,
}

/// What all configurations have in common.
struct Common {
    flows: Flows,
    /// One for each worker.
    lags: Vec<Lag>,
    metrics: Arc<Metrics>,
    access: Arc<AccessLogger>,
}

// === impl Proxy ===

impl Proxy {
    /// Builds gates, pools and routes. `connect` makes the connector of each upstream.
    #[must_use]
    pub fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        access: Arc<AccessLogger>,
        connect: &dyn Fn(&config::Upstream) -> Box<dyn Connect>,
    ) -> Arc<Proxy> {
        let lags = (0..config.server.workers).map(|_| Lag::new()).collect();
        let common = Arc::new(Common { flows: Flows::default(), lags, metrics, access });
        succession::build(config, common, &succession::Past::default(), connect)
    }

    /// The same under another configuration, in place: what waits keeps its place, what is in
    /// flight ends under the old one, and counters go on.
    #[must_use]
    pub fn successor(
        &self,
        config: &Config,
        connect: &dyn Fn(&config::Upstream) -> Box<dyn Connect>,
    ) -> Arc<Proxy> {
        succession::build(config, Arc::clone(&self.common), &succession::Past::of(self), connect)
    }

    /// Serves one request. What is said before its response goes to `interims`.
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
        interims: &Arc<Interims>,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Gone> {
        let (route, target) = match screen(&request) {
            Ok(target) => (self.find(&request, &target), target),
            Err(fault) => {
                let route = self.plans.len() - 1;
                let target = PathAndQuery::from_static("/");
                let nowhere = HeaderValue::from_static("");
                let exchange = Exchange::new(&self, &client, route, &request, &target, &nowhere);
                let refusal = Refusal::Fault(fault);
                return Ok(self.turn_away(&client, exchange, refusal, request).await);
            }
        };
        let plan = &self.plans[route];
        client.activity.set_patience(plan.idle_body_timeout);
        let mut exchange =
            Exchange::new(&self, &client, route, &request, &target.path_and_query, &target.host);
        let lane = match plan.lane_for(target.path_and_query.path()) {
            Ok(lane) => lane,
            Err(refusal) => {
                return Ok(self.turn_away(&client, exchange, refusal, request).await);
            }
        };
        let (arrival, patience) = self.arrival(plan, lane, request.headers(), client.peer());
        let body = request.body_mut();
        let permit = match self.admit(&client, plan, arrival, &mut exchange, body).await? {
            Ok(permit) => permit,
            Err(rejection) => {
                exchange.rejected(rejection.reason);
                let refusal = Refusal::Rejected(rejection);
                return Ok(self.turn_away(&client, exchange, refusal, request).await);
            }
        };
        let opened = interims.open(request.version()).await;
        let interim = opened.as_ref().map(Opened::interim);
        let mut outgoing = prepare(&self, plan, &client, request, target, interim, patience);
        let waited = exchange.queue_wait();
        shorten(&mut outgoing.request, plan, patience, waited);
        let deadline =
            patience.remaining().map(|left| Instant::now() + left.saturating_sub(waited));
        if let Some(lasts) = patience.lasts() {
            let end = Instant::now() + lasts.saturating_sub(waited);
            exchange.ends_at(end);
            outgoing.ends_at(end);
        }
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
            Err((refusal, exchange)) => {
                let unread = exchange.is_unread();
                Ok(self.refuse(&client, exchange, refusal, unread))
            }
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

    /// Whether what a peer says of others is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.forwarding.trusts(peer.to_canonical())
    }

    /// Counts a request whose head could not be read, and which therefore has no route: the
    /// connection has answered it.
    pub fn unheard(&self, client: &Client, status: u16) {
        self.fallback().metrics.request(status);
        tracing::debug!(client = %client.peer().address(), status, "a request's head could not be read");
    }

    /// A worker's loop was so late, and looks at itself again at `due`.
    pub fn lagged(&self, worker: usize, lag: Duration, due: Instant) {
        self.metrics().worker(worker).lag(lag);
        self.common.lags[worker].measured(lag, due);
    }

    /// Closes upstream connections of a worker that have been unused for too long; returns when to
    /// look again.
    pub fn keep_pools(&self, worker: usize) -> Duration {
        let mut period = Duration::from_secs(1);
        for backend in &self.backends {
            let pool = &backend.way().pool;
            pool.reap(worker);
            period = period.min(pool.period());
        }
        period
    }

    /// What the gates hold, each taken at one instant. The caller adds what it knows of the server.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let snapshots: Vec<_> = self.backends.iter().map(|b| b.admission.snapshot()).collect();
        let lane_of = |at: &LaneAt| {
            let backend = self.backends.iter().position(|b| Arc::ptr_eq(b, &at.backend));
            backend.map(|backend| snapshots[backend].lanes[at.lane]).unwrap_or_default()
        };
        let routes = self.plans.iter().map(|plan| {
            let former: Vec<_> = plan.former.iter().map(lane_of).collect();
            let now = plan.lane_at().as_ref().map(lane_of).unwrap_or_default();
            route_reading(plan.name.clone(), &now, &former)
        });
        let former = self.former.iter().map(|route| {
            let lanes: Vec<_> = route.lanes.iter().map(lane_of).collect();
            route_reading(route.name.clone(), &LaneSnapshot::default(), &lanes)
        });
        let upstreams = self.backends.iter().zip(&snapshots);
        Reading {
            routes: routes.chain(former).collect(),
            upstreams: upstreams.map(|(backend, snapshot)| backend.reading(snapshot)).collect(),
            ..Reading::default()
        }
    }

    /// What the events of a route add up to since `before`, an earlier answer; `route` is its index
    /// in the configuration.
    #[must_use]
    pub fn route_events(&self, route: usize, before: &RouteEvents) -> RouteEvents {
        self.plans.get(route).map(|plan| plan.metrics.events(before)).unwrap_or_default()
    }

    /// The metric families.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.common.metrics
    }

    /// The access log.
    #[must_use]
    pub fn access(&self) -> &AccessLogger {
        &self.common.access
    }

    /// The route of what has none.
    fn fallback(&self) -> &Plan {
        self.plans.last().expect("there is always a default route")
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
        let admission = &plan.backend.admission;
        let arrival = Arrival {
            lane,
            class: marks.class(headers, peer, &self.forwarding),
            flow: marks.flow(headers, peer, &self.forwarding, &self.common.flows),
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
        body: &mut Incoming,
    ) -> Result<Result<Permit, Rejection>, Gone> {
        let wait = match plan.backend.admission.enter(arrival) {
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
            never = body.keep() => match never {},
        };
        exchange.waited(waited);
        Ok(result)
    }

    /// Refuses a request of which nothing but the head was read.
    async fn turn_away(
        &self,
        client: &Client,
        exchange: Box<Exchange>,
        refusal: Refusal,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        // Where one fault was found another may be: what follows is perhaps no request.
        let mut unread = matches!(refusal, Refusal::Fault(fault) if fault.is_of_syntax());
        if !request.body().is_end_stream() {
            if client.activity.is_multiplexed() {
                discard(request.into_body());
            } else if !unread {
                unread = !swallow(request).await;
            }
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
        let plan = &self.plans[exchange.route()];
        // A stream of HTTP/2 that nobody reads ends by itself; the connection goes on.
        let close = unread && !client.activity.is_multiplexed();
        if close {
            client.activity.leave_unread();
        }
        let mut response = respond::refusal(refusal, &plan.reject, close, exchange.is_grpc());
        if *exchange.method() == Method::HEAD && client.activity.is_multiplexed() {
            // hyper sees to it in HTTP/1.
            let length = HeaderValue::from(response.body().len());
            response.headers_mut().insert(CONTENT_LENGTH, length);
            *response.body_mut() = Bytes::new();
        }
        exchange.sent(response.body().len());
        exchange.refused(response.status().as_u16());
        let patience = plan.idle_body_timeout;
        response.map(|body| ResponseBody::whole(body, patience))
    }

    fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    fn lag(&self, worker: usize) -> &Lag {
        &self.common.lags[worker]
    }

    fn plan(&self, route: usize) -> &Plan {
        &self.plans[route]
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("plans", &self.plans).finish_non_exhaustive()
    }
}
