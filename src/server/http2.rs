//! A connection of HTTP/2: many requests side by side, its timers, its end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HeaderValue, TE, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tokio::time::{Instant, timeout};

use super::Context;
use super::connection::{LINGER_BYTES, PREFACE, reset};
use super::io::ClientIo;
use super::meter::Meter;
use super::registry::{Command, Handle};
use crate::message::{Incoming, send};
use crate::proxy::{Client, Interims, Phase, ResponseBody};
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
/// Who was told that there is nothing more, and does not close, may say nothing for so long...
const SILENCE: Duration = Duration::from_secs(5);
/// ...and is waited for so long in all.
const LINGER_MOST: Duration = Duration::from_secs(30);
/// How long a client has to take leave after it was told that there is nothing more.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection, before and after the client's first words have been read.
enum Stage {
    Greeting(Box<Handshake<ClientIo, Bytes>>),
    Serving(Box<Connection<ClientIo, Bytes>>, Pulse),
}

/// Asks a client that has gone silent whether it is still there.
struct Pulse {
    ping_pong: Option<PingPong>,
    /// When it was asked; `None`: it has answered.
    asked: Option<Instant>,
}

/// What every connection has in common.
pub(super) fn builder(max_streams: u32, max_head: usize) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(max_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW.saturating_mul(max_streams))
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX));
    builder
}

