//! A connection of HTTP/1: its requests, its timers, its end.
//!
//! It alternates between two states. *Parked*, it is a socket and a timer. As soon as something can
//! be read, hyper *serves* it; after a second of silence with nothing buffered it is parked again,
//! because hyper keeps some 19 KiB for each connection and a parked one needs next to nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::connection::{Service, close, reset, tunnel, wait_for_news};
use super::io::ClientIo;
use super::registry::{Command, Handle};
use super::{Context, Live};
use crate::proxy::{Client, HEADER_TIMEOUT, Phase, unreadable};
use crate::timer::LazyTimer;

/// A silent connection is parked after this.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// Where the status stands in an answer of HTTP/1.
const STATUS: std::ops::Range<usize> = "HTTP/1.1 ".len().."HTTP/1.1 400".len();
/// HTTP/2 in the middle of HTTP/1: hyper closes without a word.
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0";
/// How long a client has to take the last thing that it is told.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves a connection, of which something has come, to its end.
pub(super) async fn serve(context: &Arc<Context>, handle: &Handle, mut io: ClientIo) {
    loop {
        let live = context.live.load_full();
        let (ended, back, buffered) = served(context, &live, handle, io).await;
        io = back;
        match ended {
            Ended::Silent => {
                io.put_back(buffered);
                if !io.has_first() && !wait_for_news(&live, handle, &mut io).await {
                    return close(&handle.client, io, false).await;
                }
            }
            Ended::Closed { .. } if handle.client.has_tunnel() => {
                return tunnel(handle, io, buffered).await;
            }
            Ended::Closed { linger } => return close(&handle.client, io, linger).await,
            Ended::Malformed { too_large } => {
                return malformed(&live, handle, io, &buffered, too_large).await;
            }
            Ended::SlowHead => return head_too_slow(&live, handle, io).await,
            Ended::Cut => return reset(&handle.client),
        }
    }
}

/// Says that a request's head did not come to its end. Nothing of a response has been written: it
/// was still being read.
pub(super) async fn head_too_slow(live: &Live, handle: &Handle, mut io: ClientIo) {
    live.proxy.unheard(&handle.client, 408);
    say(&mut io, HEADER_TIMEOUT).await;
    close(&handle.client, io, true).await;
}

/// Says why a head, which begins like this, cannot be read.
async fn malformed(live: &Live, handle: &Handle, mut io: ClientIo, head: &[u8], too_large: bool) {
    let held = io.take_held();
    // What hyper says, if that is not on its way already.
    let said = held.get(STATUS).and_then(|said| std::str::from_utf8(said).ok()?.parse().ok());
    let (mut status, mut answer) = (said.unwrap_or(if too_large { 431 } else { 400 }), &held[..]);
    if (!held.is_empty() || head.starts_with(PREFACE_LINE))
        && let Some(better) = unreadable(head, status == 431, io.is_head_full())
    {
        (status, answer) = better;
    }
    live.proxy.unheard(&handle.client, status);
    say(&mut io, answer).await;
    close(&handle.client, io, true).await;
}

/// Writes the last that a client is told.
async fn say(io: &mut ClientIo, bytes: &[u8]) {
    io.set_free();
    let _ = timeout(LAST_WORDS, io.write_all(bytes)).await;
}

/// Why hyper does not serve the connection any longer.
enum Ended {
    /// Nothing has come for a while, but perhaps some bytes of a next request.
    Silent,
    /// It is over, in order or not.
    Closed { linger: bool },
    /// A request's head cannot be read.
    Malformed { too_large: bool },
    /// A request's head did not come to its end.
    SlowHead,
    /// Away with it.
    Cut,
}

type Hyper = Connection<TokioIo<ClientIo>, Service>;

/// Lets hyper serve the connection until it ends, falls silent or runs out of time. Returns what
/// hyper has read and not used, too.
async fn served(
    context: &Arc<Context>,
    live: &Live,
    handle: &Handle,
    io: ClientIo,
) -> (Ended, ClientIo, Bytes) {
    let client = &handle.client;
    let service = Service { context: Arc::clone(context), client: Arc::clone(client) };
    let mut connection: Box<Hyper> =
        Box::new(live.http1.serve_connection(TokioIo::new(io), service));
    let mut timer = LazyTimer::default();
    let mut asked_to_end = false;
    let ended = poll_fn(|task| {
        let command = handle.command();
        match command {
            Command::Cut => return Poll::Ready(Ended::Cut),
            Command::Drain => client.activity.make_last(),
            Command::Run => {}
        }
        let mut polled = Pin::new(&mut *connection).poll(task);
        let ends = command == Command::Drain && !asked_to_end;
        if ends && polled.is_pending() && may_be_asked_to_end(client) {
            asked_to_end = true;
            Pin::new(&mut *connection).graceful_shutdown();
            polled = Pin::new(&mut *connection).poll(task);
        }
        if let Poll::Ready(result) = polled {
            return Poll::Ready(closed(client, result));
        }
        out_of_time(live, client, &mut timer, task)
    })
    .await;
    let parts = connection.into_parts();
    if matches!(ended, Ended::Silent) && !parts.read_buf.is_empty() {
        // The beginning of a head that came together with the last request.
        client.activity.received();
    }
    (ended, parts.io.into_inner(), parts.read_buf)
}

/// Not while a head is coming: hyper would take the connection for unused. And not before hyper has
/// read what is there: the runtime may not know of it yet, and will wake the connection for it.
fn may_be_asked_to_end(client: &Client) -> bool {
    match client.activity.phase().0 {
        Phase::Idle => !client.socket.has_unread(),
        Phase::Head => false,
        Phase::Busy => true,
    }
}

/// hyper has come to the end.
fn closed(client: &Client, result: hyper::Result<()>) -> Ended {
    if client.activity.is_spoilt() {
        return Ended::Cut;
    }
    match result.err().filter(hyper::Error::is_parse) {
        Some(error) => Ended::Malformed { too_large: error.is_parse_too_large() },
        None => Ended::Closed { linger: client.activity.must_linger() },
    }
}

/// Looks at the one timer of a connection.
fn out_of_time(
    live: &Live,
    client: &Client,
    timer: &mut LazyTimer,
    task: &mut Task<'_>,
) -> Poll<Ended> {
    let Some((deadline, ended)) = next_deadline(live, client) else { return Poll::Pending };
    timer.poll(deadline, task).map(|()| ended)
}

fn next_deadline(live: &Live, client: &Client) -> Option<(Instant, Ended)> {
    if let Some(deadline) = client.activity.write_deadline() {
        return Some((deadline, Ended::Cut));
    }
    match client.activity.phase() {
        (Phase::Idle, since) => {
            let silence = PARK_AFTER.min(live.idle_timeout);
            Some((since + silence, Ended::Silent))
        }
        (Phase::Head, since) => Some((since + live.header_timeout, Ended::SlowHead)),
        (Phase::Busy, _) => None,
    }
}
