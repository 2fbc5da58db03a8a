//! Requests that change something: from this machine, and not from a page in a browser.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::ORIGIN;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::oneshot;

use super::{Order, State, respond, text};

/// Whether a request is for one of the paths that take orders.
pub(super) fn is_order<B>(request: &Request<B>) -> bool {
    matches!(request.uri().path(), "/reload" | "/drain")
}

/// Answers a POST. Its body is not read.
pub(super) async fn answer<B>(
    state: &State,
    request: &Request<B>,
    peer: IpAddr,
) -> Response<Full<Bytes>> {
    if !state.running.load().config.admin.control {
        return text(StatusCode::FORBIDDEN, "admin.control is off\n");
    }
    if !peer.to_canonical().is_loopback() {
        return text(StatusCode::FORBIDDEN, "only from this machine\n");
    }
    // A page that somebody on this machine looks at could send it, too.
    if request.headers().contains_key(ORIGIN) {
        return text(StatusCode::FORBIDDEN, "not from a browser\n");
    }
    if request.uri().path() == "/reload" { reload(state).await } else { drain(state).await }
}

async fn reload(state: &State) -> Response<Full<Bytes>> {
    let (told, outcome) = oneshot::channel();
    if state.orders.send(Order::Reload(told)).await.is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    }
    let plain = "text/plain; charset=utf-8";
    match outcome.await {
        Ok(Ok(changes)) if changes.is_empty() => text(StatusCode::OK, "nothing has changed\n"),
        Ok(Ok(changes)) => respond(StatusCode::OK, plain, (changes.join("\n") + "\n").into()),
        Ok(Err(why)) => respond(StatusCode::UNPROCESSABLE_ENTITY, plain, why.into()),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
    }
}

async fn drain(state: &State) -> Response<Full<Bytes>> {
    let (told, drained) = oneshot::channel();
    if state.orders.send(Order::Drain(told)).await.is_ok() {
        let _ = drained.await;
    }
    text(StatusCode::OK, "drained\n")
}
