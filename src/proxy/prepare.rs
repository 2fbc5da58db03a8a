//! The head of a request on its way to the application: made fit for whichever protocol carries it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use http_body::Body;
use tokio::time::Instant;

use super::client::Client;
use super::forwarded::{Forwarding, Peer};
use super::headers::Nominated;
use super::interim::Interim;
use super::patience::{Patience, is_grpc};
use super::plan::Plan;
use super::screen::{Target, make_length_plain};
use super::upload::{Upload, UploadBody};
use super::{Proxy, headers};
use crate::message::Incoming;
use crate::upstream::{Hearer, Protocol, RequestBody};

/// A request ready to be sent.
pub(super) struct Outgoing {
    // Boxed, since it is handed on from one attempt to the next.
    pub(super) request: Box<Request<RequestBody>>,
    pub(super) upload: Option<Arc<Upload>>,
    /// The protocols that the client offers to go over to.
    pub(super) upgrade: Option<HeaderValue>,
    /// How long its client waits.
    pub(super) patience: Patience,
    pub(super) hearers: Hearers,
}

/// Whom an interim response (1xx) of the application concerns.
pub(super) struct Hearers {
    /// The body that it may ask for.
    upload: Option<Arc<Upload>>,
    /// The client.
    interim: Option<Interim>,
}

/// Makes a request fit for the application.
pub(super) fn prepare(
    proxy: &Proxy,
    plan: &Plan,
    client: &Client,
    request: Request<Incoming>,
    target: Target,
    interim: Option<Interim>,
    patience: Patience,
) -> Outgoing {
    let way = plan.backend.way();
    let (mut parts, body) = request.into_parts();
    let upload = (!body.is_end_stream()).then(Arc::<Upload>::default);
    let may_upgrade =
        parts.version == Version::HTTP_11 && upload.is_none() && way.pool.can_upgrade();
    let upgrade = may_upgrade.then(|| offered(&parts.headers)).flatten();
    let authority = || way.authority.clone();
    let nominated = rewrite(&mut parts, target, proxy.forwarding(), client.peer(), authority);
    let fields = &mut parts.headers;
    if let Some(protocols) = &upgrade {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, protocols.clone());
    }
    // An expectation that nobody knows is the application's to refuse (RFC 9110, section 10.1.1).
    let asks = is_expected(fields.get(EXPECT));
    let expects = asks && parts.version >= Version::HTTP_11 && upload.is_some();
    if asks && !expects {
        fields.remove(EXPECT);
    }
    parts.extensions.clear();
    // Who has begun to send it does not wait to be asked for it.
    let held = (expects && !client.activity.has_more()).then(|| client.sends());
    let sent = match &upload {
        Some(upload) => {
            let lingers = client.activity.is_multiplexed();
            let idle = plan.idle_body_timeout.filter(|_| !is_grpc(fields));
            RequestBody::new(UploadBody::new(body, upload, idle, held, lingers, nominated))
        }
        None => RequestBody::none(),
    };
    let hearers = Hearers { upload: upload.clone().filter(|_| expects), interim };
    let request = Box::new(Request::from_parts(parts, sent));
    Outgoing { request, upload, upgrade, patience, hearers }
}

/// The head of a request as the application gets it, but for what depends on its body. `authority`:
/// the `Host` for a client that names none.
pub(super) fn rewrite(
    parts: &mut Parts,
    target: Target,
    forwarding: &Forwarding,
    peer: &Peer,
    authority: impl FnOnce() -> HeaderValue,
) -> Nominated {
    let fields = &mut parts.headers;
    let nominated = headers::request(fields, parts.version);
    make_length_plain(fields);
    forwarding.apply(fields, peer, &target.host);
    let host = if target.host.is_empty() { authority() } else { target.host };
    fields.insert(HOST, host);
    join_cookies(fields, parts.version);
    parts.uri = Uri::from(target.path_and_query);
    nominated
}

