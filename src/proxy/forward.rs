//! One admitted request to the application, and its response back.
//!
//! The request's head is made fit, a connection is leased, the permit goes into the lease, and the
//! response leaves as a body that holds both until it ends.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode, Version};
use http_body::{Body, Frame};
use tokio::time::Instant;

use super::attempt::attempts;
use super::body::{Open, ResponseBody, first_frame};
use super::client::Client;
use super::exchange::Exchange;
use super::headers::Nominated;
use super::plan::Plan;
use super::prepare::Outgoing;
use super::respond::Refusal;
use super::screen::{are_clean_fields, clean_response_framing};
use super::tunnel::Tunnel;
use super::upload::{Upload, UploadState};
use super::{Proxy, headers, outcome};
use crate::admission::Permit;
use crate::message::Incoming;
use crate::upstream::{Lease, UpstreamError};

/// Sends a request and returns the response, or why there is none. After `deadline` nobody waits
/// for it any more.
pub(super) async fn forward(
    proxy: &Arc<Proxy>,
    plan: &Plan,
    client: &Client,
    mut exchange: Box<Exchange>,
    outgoing: Outgoing,
    permit: Permit,
    deadline: Option<Instant>,
) -> Result<Response<ResponseBody>, (Refusal, Box<Exchange>)> {
    let upload = outgoing.upload.clone();
    let offered = outgoing.upgrade.clone();
    exchange.forwarded(upload.clone());
    let answered = attempts(plan, client.worker, &mut exchange, outgoing, permit, deadline).await;
    let answered = match answered {
        Ok((response, lease)) => begun(response, offered.as_ref(), lease).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok((response, nominated, first, mut lease)) => {
            let (status, lag) = (response.status(), proxy.lag(client.worker));
            let service_time = exchange.answered(status.as_u16());
            let spoilt = lag.spoils(service_time);
            let open = outcome::stays_open(exchange.method(), status, response.headers());
            let outcome = outcome::answered(status, service_time, !spoilt && !open);
            plan.note(lease.held_mut(), outcome);
            if open {
                lease.held_mut().stay_open();
            }
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(switch(response, client, plan, lease, exchange));
            }
            let finish = plan.finish;
            let open =
                |incoming| Open { incoming, first, lease, exchange, upload, finish, nominated };
            Ok(relay(response.map(open), client, plan))
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

type Begun = (Response<Incoming>, Nominated, Option<Frame<Bytes>>, Lease<Permit>);

/// A response that is clean HTTP, with what came of its body at once.
async fn begun(
    response: Response<Incoming>,
    offered: Option<&HeaderValue>,
    lease: Lease<Permit>,
) -> Result<Begun, UpstreamError> {
    let (mut response, nominated) = clean(response, offered)?;
    let first = first_frame(response.body_mut()).await;
    let first = first.map_err(|_| UpstreamError::HttpResponseIncomplete)?;
    Ok((response, nominated, first, lease))
}

/// The response as the client gets it, with a body that passes on what comes.
fn relay(mut response: Response<Open>, client: &Client, plan: &Plan) -> Response<ResponseBody> {
    let upload = response.body().upload.as_ref();
    let partial = upload.is_some_and(|upload| upload.state() != UploadState::Whole);
    if partial && !client.activity.is_multiplexed() {
        // What the client still sends, or not (`Expect`), cannot be told from a next request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        client.activity.leave_unread();
    }
    // A stream of events or messages is silent as long as there is nothing to say.
    let streams =
        response.body().exchange.is_grpc() || outcome::is_event_stream(response.headers());
    let idle = plan.idle_body_timeout.filter(|_| !streams);
    let version = response.body().exchange.version();
    let mut response = response.map(|open| ResponseBody::relay(open, idle, plan.idle_body_timeout));
    if version == Version::HTTP_10 && response.body().size_hint().exact().is_none() {
        // The end of the connection is the end of the body. Of another version hyper would say
        // that it goes on.
        *response.version_mut() = Version::HTTP_10;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if client.activity.is_multiplexed() {
        response.headers_mut().remove(CONNECTION);
        response.headers_mut().remove(UPGRADE);
    }
    response
}

/// The connection leaves HTTP once this response is written.
fn switch(
    mut response: Response<Incoming>,
    client: &Client,
    plan: &Plan,
    lease: Lease<Permit>,
    exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let upgrade = hyper::upgrade::on(&mut response);
    let idle = plan.tunnel_idle_timeout;
    client.give_tunnel(Tunnel { upgrade, lease, exchange, idle });
    response.map(|_| ResponseBody::whole(Bytes::new(), None))
}

/// Who is to blame for a failed exchange: a broken upload looks like a broken upstream.
fn blame(error: UpstreamError, upload: Option<&Upload>) -> Refusal {
    match upload.map(Upload::state) {
        Some(UploadState::Broken) => Refusal::BadBody,
        Some(UploadState::Silent) => Refusal::SlowBody,
        Some(UploadState::Partial | UploadState::Whole) | None => Refusal::Failed(error),
    }
}

// === Back ===

/// Makes a response fit for the client, or finds that it is not clean HTTP. `offered`: the
/// protocols that the client would go over to.
fn clean(
    mut response: Response<Incoming>,
    offered: Option<&HeaderValue>,
) -> Result<(Response<Incoming>, Nominated), UpstreamError> {
    let (status, version) = (response.status(), response.version());
    let fields = response.headers_mut();
    let upgrade = fields.get(UPGRADE).cloned();
    let clean = version != Version::HTTP_2 || are_clean_fields(fields);
    if !clean || !clean_response_framing(fields) {
        return Err(UpstreamError::HttpProtocolError);
    }
    let nominated = headers::response(fields, status);
    if let (StatusCode::UPGRADE_REQUIRED, Some(upgrade)) = (status, &upgrade) {
        // RFC 9110, section 15.5.22: without it nobody would know to what. Offers pass as well.
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, upgrade.clone());
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // An upgrade that nobody asked for, or to something else, is none.
        let (Some(offered), Some(upgrade)) = (offered, upgrade) else {
            return Err(UpstreamError::HttpProtocolError);
        };
        if !is_among(offered, &upgrade) {
            return Err(UpstreamError::HttpProtocolError);
        }
        let fields = response.headers_mut();
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, upgrade);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok((response, nominated))
}

/// Whether one protocol stands in a list of them.
fn is_among(offered: &HeaderValue, chosen: &HeaderValue) -> bool {
    let mut names = offered.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    names.any(|name| name.eq_ignore_ascii_case(chosen.as_bytes().trim_ascii()))
}
