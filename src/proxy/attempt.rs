//! A request with the application: attempts until there is an answer, or an error that another
//! attempt would not mend.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Method, Request, Response};
use tokio::time::Instant;

use super::exchange::Exchange;
use super::finish::{Finish, spawn_whole};
use super::outage::Outage;
use super::outcome;
use super::plan::Plan;
use super::prepare::{Outgoing, shape, shorten};
use super::upload::{Upload, UploadState};
use crate::admission::Permit;
use crate::gate::Outcome;
use crate::message::Incoming;
use crate::upstream::{
    Answer, Hearer, Lease, Loss, Protocol, RequestBody, Unanswered, UpstreamError,
};

/// How many stale connections are passed over before a fresh one is opened.
const MAX_STALE: usize = 4;
/// How often a request is sent once more to an application that takes leave each time.
const MAX_AGAIN: usize = 4;

/// A request that is with the application. Dropped, it is cancelled or, if its route wants it,
/// finished.
struct InFlight {
    /// `None` once it has ended.
    open: Option<(Answer, Lease<Permit>)>,
    upload: Option<Arc<Upload>>,
    finish: Option<Finish>,
    begun: Instant,
}

/// How long an answer may take.
#[derive(Clone, Copy)]
struct Limits {
    /// From the last byte of the request that moved.
    response: Option<Duration>,
    /// Then nobody waits any more.
    deadline: Option<Instant>,
}

/// The time that a request with a slot has for an application that is away.
struct Holding<'p> {
    plan: &'p Plan,
    /// How long it has waited for its slot.
    queued: Duration,
    /// Then its client waits no longer.
    deadline: Option<Instant>,
    /// When it was first found away.
    since: Option<Instant>,
}

const IN_FLIGHT: &str = "a request in flight has not ended";

/// Why an attempt brought no response.
enum Failure {
    /// The request was never written and comes back.
    Unsent(Box<Request<RequestBody>>, Permit),
    /// A reused connection was lost before any answer, or the application did not look at the
    /// request.
    Lost(Permit),
    /// Something that another attempt would not mend.
    Final(UpstreamError),
}

/// A request that could be sent once more.
#[derive(Clone, Copy)]
struct Again {
    idempotent: bool,
    /// How often it has been.
    times: usize,
}

/// Tries until there is an answer, or an error that another attempt would not mend.
pub(super) async fn attempts(
    plan: &Plan,
    shard: usize,
    exchange: &mut Exchange,
    outgoing: Outgoing,
    mut permit: Permit,
    deadline: Option<Instant>,
) -> Result<(Response<Incoming>, Lease<Permit>), UpstreamError> {
    let Outgoing { mut request, upload, upgrade, patience, hearers } = outgoing;
    let backend = &plan.backend;
    let mut way = backend.way();
    let mut holding = Holding { plan, queued: exchange.queue_wait(), deadline, since: None };
    let only = upgrade.map(|_| Protocol::Http1);
    let limits = Limits { response: exchange.response_timeout(plan), deadline };
    let idempotent = is_idempotent(request.method());
    let mut times = 0;
    let mut stale = 0;
    loop {
        let asked = Instant::now();
        let leased = if stale < MAX_STALE && times == 0 {
            way.pool.lease(shard, only, permit).await
        } else {
            way.pool.fresh(shard, only, permit).await
        };
        let lease = match leased {
            Ok(lease) => lease,
            Err((error, mut back)) => {
                backend.note(Err(error));
                let Some(waited) = holding.wait(error, shard).await else {
                    plan.note(&mut back, outcome::failed(error, false, None));
                    return Err(error);
                };
                exchange.held(waited);
                shorten(&mut request, plan, patience, exchange.queue_wait());
                (permit, way) = (back, backend.way());
                continue;
            }
        };
        let fresh = !lease.reused();
        shape(&mut request, lease.protocol(), way.scheme);
        // A fresh connection of HTTP/2 may be closed, or a stream refused, before a request is
        // looked at; one of HTTP/1.1 has nothing to say yet.
        let may_be_refused = lease.reused() || lease.protocol() == Protocol::Http2;
        // Only the application can say that it did not look at one that is not idempotent.
        let repeatable = upload.is_none() && (idempotent || lease.protocol() == Protocol::Http2);
        let copy = (repeatable && times < MAX_AGAIN && may_be_refused).then(|| copy_of(&request));
        let again = copy.as_ref().map(|_| Again { idempotent, times });
        match attempt(lease, request, hearers.hearer(), &upload, plan, again, limits).await {
            Ok(answered) => {
                backend.note(Ok(()));
                if fresh {
                    backend.outage.got_through(&backend.admission, asked);
                }
                return Ok(answered);
            }
            Err(Failure::Unsent(unsent, back)) if stale <= MAX_STALE => {
                (request, permit) = (unsent, back);
                stale += 1;
            }
            Err(Failure::Unsent(..)) => return Err(UpstreamError::ConnectionTerminated),
            Err(Failure::Lost(back)) => {
                let Some(copy) = copy else { return Err(UpstreamError::ConnectionTerminated) };
                exchange.retried();
                (request, permit, times) = (copy, back, times + 1);
            }
            Err(Failure::Final(error)) => return Err(error),
        }
    }
}

