//! What comes before HTTP: who the client is (the PROXY protocol), and TLS.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Live;
use super::io::{ClientIo, SocketIo};
use super::proxy_protocol::{MAX_HEADER, Parsed, parse};
use super::registry::{Command, Handle};
use super::tls::Tls;
use crate::proxy::{PLAIN_INSTEAD_OF_TLS, Peer};
use crate::timer::LazyTimer;

/// During a drain, how long after it was accepted a client may take for its first byte.
const FIRST_WORD: Duration = Duration::from_millis(250);
/// The first byte of a handshake of TLS (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// What the client speaks, as far as it is said before HTTP.
pub(super) enum Spoken {
    /// The first bytes will tell.
    Open,
    /// HTTP/1, by ALPN.
    Http1,
    /// HTTP/2, by ALPN.
    Http2,
}

/// Learns who the client is and sets up TLS, as the listener wants it; `None`: the connection is to
/// be closed.
pub(super) async fn greet(
    live: &Live,
    handle: &Handle,
    peer: SocketAddr,
) -> Option<(ClientIo, Spoken)> {
    let mut socket = SocketIo::new(&handle.client);
    if !first_word(live, handle, &socket).await {
        return None;
    }
    if live.tls.is_none() && !live.proxy_protocol {
        handle.client.introduce(Peer::new(peer, false));
        return Some((ClientIo::plain(&handle.client, socket, live.max_head), Spoken::Open));
    }
    let greeting = async {
        let client = match live.proxy_protocol && live.proxy.trusts(peer.ip()) {
            true => source(&mut socket).await?.unwrap_or(peer),
            false => peer,
        };
        handle.client.introduce(Peer::new(client, live.tls.is_some()));
        match &live.tls {
            Some(tls) => secure(live, handle, tls, socket).await,
            None => Ok((ClientIo::plain(&handle.client, socket, live.max_head), Spoken::Open)),
        }
    };
    let mut greeting = Box::pin(timeout(live.header_timeout, greeting));
    let greeted = poll_fn(|task| match handle.command() {
        Command::Cut => Poll::Ready(Err(io::ErrorKind::Interrupted.into())),
        Command::Run | Command::Drain => {
            greeting.as_mut().poll(task).map(|done| done.unwrap_or_else(|slow| Err(slow.into())))
        }
    })
    .await;
    match greeted {
        Ok(greeted) => Some(greeted),
        Err(error) => {
            tracing::debug!(client = %peer.ip(), %error, "a connection came to no request");
            None
        }
    }
}

/// Waits for the first byte. A client that has only just connected when a drain begins gets a
/// moment to say what it wants.
async fn first_word(live: &Live, handle: &Handle, socket: &SocketIo) -> bool {
    let (_, since) = handle.client.activity.phase();
    let mut timer = LazyTimer::default();
    poll_fn(|task| {
        if let Poll::Ready(ready) = socket.poll_news(task) {
            return Poll::Ready(ready.is_ok());
        }
        let patience = match handle.command() {
            Command::Run => live.idle_timeout,
            Command::Drain => FIRST_WORD.min(live.idle_timeout),
            Command::Cut => return Poll::Ready(false),
        };
        timer.poll(since + patience, task).map(|()| false)
    })
    .await
}

/// Reads a header of the PROXY protocol; `None`: the proxy speaks for itself.
async fn source(socket: &mut SocketIo) -> io::Result<Option<SocketAddr>> {
    let mut seen = BytesMut::with_capacity(1024);
    loop {
        match parse(&seen) {
            Parsed::Header { len, source } => {
                seen.advance(len);
                socket.put_back(seen.freeze());
                return Ok(source);
            }
            Parsed::Invalid(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            Parsed::Incomplete if seen.len() >= MAX_HEADER => {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Parsed::Incomplete => {}
        }
        if socket.read_some(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Sets up TLS. Who speaks plain HTTP is told so.
async fn secure(
    live: &Live,
    handle: &Handle,
    tls: &Tls,
    mut socket: SocketIo,
) -> io::Result<(ClientIo, Spoken)> {
    let client = &handle.client;
    let mut seen = BytesMut::with_capacity(1024);
    if socket.read_some(&mut seen).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if seen[0] != HANDSHAKE {
        if seen[0].is_ascii_uppercase() {
            live.proxy.unheard(client, 400);
            let _ = client.socket.try_write(PLAIN_INSTEAD_OF_TLS);
        }
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no TLS"));
    }
    socket.put_back(seen.freeze());
    let stream = TlsAcceptor::from(tls.current()).accept(socket).await?;
    let spoken = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Spoken::Http2,
        Some(_) => Spoken::Http1,
        None => Spoken::Open,
    };
    Ok((ClientIo::secure(client, Box::new(stream), live.max_head), spoken))
}