/// Serves a connection to its end.
pub(super) async fn serve(context: &Arc<Context>, handle: &Handle, mut io: ClientIo) {
    let client = &handle.client;
    client.activity.multiplex();
    io.set_free();
    io.weigh(Meter::new(PREFACE.len(), Instant::now()));
    client.activity.enter(Phase::Idle);
    let mut stage = Stage::Greeting(Box::new(context.live.load().http2.handshake(io)));
    let mut timer = LazyTimer::default();
    let mut told: Option<Instant> = None;
    let cut = poll_fn(|task| {
        let command = handle.command();
        if command == Command::Cut {
            return Poll::Ready(true);
        }
        if command == Command::Drain && told.is_none() {
            told = Some(Instant::now());
            stage.take_leave();
        }
        loop {
            if stage.poll(context, client, told.is_some(), task).is_ready() {
                return Poll::Ready(false);
            }
            let now = Instant::now();
            let mut next = stage.next_look(client, now);
            match (client.activity.phase(), told) {
                ((Phase::Idle, since), Some(told)) => {
                    next = next.min(since.max(told) + FAREWELL);
                    if next <= now {
                        return Poll::Ready(false);
                    }
                }
                ((Phase::Idle, since), None) => {
                    let leave = since + context.live.load().idle_timeout;
                    if leave <= now {
                        told = Some(now);
                        stage.take_leave();
                        continue;
                    }
                    next = next.min(leave);
                }
                _ => {}
            }
            if let Some(deadline) = cut_at(context, client) {
                next = next.min(deadline);
            }
            if next <= now {
                return Poll::Ready(true);
            }
            if timer.poll(next, task).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
    if cut {
        return reset(client);
    }
    drop(stage);
    client.socket.shutdown_write();
    // What was written last may still be on its way, and closing would destroy it: a client that
    // is slow says so as it takes it (WINDOW_UPDATE), or closes once it has all.
    let lingering = client.socket.discard(LINGER_BYTES, SILENCE);
    let mut lingering = pin!(timeout(LINGER_MOST, lingering));
    poll_fn(|task| match handle.command() {
        Command::Cut => Poll::Ready(()),
        Command::Run | Command::Drain => lingering.as_mut().poll(task).map(|_| ()),
    })
    .await;
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

/// Serves one stream: a request and its response.
async fn exchange(
    context: Arc<Context>,
    client: Arc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let interims = Arc::new(Interims::default());
    let proxy = Arc::clone(&context.live.load().proxy);
    let request = incoming(request, &interims);
    // Boxed, so that it is moved no more, and gone while the body is sent.
    let mut answer = Box::pin(proxy.handle(client, &interims, request));
    let answered = poll_fn(|task| {
        // A client that takes its request back in the very moment of its grant must not reach the
        // application.
        if respond.poll_reset(task).is_ready() {
            return Poll::Ready(None);
        }
        let answered = answer.as_mut().poll(task);
        for said in interims.take_some() {
            if let Ok(mut interim) = Response::builder().status(said.status).body(()) {
                *interim.headers_mut() = said.fields;
                // Fails where the stream is no more, which is found out at once.
                let _ = respond.send_informational(interim);
            }
        }
        answered.map(Result::ok)
    });
    let Some(response) = answered.await else {
        return respond.send_reset(Reason::CANCEL);
    };
    drop(answer);
    let (mut head, body) = response.into_parts();
    finish(&mut head.headers, &body);
    match respond.send_response(Response::from_parts(head, ()), body.is_end_stream()) {
        Ok(stream) if !body.is_end_stream() => {
            let patience = body.patience();
            send(body, stream, patience, Reason::INTERNAL_ERROR).await;
        }
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%error, "a response cannot be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// The request as the proxy takes it. Who waits to be asked for its body is, once somebody wants
/// it.
fn incoming(request: Request<RecvStream>, interims: &Arc<Interims>) -> Request<Incoming> {
    let (head, stream) = request.into_parts();
    let mut body = Incoming::streamed(stream, &head.headers);
    if head.headers.contains_key(EXPECT) {
        let interims = Arc::clone(interims);
        body = body.asking(move || interims.ask_for_body());
    }
    Request::from_parts(head, body)
}

/// What HTTP/2 wants of a response's head, and what hyper adds in HTTP/1.
fn finish(fields: &mut HeaderMap, body: &ResponseBody) {
    // RFC 9113, section 8.2.2.
    for forbidden in [CONNECTION, TRANSFER_ENCODING, TE] {
        fields.remove(forbidden);
    }
    if !fields.contains_key(DATE) {
        // RFC 9110, section 6.6.1.
        let now = httpdate::fmt_http_date(SystemTime::now());
        fields.insert(DATE, HeaderValue::try_from(now).expect("a date is visible ASCII"));
    }
    if !body.is_end_stream()
        && let Some(length) = body.size_hint().exact()
    {
        fields.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

// === impl Stage ===

impl Stage {
    /// Reads and writes, and starts serving each stream that is opened. Ready: it is over.
    fn poll(
        &mut self,
        context: &Arc<Context>,
        client: &Arc<Client>,
        takes_leave: bool,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        loop {
            let serving = match self {
                Stage::Greeting(handshake) => match Pin::new(handshake).poll(task) {
                    Poll::Ready(Ok(connection)) => connection,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Serving(connection, pulse) => {
                    pulse.listen(task);
                    while let Poll::Ready(opened) = connection.poll_accept(task) {
                        let Some(Ok((request, respond))) = opened else { return Poll::Ready(()) };
                        let (context, client) = (Arc::clone(context), Arc::clone(client));
                        tokio::spawn(exchange(context, client, request, respond));
                    }
                    return Poll::Pending;
                }
            };
            let mut connection = Box::new(serving);
            let pulse = Pulse { ping_pong: connection.ping_pong(), asked: None };
            if takes_leave {
                connection.graceful_shutdown();
            }
            *self = Stage::Serving(connection, pulse);
        }
    }

    /// The client is told that no more streams are served than those that it has opened.
    fn take_leave(&mut self) {
        if let Stage::Serving(connection, _) = self {
            connection.graceful_shutdown();
        }
    }

    /// When to look again at a client that says nothing; not later than now: it is no more.
    fn next_look(&mut self, client: &Client, now: Instant) -> Instant {
        match self {
            Stage::Greeting(_) => now + PING_AFTER,
            Stage::Serving(_, pulse) => pulse.next_look(client.activity.heard(), now),
        }
    }
}

// === impl Pulse ===

impl Pulse {
    fn listen(&mut self, task: &mut Task<'_>) {
        if self.asked.is_some()
            && let Some(ping_pong) = &mut self.ping_pong
            && ping_pong.poll_pong(task).is_ready()
        {
            self.asked = None;
        }
    }

    fn next_look(&mut self, heard: Instant, now: Instant) -> Instant {
        if let Some(asked) = self.asked {
            // Whatever it says is an answer.
            return heard.max(asked) + PONG_WITHIN;
        }
        let due = heard + PING_AFTER;
        if due > now {
            return due;
        }
        if let Some(ping_pong) = &mut self.ping_pong
            && ping_pong.send_ping(Ping::opaque()).is_ok()
        {
            self.asked = Some(now);
        }
        now + PONG_WITHIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_gone_once_it_has_not_answered_and_said_nothing_else() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse { ping_pong: None, asked: None };
        assert_eq!(pulse.next_look(start, after(29)), after(30));
        pulse.asked = Some(after(30));
        assert_eq!(pulse.next_look(start, after(49)), after(50));
        assert_eq!(pulse.next_look(after(45), after(49)), after(65));
    }
}