async fn attempt(
    mut lease: Lease<Permit>,
    request: Box<Request<RequestBody>>,
    hear: Option<impl Hearer>,
    upload: &Option<Arc<Upload>>,
    plan: &Plan,
    again: Option<Again>,
    limits: Limits,
) -> Result<(Response<Incoming>, Lease<Permit>), Failure> {
    let answer = lease.send(*request, hear);
    let mut in_flight = InFlight {
        open: Some((answer, lease)),
        upload: upload.clone(),
        finish: plan.finish,
        begun: Instant::now(),
    };
    let answered = match in_flight.answer(limits).await {
        Ok(answered) => Some(answered),
        Err(outcome) => {
            in_flight.note(plan, outcome);
            None
        }
    };
    let Some(answered) = answered else {
        in_flight.finish = in_flight.finish.map(|finish| Finish { learns: false, ..finish });
        // Dropped here: cancelled, or finished without its client.
        return Err(Failure::Final(UpstreamError::HttpResponseTimeout));
    };
    let mut lease = in_flight.into_lease();
    match answered {
        Ok(response) => Ok((response, lease)),
        Err(Unanswered::Unsent(unsent)) => Err(Failure::Unsent(unsent, lease.into_held())),
        Err(Unanswered::Failed(_, loss)) if again.is_some_and(|a| a.is_worth_it(&lease, loss)) => {
            Err(Failure::Lost(lease.into_held()))
        }
        Err(Unanswered::Failed(error, _)) => {
            let stale = lease.reused() && !lease.answered();
            let upload = upload.as_ref().map(|upload| upload.state());
            plan.note(lease.held_mut(), outcome::failed(error, stale, upload));
            Err(Failure::Final(error))
        }
    }
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE]
        .contains(method)
}

/// The same request again; only one without a body can be copied.
fn copy_of(request: &Request<RequestBody>) -> Box<Request<RequestBody>> {
    let mut copy = Box::new(Request::new(RequestBody::none()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

// === impl Again ===

impl Again {
    /// Whether the application cannot have begun to answer: a connection that had served before was
    /// closed meanwhile, or the application says so itself (RFC 9113, section 8.7). One that takes
    /// leave after few requests may do so several times, since others are quicker to a new
    /// connection; one that refuses is perhaps busy, and asked but once more.
    fn is_worth_it(self, lease: &Lease<Permit>, loss: Loss) -> bool {
        let first = self.times == 0;
        match (lease.protocol(), loss) {
            (Protocol::Http1, _) => first && self.idempotent && !lease.answered(),
            (Protocol::Http2, Loss::TookLeave) => true,
            (Protocol::Http2, Loss::Refused) => first,
            (Protocol::Http2, Loss::Gone) => first && self.idempotent && lease.reused(),
            (Protocol::Http2, Loss::Other) => false,
        }
    }
}

// === impl Holding ===

impl Holding<'_> {
    /// Waits for an application that took no connection until it is back, and says how long that
    /// was; `None`: it is not to be waited for, or was not back in time.
    async fn wait(&mut self, error: UpstreamError, worker: usize) -> Option<Duration> {
        if !error.is_away() {
            return None;
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let until = || {
            let held = since + self.plan.hold(self.queued);
            self.deadline.map_or(held, |deadline| held.min(deadline))
        };
        let back = now < until() && Outage::wait(&self.plan.backend, worker, until).await;
        back.then(|| now.elapsed())
    }
}

// === impl InFlight ===

impl InFlight {
    /// The answer; if it did not come in time, what that says of the application. The time runs
    /// from the last byte of the request that moved.
    async fn answer(
        &mut self,
        limits: Limits,
    ) -> Result<Result<Response<Incoming>, Unanswered>, Outcome> {
        let (answer, lease) = self.open.as_mut().expect(IN_FLIGHT);
        let (begun, upload) = (self.begun, self.upload.as_deref());
        let timeout = || {
            let limit = limits.response?;
            Some(upload.map_or(begun, |upload| upload.last_progress().max(begun)) + limit)
        };
        poll_fn(|task| {
            if let Poll::Ready(answered) = answer.as_mut().poll(task) {
                return Poll::Ready(Ok(answered));
            }
            loop {
                let (slow, late) = (timeout(), limits.deadline);
                let Some(next) = slow.into_iter().chain(late).min() else { return Poll::Pending };
                ready!(lease.poll_deadline(next, task));
                if late == Some(next) {
                    // That the client is in a hurry says nothing of the application.
                    return Poll::Ready(Err(Outcome::Unknown));
                }
                if slow == timeout() {
                    return Poll::Ready(Err(Outcome::TimedOut));
                }
            }
        })
        .await
    }

    /// Says how it went.
    fn note(&mut self, plan: &Plan, outcome: Outcome) {
        let (_, lease) = self.open.as_mut().expect(IN_FLIGHT);
        if outcome == Outcome::TimedOut {
            lease.timed_out();
        }
        plan.note(lease.held_mut(), outcome);
    }

    /// It has ended, one way or the other.
    fn into_lease(mut self) -> Lease<Permit> {
        let (_, lease) = self.open.take().expect(IN_FLIGHT);
        lease
    }
}

impl Drop for InFlight {
    /// The client left, or has been told that it took too long.
    fn drop(&mut self) {
        let Some((answer, lease)) = self.open.take() else { return };
        let upload = self.upload.as_ref();
        let whole = upload.is_none_or(|upload| upload.state() == UploadState::Whole);
        if let Some(finish) = self.finish.filter(|_| whole) {
            spawn_whole(answer, lease, finish, self.begun);
        }
    }
}
