//! A connection of HTTP/2: many requests side by side, its timers, its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2::{Builder, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout};

use super::Context;
use super::connection::{LINGER_BYTES, LINGER_TIME, PREFACE, Service, reset};
use super::frames::Meter;
use super::io::ClientIo;
use super::registry::{Command, Handle};
use crate::proxy::{Client, Phase};
use crate::timer::LazyTimer;

/// What one request may send ahead of the application, in bytes. The window of the connection is
/// that of all its streams together, so that a request which waits stalls no other one; what is
/// buffered at most is therefore this for each request that is queued or in flight.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What of a response may wait to be written, in bytes a stream.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// A client that says nothing at all is asked whether it is still there.
const PING_AFTER: Duration = Duration::from_secs(30);
/// How long it has to answer.
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// How long a client has to take leave after it was told that there is nothing more.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often to look for responses that their clients do not take.
const LOOK: Duration = Duration::from_secs(1);

/// What every connection has in common.
pub(super) fn builder(max_streams: u32, max_head: usize) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW.saturating_mul(max_streams))
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

/// Serves a connection to its end.
pub(super) async fn serve(context: &Arc<Context>, handle: &Handle, mut io: ClientIo) {
    let client = &handle.client;
    client.activity.multiplex();
    io.set_free();
    io.weigh(Meter::new(PREFACE.len(), Instant::now()));
    client.activity.enter(Phase::Idle);
    let service = Service { context: Arc::clone(context), client: Arc::clone(client) };
    let mut connection: Pin<Box<Connection<TokioIo<ClientIo>, Service, TokioExecutor>>> =
        Box::pin(context.live.load().http2.serve_connection(TokioIo::new(io), service));
    let mut timer = LazyTimer::default();
    let mut told: Option<Instant> = None;
    let cut = poll_fn(|task| {
        let command = handle.command();
        if command == Command::Cut {
            return Poll::Ready(true);
        }
        if command == Command::Drain && told.is_none() {
            told = Some(Instant::now());
            connection.as_mut().graceful_shutdown();
        }
        loop {
            if connection.as_mut().poll(task).is_ready() {
                return Poll::Ready(false);
            }
            let now = Instant::now();
            let cut_at = cut_at(context, client);
            if cut_at.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(true);
            }
            let next = match (client.activity.phase(), told) {
                ((Phase::Idle, since), Some(told)) => {
                    let leave = since.max(told) + FAREWELL;
                    if leave <= now {
                        return Poll::Ready(true);
                    }
                    leave
                }
                ((Phase::Idle, since), None) => {
                    let leave = since + context.live.load().idle_timeout;
                    if leave <= now {
                        told = Some(now);
                        connection.as_mut().graceful_shutdown();
                        continue;
                    }
                    leave
                }
                _ => {
                    client.give_up_stalled();
                    now + LOOK
                }
            };
            let next = cut_at.map_or(next, |deadline| next.min(deadline));
            if timer.poll(next, task).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    if cut {
        return reset(client);
    }
    drop(connection);
    client.socket.shutdown_write();
    let _ = timeout(LINGER_TIME, client.socket.discard(LINGER_BYTES)).await;
}

/// When a client becomes hopeless that does not take what it asked for, or does not end a head.
fn cut_at(context: &Context, client: &Client) -> Option<Instant> {
    let live = context.live.load();
    let activity = &client.activity;
    let deadlines = [
        activity.write_deadline(),
        activity.head_deadline(live.header_timeout),
        activity.delivery_deadline(live.idle_timeout),
    ];
    deadlines.into_iter().flatten().min()
}
