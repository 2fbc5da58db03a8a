//! `on_client_abort = "finish"`: the client is gone, and the application is let finish what it
//! began.
//!
//! An application that does not notice a closed connection goes on working; were the slot given
//! back, it would work on more than it was allowed. So the slot is held until the response has
//! ended.

use std::time::Duration;

use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::outcome;
use crate::admission::Permit;
use crate::message::Incoming;
use crate::upstream::{Answer, Lease};

/// An application that works on without a client gets so many times as long as one with a client:
/// it is slow, or else the answer would be there. Beyond it, it is taken for stuck, and the slot
/// comes back.
const PATIENCE: u32 = 10;

/// The bounds under which an abandoned exchange is played to its end; `None`: no bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// To the response head of a request whose client waits.
    pub(super) response_timeout: Option<Duration>,
    /// The longest silence within the response body.
    pub(super) idle_body_timeout: Option<Duration>,
    /// Whether the gate learns from how it ends.
    pub(super) learns: bool,
}

/// Waits for the response of an exchange whose client is gone. It went to the application at
/// `begun`; that it is answered says as much of the application as any answer does.
pub(super) fn spawn_whole(
    answer: Answer,
    mut lease: Lease<Permit>,
    finish: Finish,
    begun: Instant,
) {
    tokio::spawn(async move {
        if let Some(Ok(response)) =
            within(finish.response_timeout.map(|limit| limit * PATIENCE), answer).await
        {
            if finish.learns {
                let telling = !outcome::is_event_stream(response.headers());
                let outcome = outcome::answered(response.status(), begun.elapsed(), telling);
                lease.held_mut().note(outcome);
            }
            rest(response.into_body(), lease, finish).await;
        }
        // Else the lease is dropped: the connection closes, and the slot comes back with it.
    });
}

/// Reads the rest of a response whose client is gone.
pub(super) fn spawn_rest(body: Incoming, lease: Lease<Permit>, finish: Finish) {
    tokio::spawn(rest(body, lease, finish));
}

async fn rest(mut body: Incoming, lease: Lease<Permit>, finish: Finish) {
    while !body.is_end_stream() {
        match within(finish.idle_body_timeout, body.frame()).await {
            Some(Some(Ok(_))) => {}
            Some(None) => break,
            Some(Some(Err(_))) | None => return,
        }
    }
    lease.finish();
}

async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}
