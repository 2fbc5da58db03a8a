//! One admitted request to the application, and its response back.
//!
//! The request's head is made fit, a connection is leased, the permit goes into the lease, and the
//! response leaves as a body that holds both until it ends.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::body::{ResponseBody, Upload, UploadBody, UploadState};
use super::client::Client;
use super::exchange::Exchange;
use super::finish::{Finish, spawn_whole};
use super::patience::Patience;
use super::plan::Plan;
use super::respond::Refusal;
use super::screen::{Target, clean_response_framing};
use super::{Backend, Proxy, headers, outcome};
use crate::admission::Permit;
use crate::gate::Outcome;
use crate::upstream::{Lease, RequestBody, UpstreamError};

/// How many stale connections are passed over before a fresh one is opened.
const MAX_STALE: usize = 4;

/// The application's answer, on its way.
pub(super) type Answer = Pin<
    Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + Send>,
>;

/// A request ready to be sent.
pub(super) struct Outgoing {
    // Boxed, since it is handed on from one attempt to the next.
    request: Box<Request<RequestBody>>,
    upload: Option<Arc<Upload>>,
}

/// A request that is with the application. Dropped, it is cancelled or, if its route wants it,
/// finished.
struct InFlight {
    /// `None` once it has ended.
    open: Option<(Answer, Lease<Permit>)>,
    upload: Option<Arc<Upload>>,
    finish: Option<Finish>,
    begun: Instant,
}

/// Why an attempt brought no response.
enum Failure {
    /// The request was never written and comes back.
    Unsent(Box<Request<RequestBody>>, Permit),
    /// A reused connection was lost before any answer.
    Lost(Permit),
    /// Something that another attempt would not mend.
    Final(UpstreamError),
}

/// Sends a request and returns the response, or why there is none.
pub(super) async fn forward(
    proxy: &Arc<Proxy>,
    plan: &Plan,
    client: &Client,
    mut exchange: Box<Exchange>,
    outgoing: Outgoing,
    permit: Permit,
) -> Result<Response<ResponseBody>, (Refusal, Box<Exchange>)> {
    let backend = proxy.backend(plan);
    let upload = outgoing.upload.clone();
    exchange.forwarded(upload.clone());
    let answered = attempts(backend, plan, client.worker, &exchange, outgoing, permit).await;
    let answered = answered.and_then(|(response, lease)| Ok((clean(response)?, lease)));
    match answered {
        Ok((mut response, mut lease)) => {
            let (status, lag) = (response.status(), proxy.lag(client.worker));
            let service_time = exchange.answered(status.as_u16());
            let spoilt = lag.spoils(service_time);
            let outcome = outcome::answered(status, response.headers(), service_time, spoilt);
            plan.note(lease.held_mut(), outcome);
            if upload.as_ref().is_some_and(|upload| upload.state() != UploadState::Whole) {
                // What the client still sends, or not (`Expect`), cannot be told from a next
                // request.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                client.activity.leave_unread();
            }
            let relay = |body| {
                let idle = plan.idle_body_timeout;
                ResponseBody::relay(body, lease, exchange, upload, plan.finish, idle)
            };
            Ok(response.map(relay))
        }
        Err(error) => {
            let refusal = blame(error, upload.as_deref());
            if let Refusal::Failed(error) = refusal {
                exchange.failed(error);
            }
            Err((refusal, exchange))
        }
    }
}

/// Who is to blame for a failed exchange: a broken upload looks like a broken upstream.
fn blame(error: UpstreamError, upload: Option<&Upload>) -> Refusal {
    match upload.map(Upload::state) {
        Some(UploadState::Broken) => Refusal::BadBody,
        Some(UploadState::Silent) => Refusal::SlowBody,
        Some(UploadState::Partial | UploadState::Whole) | None => Refusal::Failed(error),
    }
}

// === Before ===

