//! One client connection: what it speaks, and its end.
//!
//! After the `greeting` the first bytes decide between HTTP/1 and HTTP/2; `http1` and `http2` take
//! it from there, and a connection that has left HTTP ends as a `tunnel`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::greeting::{Spoken, greet};
use super::io::ClientIo;
use super::registry::{Command, Handle};
use super::{Context, Live, http1, http2};
use crate::proxy::{Client, Gone, Phase, ResponseBody};
use crate::timer::LazyTimer;

/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After the last response, what the client still sends is discarded for at most so long...
pub(super) const LINGER_TIME: Duration = Duration::from_secs(1);
/// ...and so many bytes: an upload of usual size, since many clients read nothing before they have
/// written everything, and a reset would make them fail without the answer.
pub(super) const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Serves a connection to its end. `peer` is the other end of its socket.
pub(super) async fn serve(context: &Arc<Context>, handle: &Handle, peer: SocketAddr) {
    poll_fn(|task| {
        handle.served_by(task.waker());
        Poll::Ready(())
    })
    .await;
    let live = context.live.load_full();
    let Some((mut io, spoken)) = greet(&live, handle, peer).await else {
        // Of what comes before HTTP, some may be unread.
        let linger = live.tls.is_some() || live.proxy_protocol;
        return hang_up(&handle.client, linger).await;
    };
    match spoken {
        Spoken::Http1 => return http1::serve(context, handle, io).await,
        Spoken::Http2 => return http2::serve(context, handle, io).await,
        Spoken::Open => {}
    }
    match timeout(live.header_timeout, speaks_http2(&mut io)).await {
        Ok(Ok(true)) => http2::serve(context, handle, io).await,
        Ok(Ok(false)) => http1::serve(context, handle, io).await,
        Ok(Err(_)) => reset(&handle.client),
        Err(_) => http1::head_too_slow(&live, handle, io).await,
    }
}

/// Waits for the first byte of a next request. `false`: close. What has come before a drain is
/// still served.
pub(super) async fn wait_for_news(live: &Live, handle: &Handle, io: &mut ClientIo) -> bool {
    let (_, since) = handle.client.activity.phase();
    let mut timer = LazyTimer::default();
    poll_fn(|task| {
        if let Poll::Ready(ready) = io.poll_news(task) {
            return Poll::Ready(ready.is_ok());
        }
        // Unread bytes of which the runtime does not know yet will wake this.
        if handle.command() != Command::Run && !handle.client.socket.has_unread() {
            return Poll::Ready(false);
        }
        timer.poll(since + live.idle_timeout, task).map(|()| false)
    })
    .await
}

/// Reads until it is clear whether the client speaks HTTP/2, and puts back what was read.
async fn speaks_http2(io: &mut ClientIo) -> io::Result<bool> {
    let mut seen = BytesMut::with_capacity(1024);
    let result = loop {
        let known = seen.len().min(PREFACE.len());
        if seen[..known] != PREFACE[..known] {
            break Ok(false);
        }
        if known == PREFACE.len() {
            break Ok(true);
        }
        let mut space = [0; 1024];
        let mut buf = ReadBuf::new(&mut space);
        if let Err(error) = poll_fn(|task| Pin::new(&mut *io).poll_read(task, &mut buf)).await {
            break Err(error);
        }
        if buf.filled().is_empty() {
            // What little has come is no beginning of HTTP/2.
            break Ok(false);
        }
        seen.extend_from_slice(buf.filled());
    };
    io.put_back(seen.freeze());
    result
}

/// Hands requests of HTTP/1 to the proxy as it is when they come.
pub(super) struct Service {
    pub(super) context: Arc<Context>,
    pub(super) client: Arc<Client>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Gone;
    // Boxed, so that hyper's connection can be moved and taken apart.
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Gone>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let proxy = Arc::clone(&self.context.live.load().proxy);
        let client = Arc::clone(&self.client);
        Box::pin(async move {
            let interims = Arc::clone(&client.interims);
            let request = request.map(Into::into);
            let mut response = proxy.handle(Arc::clone(&client), &interims, request).await?;
            let goes_on = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if client.activity.is_last() && !goes_on {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

/// Closes a connection in a way that lets the client read the last response: were the socket closed
/// with unread bytes in it, the kernel would send a reset, and that may overtake the response.
pub(super) async fn close(client: &Client, mut io: ClientIo, linger: bool) {
    // Not idle: it would make room for another at once, and keep its descriptor.
    client.activity.enter(Phase::Busy);
    io.set_free();
    // TLS says good-bye; a client that does not read it has its time.
    let _ = timeout(LINGER_TIME, io.shutdown()).await;
    client.socket.shutdown_write();
    if linger {
        let _ = timeout(LINGER_TIME, client.socket.discard(LINGER_BYTES, LINGER_TIME)).await;
    }
}

/// Closes a connection on which nothing was asked.
async fn hang_up(client: &Client, linger: bool) {
    client.activity.enter(Phase::Busy);
    client.socket.shutdown_write();
    if linger {
        let _ = timeout(LINGER_TIME, client.socket.discard(LINGER_BYTES, LINGER_TIME)).await;
    }
}

/// Closes a connection so that the client cannot take what it has got for the whole, and the kernel
/// does not keep what it would not read.
pub(super) fn reset(client: &Client) {
    client.socket.reset_on_close();
}

/// Serves a connection that has left HTTP.
pub(super) async fn tunnel(handle: &Handle, mut io: ClientIo, first: Bytes) {
    let Some(tunnel) = handle.client.take_tunnel() else { return };
    io.put_back(first);
    io.set_free();
    let mut running = Box::pin(tunnel.run(io));
    poll_fn(|task| match handle.command() {
        Command::Cut => Poll::Ready(()),
        Command::Run | Command::Drain => running.as_mut().poll(task),
    })
    .await;
}
