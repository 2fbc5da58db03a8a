//! The account of one request: what is told of it once it has ended, however it ended.
//!
//! An [`Exchange`] travels with its request, from the handler into the response body. Dropped
//! without having been completed, it says that the client left and at which stage.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Version};
use tokio::time::Instant;

use super::Proxy;
use super::client::Client;
use super::patience::is_grpc;
use super::plan::Plan;
use super::upload::{Upload, UploadState};
use crate::gate::RejectReason;
use crate::telemetry::access::AccessRecord;
use crate::telemetry::metrics::AbortStage;
use crate::upstream::UpstreamError;

/// The status in metrics and logs of a request whose client left before there was an answer;
/// nginx's.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// One request, from its head to the end of its response.
#[derive(Debug)]
pub(super) struct Exchange {
    proxy: Arc<Proxy>,
    client: Arc<Client>,
    route: usize,
    method: Method,
    target: PathAndQuery,
    host: HeaderValue,
    traceparent: Option<HeaderValue>,
    upload: Option<Arc<Upload>>,
    started: Instant,
    granted: Option<Instant>,
    queue_wait: Duration,
    upstream_time: Option<Duration>,
    version: Version,
    status: u16,
    reason: Option<RejectReason>,
    error: Option<UpstreamError>,
    bytes_out: u64,
    /// Where the client is, and from where it left if nothing else happens.
    stage: Option<AbortStage>,
    broke_off: bool,
    grpc: bool,
    end: Option<Instant>,
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn new<B>(
        proxy: &Arc<Proxy>,
        client: &Arc<Client>,
        route: usize,
        request: &Request<B>,
        target: &PathAndQuery,
        host: &HeaderValue,
    ) -> Box<Exchange> {
        client.activity.begin();
        // Boxed, since it is handed on from one part of the way to the next.
        Box::new(Exchange {
            proxy: Arc::clone(proxy),
            client: Arc::clone(client),
            route,
            method: request.method().clone(),
            target: target.clone(),
            host: host.clone(),
            traceparent: request.headers().get("traceparent").cloned(),
            upload: None,
            started: Instant::now(),
            granted: None,
            queue_wait: Duration::ZERO,
            upstream_time: None,
            version: request.version(),
            status: CLIENT_CLOSED_REQUEST,
            reason: None,
            error: None,
            bytes_out: 0,
            stage: Some(AbortStage::Queued),
            broke_off: false,
            grpc: is_grpc(request.headers()),
            end: None,
        })
    }

    /// The route that took it.
    pub(super) fn route(&self) -> usize {
        self.route
    }

    /// Whether it is a call of gRPC, whose answers have their own form.
    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// How long the head of its answer may take. A stream of gRPC has no head before its first
    /// message.
    pub(super) fn response_timeout(&self, plan: &Plan) -> Option<Duration> {
        plan.response_timeout.filter(|_| !self.grpc)
    }

    /// It does not last longer.
    pub(super) fn ends_at(&mut self, end: Instant) {
        self.end = Some(end);
    }

    /// When it must have ended, if there is such a time.
    pub(super) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// Whether its response can end in trailers at any time.
    pub(super) fn may_end_in_trailers(&self) -> bool {
        self.client.activity.is_multiplexed()
    }

    /// The wait is over, with a slot or without.
    pub(super) fn waited(&mut self, wait: Duration) {
        self.queue_wait = wait;
        self.proxy.plan(self.route).metrics.queue_wait(wait);
    }

    /// How long it waited for its slot.
    pub(super) fn queue_wait(&self) -> Duration {
        self.queue_wait
    }

    /// It goes to the application.
    pub(super) fn forwarded(&mut self, upload: Option<Arc<Upload>>) {
        self.granted = Some(Instant::now());
        self.stage = Some(match upload {
            Some(_) => AbortStage::RequestBody,
            None => AbortStage::Upstream,
        });
        self.upload = upload;
    }

    /// It has waited for so long for an application that was away, and goes to it now.
    pub(super) fn held(&mut self, wait: Duration) {
        self.granted = Some(Instant::now());
        self.queue_wait += wait;
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// What its client speaks.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Whether its response has no content, whatever its head says (RFC 9110, section 6.4.1).
    pub(super) fn is_bodiless(&self) -> bool {
        self.method == Method::HEAD || matches!(self.status, 204 | 304)
    }

    /// Whether the client may still be sending its body.
    pub(super) fn is_unread(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.state() != UploadState::Whole)
    }

    /// It went to the application once more.
    pub(super) fn retried(&self) {
        self.proxy.plan(self.route).metrics.upstream_retry();
    }

    /// The application's response head is there; returns how long that took from the grant.
    pub(super) fn answered(&mut self, status: u16) -> Duration {
        let service_time = self.granted.map(|granted| granted.elapsed()).unwrap_or_default();
        self.upstream_time = Some(service_time);
        self.proxy.plan(self.route).metrics.upstream_duration(service_time);
        self.status = status;
        self.stage = Some(AbortStage::ResponseBody);
        service_time
    }

    /// The gate turned it away.
    pub(super) fn rejected(&mut self, reason: RejectReason) {
        self.reason = Some(reason);
    }

    /// The application failed.
    pub(super) fn failed(&mut self, error: UpstreamError) {
        self.error = Some(error);
        self.broke_off = self.status != CLIENT_CLOSED_REQUEST;
        if self.broke_off && self.version == Version::HTTP_10 {
            self.client.activity.spoil();
        }
        self.proxy.plan(self.route).metrics.upstream_error(error as usize);
    }

    /// tidegate answers in the application's place.
    pub(super) fn refused(mut self: Box<Self>, status: u16) {
        self.status = status;
        self.complete();
    }

    /// So many bytes of the response body passed.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// The client left.
    pub(super) fn aborted(&mut self, stage: AbortStage) {
        self.stage = Some(stage);
    }

    /// It has ended in order.
    pub(super) fn complete(mut self: Box<Self>) {
        self.stage = None;
    }

    fn upload_is_whole(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.state() == UploadState::Whole)
    }

    fn record(&self) -> AccessRecord<'_> {
        AccessRecord {
            route: &self.proxy.plan(self.route).name,
            client: self.client.peer().address(),
            method: self.method.as_str(),
            target: self.target.as_str(),
            host: self.host.to_str().unwrap_or_default(),
            status: self.status,
            reason: self.reason.map(RejectReason::label),
            error: self.error.map(UpstreamError::token),
            aborted: self.stage,
            queue_wait: self.queue_wait,
            upstream_time: self.upstream_time,
            total: self.started.elapsed(),
            bytes_in: self.upload.as_ref().map_or(0, |upload| upload.bytes()),
            bytes_out: self.bytes_out,
            traceparent: self.traceparent.as_ref().map(HeaderValue::as_bytes),
            broke_off: self.broke_off,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.client.activity.end();
        let metrics = &self.proxy.plan(self.route).metrics;
        if self.stage == Some(AbortStage::RequestBody) && self.upload_is_whole() {
            self.stage = Some(AbortStage::Upstream);
        }
        if let Some(stage) = self.stage {
            metrics.client_abort(stage);
            self.broke_off |= stage == AbortStage::ResponseBody;
        }
        // Last, so that whoever sees it sees the rest.
        metrics.request(self.status);
        let troubled = self.reason.is_some() || self.error.is_some() || self.broke_off;
        let access = self.proxy.access();
        if access.wants(self.status, troubled) {
            access.log(&self.record());
        }
        if self.reason.is_some() && access.remembers() {
            access.remember(&self.record());
        }
    }
}