/// Makes a request fit for the application.
pub(super) fn prepare(
    proxy: &Proxy,
    plan: &Plan,
    client: &Client,
    request: Request<Incoming>,
    target: Target,
) -> Outgoing {
    let (mut parts, body) = request.into_parts();
    let fields = &mut parts.headers;
    headers::request(fields, parts.version);
    proxy.forwarding().apply(fields, &client.peer, &target.host);
    let host = if target.host.is_empty() { proxy.backend(plan).authority() } else { target.host };
    fields.insert(HOST, host);

    let upload = (!body.is_end_stream()).then(Arc::<Upload>::default);
    let expects = is_expected(fields.get(EXPECT)) && parts.version == Version::HTTP_11;
    if upload.is_none() || !expects {
        fields.remove(EXPECT);
    }
    if upload.is_some() && !fields.contains_key(CONTENT_LENGTH) {
        // Without it hyper would send no body with a GET.
        fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    parts.uri = Uri::from(target.path_and_query);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let sent = match &upload {
        Some(upload) => {
            UploadBody::new(body, upload, plan.idle_body_timeout, expects).boxed_unsync()
        }
        None => no_body(),
    };
    let mut request = Request::from_parts(parts, sent);
    if let (Some(upload), true) = (&upload, expects) {
        let upload = Arc::clone(upload);
        hyper::ext::on_informational(&mut request, move |informational| {
            if informational.status() == StatusCode::CONTINUE {
                upload.ask();
            }
        });
    }
    Outgoing { request: Box::new(request), upload }
}

impl Outgoing {
    /// Takes the wait for a slot off the time that the application is told to have.
    pub(super) fn shorten(&mut self, plan: &Plan, patience: Patience, waited: Duration) {
        if let Some(marks) = &plan.marks {
            let named = marks.deadline_header.as_ref();
            patience.forward(self.request.headers_mut(), named, waited);
        }
    }
}

fn is_expected(expect: Option<&HeaderValue>) -> bool {
    expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn no_body() -> RequestBody {
    Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
}

// === There ===

/// Tries until there is an answer, or an error that another attempt would not mend.
async fn attempts(
    backend: &Backend,
    plan: &Plan,
    shard: usize,
    exchange: &Exchange,
    outgoing: Outgoing,
    mut permit: Permit,
) -> Result<(Response<Incoming>, Lease<Permit>), UpstreamError> {
    let Outgoing { mut request, upload } = outgoing;
    let replayable = upload.is_none() && is_idempotent(request.method());
    let mut retried = false;
    for stale in 0.. {
        let leased = if stale < MAX_STALE && !retried {
            backend.pool().lease(shard, permit).await
        } else {
            backend.pool().fresh(shard, permit).await
        };
        let lease = leased.map_err(|(error, mut permit)| {
            backend.note(Err(error));
            plan.note(&mut permit, outcome::failed(error, false, None));
            error
        })?;
        let copy = (replayable && !retried && lease.reused()).then(|| copy_of(&request));
        match attempt(lease, request, &upload, plan, copy.is_some()).await {
            Ok(answered) => {
                backend.note(Ok(()));
                return Ok(answered);
            }
            Err(Failure::Unsent(unsent, back)) if stale <= MAX_STALE => {
                (request, permit) = (unsent, back);
            }
            Err(Failure::Unsent(..)) => break,
            Err(Failure::Lost(back)) => {
                let Some(copy) = copy else { break };
                exchange.retried();
                (request, permit, retried) = (copy, back, true);
            }
            Err(Failure::Final(error)) => return Err(error),
        }
    }
    Err(UpstreamError::ConnectionTerminated)
}

async fn attempt(
    mut lease: Lease<Permit>,
    request: Box<Request<RequestBody>>,
    upload: &Option<Arc<Upload>>,
    plan: &Plan,
    may_retry: bool,
) -> Result<(Response<Incoming>, Lease<Permit>), Failure> {
    let answer: Answer = Box::pin(lease.send(*request));
    let mut in_flight = InFlight {
        open: Some((answer, lease)),
        upload: upload.clone(),
        finish: plan.finish,
        begun: Instant::now(),
    };
    let Some(answered) = in_flight.answer(plan.response_timeout).await else {
        in_flight.note(plan, Outcome::TimedOut);
        in_flight.finish = in_flight.finish.map(|finish| Finish { learns: false, ..finish });
        // Dropped here: cancelled, or finished without its client.
        return Err(Failure::Final(UpstreamError::HttpResponseTimeout));
    };
    let mut lease = in_flight.into_lease();
    match answered {
        Ok(response) => Ok((response, lease)),
        Err(mut error) => match error.take_message() {
            Some(unsent) => Err(Failure::Unsent(Box::new(unsent), lease.into_held())),
            None if may_retry && !lease.answered() => Err(Failure::Lost(lease.into_held())),
            None => {
                let error = UpstreamError::exchanging(error.error());
                let stale = lease.reused() && !lease.answered();
                let upload = upload.as_ref().map(|upload| upload.state());
                plan.note(lease.held_mut(), outcome::failed(error, stale, upload));
                Err(Failure::Final(error))
            }
        },
    }
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE]
        .contains(method)
}

/// The same request again; only one without a body can be copied.
fn copy_of(request: &Request<RequestBody>) -> Box<Request<RequestBody>> {
    let mut copy = Box::new(Request::new(no_body()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

// === Back ===

/// Makes a response fit for the client, or finds that it is not clean HTTP.
fn clean(mut response: Response<Incoming>) -> Result<Response<Incoming>, UpstreamError> {
    // No upgrade was asked for, so none can be granted.
    let unasked = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if unasked || !clean_response_framing(response.headers_mut()) {
        return Err(UpstreamError::HttpProtocolError);
    }
    headers::response(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

// === impl InFlight ===

impl InFlight {
    /// The answer; `None` if it did not come in time. The time runs from the last byte of the
    /// request that moved.
    async fn answer(
        &mut self,
        limit: Option<Duration>,
    ) -> Option<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        let (answer, lease) = self.open.as_mut().expect("a request in flight has not ended");
        let (begun, upload) = (Instant::now(), self.upload.as_deref());
        poll_fn(|task| {
            if let Poll::Ready(answered) = answer.as_mut().poll(task) {
                return Poll::Ready(Some(answered));
            }
            let Some(limit) = limit else { return Poll::Pending };
            loop {
                let deadline = upload.map_or(begun, Upload::last_progress) + limit;
                ready!(lease.poll_deadline(deadline, task));
                if deadline == upload.map_or(begun, Upload::last_progress) + limit {
                    return Poll::Ready(None);
                }
            }
        })
        .await
    }

    /// Says how it went.
    fn note(&mut self, plan: &Plan, outcome: Outcome) {
        let (_, lease) = self.open.as_mut().expect("a request in flight has not ended");
        plan.note(lease.held_mut(), outcome);
    }

    /// It has ended, one way or the other.
    fn into_lease(mut self) -> Lease<Permit> {
        let (_, lease) = self.open.take().expect("a request in flight has not ended");
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