impl Hearers {
    /// Tells them of what comes before the response to one attempt.
    pub(super) fn hearer(&self) -> Option<impl Hearer + use<>> {
        let (upload, interim) = (self.upload.clone(), self.interim.clone());
        let somebody = upload.is_some() || interim.is_some();
        somebody.then_some(move |status: StatusCode, fields: &HeaderMap| {
            match (&upload, &interim) {
                (Some(upload), _) if status == StatusCode::CONTINUE => upload.ask(),
                (_, Some(interim)) => interim.say(status, fields),
                (_, None) => {}
            }
        })
    }
}

impl Outgoing {
    /// After `end` nothing more is sent.
    pub(super) fn ends_at(&self, end: Instant) {
        if let Some(upload) = &self.upload {
            upload.ends_at(end);
        }
    }
}

/// Takes the whole wait so far off the time that the application is told to have.
pub(super) fn shorten(
    request: &mut Request<RequestBody>,
    plan: &Plan,
    patience: Patience,
    waited: Duration,
) {
    if let Some(marks) = &plan.marks {
        patience.forward(request.headers_mut(), marks.deadline_header.as_ref(), waited);
    }
}

/// Gives a request the form that a protocol wants, whichever it has.
pub(super) fn shape(request: &mut Request<RequestBody>, protocol: Protocol, scheme: &str) {
    let has_body = !request.body().is_end_stream();
    match protocol {
        Protocol::Http1 => {
            if let Some(authority) = request.uri().authority() {
                let host = HeaderValue::from_str(authority.as_str());
                request.headers_mut().insert(HOST, host.expect("an authority was a Host"));
                *request.uri_mut() = path_of(request.uri());
            }
            *request.version_mut() = Version::HTTP_11;
            if has_body && !request.headers().contains_key(CONTENT_LENGTH) {
                // Without it hyper would send no body with a GET.
                let chunked = HeaderValue::from_static("chunked");
                request.headers_mut().insert(TRANSFER_ENCODING, chunked);
            }
            if !has_body && means_content(request.method()) {
                // RFC 9110, section 8.6: some applications wait for a length otherwise.
                request
                    .headers_mut()
                    .entry(CONTENT_LENGTH)
                    .or_insert(HeaderValue::from_static("0"));
            }
            if request.headers().contains_key(TE) {
                // RFC 9110, section 10.1.4. A tunnel is offered without: nothing comes after it.
                request.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("te"));
            }
        }
        Protocol::Http2 => {
            request.headers_mut().remove(TRANSFER_ENCODING);
            request.headers_mut().remove(CONNECTION);
            if let Some(host) = request.headers().get(HOST)
                && let Some(uri) = absolute(scheme, host, request.uri())
            {
                *request.uri_mut() = uri;
                request.headers_mut().remove(HOST);
            }
            *request.version_mut() = Version::HTTP_2;
        }
    }
}

/// Whether content is what a method is about.
fn means_content(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

fn path_of(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map(Uri::from).unwrap_or_default()
}

/// RFC 9113, section 8.3.1: scheme, authority and path each are a field of their own.
fn absolute(scheme: &str, host: &HeaderValue, uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.clone();
    Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path).build().ok()
}

/// The protocols that a client offers to go over to (RFC 9110, section 7.8). HTTP/2 is not among
/// those that can be passed on: it would be spoken past tidegate.
fn offered(fields: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = fields.get_all(UPGRADE).iter();
    let (protocols, None) = (lines.next()?, lines.next()) else { return None };
    let mut names = protocols.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let tunnels = |name: &[u8]| !name.is_empty() && !name.get(..2).is_some_and(is_h2);
    (headers::lists(fields, &CONNECTION, b"upgrade") && names.all(tunnels))
        .then(|| protocols.clone())
}

fn is_h2(start: &[u8]) -> bool {
    start.eq_ignore_ascii_case(b"h2")
}

/// RFC 9113, section 8.2.3: crumbs of cookies become one field where the protocol is not HTTP/2.
/// They are joined for HTTP/2 as well: many applications read but the first.
fn join_cookies(fields: &mut HeaderMap, version: Version) {
    if version != Version::HTTP_2 || fields.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        fields.insert(COOKIE, whole);
    }
}

fn is_expected(expect: Option<&HeaderValue>) -> bool {
    expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
