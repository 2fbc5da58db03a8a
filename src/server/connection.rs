//! One client connection: its requests, its timers, its end.
//!
//! A connection alternates between two states. *Parked*, it is a socket and a timer. As soon as
//! something can be read, hyper *serves* it; after a second of silence with nothing buffered it is
//! parked again, because hyper keeps some 19 KiB for each connection and a parked one needs next to
//! nothing.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::Context;
use super::io::ClientIo;
use super::registry::{Command, Handle};
use crate::proxy::{Client, Gone, HEADER_TIMEOUT, Phase, Proxy, ResponseBody};
use crate::timer::LazyTimer;

/// A silent connection is parked after this.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// During a drain, how long after it was accepted a client may take for its first byte.
const FIRST_WORD: Duration = Duration::from_millis(250);
/// After the last response, what the client still sends is discarded for at most so long...
const LINGER_TIME: Duration = Duration::from_secs(1);
/// ...and so many bytes: an upload of usual size, since many clients read nothing before they have
/// written everything, and a reset would make them fail without the answer.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve(context: &Context, handle: &Handle) {
    poll_fn(|task| {
        handle.served_by(task.waker());
        Poll::Ready(())
    })
    .await;
    let (mut first, mut fresh) = (Bytes::new(), true);
    loop {
        if first.is_empty() && !parked(context, handle, fresh).await {
            return close(&handle.client, false).await;
        }
        fresh = false;
        match served(context, handle, first).await {
            Ended::Silent(buffered) => first = buffered,
            Ended::Closed { linger } => return close(&handle.client, linger).await,
            Ended::SlowHead => {
                // Nothing of a response has been written: hyper was still reading the head.
                context.proxy.unheard(&handle.client, 408);
                let _ = handle.client.stream.try_write(HEADER_TIMEOUT);
                return close(&handle.client, true).await;
            }
            Ended::Cut => return reset(&handle.client),
        }
    }
}

/// Waits for the first byte of a request. `false`: close. What has come before a drain is still
/// served, and a client that has only just connected gets a moment to say what it wants.
async fn parked(context: &Context, handle: &Handle, fresh: bool) -> bool {
    let (_, since) = handle.client.activity.phase();
    let mut timer = LazyTimer::default();
    poll_fn(|task| {
        if let Poll::Ready(ready) = handle.client.stream.poll_read_ready(task) {
            return Poll::Ready(ready.is_ok());
        }
        let patience = match handle.command() {
            Command::Run => context.idle_timeout,
            Command::Drain if fresh => FIRST_WORD.min(context.idle_timeout),
            Command::Drain | Command::Cut => return Poll::Ready(false),
        };
        timer.poll(since + patience, task).map(|()| false)
    })
    .await
}

/// Why hyper does not serve the connection any longer.
enum Ended {
    /// Nothing has come for a while; these bytes of a next request are there.
    Silent(Bytes),
    /// It is over, in order or not.
    Closed { linger: bool },
    /// A request's head did not come to its end.
    SlowHead,
    /// Away with it.
    Cut,
}

type Hyper = Connection<TokioIo<ClientIo>, Service>;

/// Hands requests to the proxy.
struct Service {
    proxy: Arc<Proxy>,
    client: Arc<Client>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Gone;
    // Boxed, so that hyper's connection can be moved and taken apart.
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Gone>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (proxy, client) = (Arc::clone(&self.proxy), Arc::clone(&self.client));
        Box::pin(async move {
            let mut response = proxy.handle(Arc::clone(&client), request).await?;
            if client.activity.is_last() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

/// Lets hyper serve the connection until it ends, falls silent or runs out of time.
async fn served(context: &Context, handle: &Handle, first: Bytes) -> Ended {
    let client = &handle.client;
    let service = Service { proxy: Arc::clone(&context.proxy), client: Arc::clone(client) };
    let io = TokioIo::new(ClientIo::new(Arc::clone(client), first, context.max_head));
    let mut connection: Box<Hyper> = Box::new(context.http1.serve_connection(io, service));
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
        // Not while a head is coming: hyper would take the connection for unused. And not before it
        // has read what is there.
        let settled = client.activity.phase().0 != Phase::Head;
        if command == Command::Drain && !asked_to_end && settled && polled.is_pending() {
            asked_to_end = true;
            Pin::new(&mut *connection).graceful_shutdown();
            polled = Pin::new(&mut *connection).poll(task);
        }
        if let Poll::Ready(result) = polled {
            if client.activity.is_spoilt() {
                return Poll::Ready(Ended::Cut);
            }
            let malformed = result.err().filter(hyper::Error::is_parse);
            if let Some(error) = &malformed {
                context.proxy.unheard(client, status_of(error));
            }
            let linger = malformed.is_some() || client.activity.must_linger();
            return Poll::Ready(Ended::Closed { linger });
        }
        out_of_time(context, client, &mut timer, task)
    })
    .await;
    match ended {
        Ended::Silent(_) => {
            let buffered = connection.into_parts().read_buf;
            if !buffered.is_empty() {
                // The beginning of a head that came together with the last request.
                client.activity.received();
            }
            Ended::Silent(buffered)
        }
        ended => ended,
    }
}

/// What hyper has answered to a head that it could not read, for the metrics.
fn status_of(error: &hyper::Error) -> u16 {
    if error.is_parse_too_large() { 431 } else { 400 }
}

/// Looks at the one timer of a connection.
fn out_of_time(
    context: &Context,
    client: &Client,
    timer: &mut LazyTimer,
    task: &mut Task<'_>,
) -> Poll<Ended> {
    let Some((deadline, ended)) = next_deadline(context, client) else { return Poll::Pending };
    timer.poll(deadline, task).map(|()| ended)
}

fn next_deadline(context: &Context, client: &Client) -> Option<(Instant, Ended)> {
    if let Some(deadline) = client.activity.write_deadline() {
        return Some((deadline, Ended::Cut));
    }
    match client.activity.phase() {
        (Phase::Idle, since) => {
            let silence = PARK_AFTER.min(context.idle_timeout);
            Some((since + silence, Ended::Silent(Bytes::new())))
        }
        (Phase::Head, since) => Some((since + context.header_timeout, Ended::SlowHead)),
        (Phase::Busy, _) => None,
    }
}

/// Closes a connection in a way that lets the client read the last response: were the socket closed
/// with unread bytes in it, the kernel would send a reset, and that may overtake the response.
async fn close(client: &Client, linger: bool) {
    // Not idle: it would make room for another at once, and keep its descriptor.
    client.activity.enter(Phase::Busy);
    let _ = socket2::SockRef::from(&*client.stream).shutdown(Shutdown::Write);
    if linger {
        let _ = timeout(LINGER_TIME, discard(client)).await;
    }
}

/// Closes a connection so that the client cannot take what it has got for the whole, and the kernel
/// does not keep what it would not read.
fn reset(client: &Client) {
    let _ = socket2::SockRef::from(&*client.stream).set_linger(Some(Duration::ZERO));
}

async fn discard(client: &Client) -> io::Result<()> {
    let mut left = LINGER_BYTES;
    let mut buffer = vec![0; 16 * 1024];
    while left > 0 {
        client.stream.readable().await?;
        match client.stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => left = left.saturating_sub(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
