//! Accepting connections, within their bound and through shortages.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use super::connection::LINGER_TIME;
use super::listener::Acceptor;
use super::registry::Place;
use super::worker::Worker;
use super::{BACKLOG, Context};
use crate::net::Socket;
use crate::proxy::TOO_MANY_CONNECTIONS;

/// How long to wait when no file descriptor or memory is left: a try costs a system call and fails.
const SHORTAGE: Duration = Duration::from_millis(200);
/// So many refused clients get the time to read why; others are just closed.
pub(super) const MAX_REFUSALS: usize = 64;

/// What a refused client may still send.
const REFUSED_BYTES: usize = 64 * 1024;
/// How often a shortage is worth a line in the log.
const SHORTAGE_NEWS: Duration = Duration::from_secs(10);
/// Unsent bytes beyond which a client's socket takes no more. The kernel's own bound is a few
/// megabytes, and it calls a socket writable again only when a third of them is gone: a slow client
/// that reads steadily would look like one that does not read at all.
const MAX_UNSENT: u32 = 128 * 1024;

/// Accepts until it is told to stop, and then whoever is already waiting.
pub(super) async fn accept(
    listener: Acceptor,
    context: Arc<Context>,
    workers: Arc<[Worker]>,
    mut stop: watch::Receiver<bool>,
) {
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = told_to_stop(&mut stop) => {
                return receive_waiting(&listener, |stream, peer| {
                    receive(stream, peer, &context, &workers, &refusals);
                });
            }
            accepted = poll_fn(|task| listener.poll_accept(task)) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => receive(stream, peer, &context, &workers, &refusals),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= SHORTAGE_NEWS) {
                    told = Some(Instant::now());
                    tracing::error!(%error, "cannot accept connections; trying again");
                }
                // An idle connection has what is missing.
                context.registry.evict();
                sleep(SHORTAGE).await;
            }
        }
    }
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // The server is gone, or says so: the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Takes in everybody who has connected already: no more than the kernel lets wait, however fast
/// others come.
fn receive_waiting(listener: &Acceptor, mut receive: impl FnMut(Socket, SocketAddr)) {
    // It lets one more wait than it was told.
    for _ in 0..=BACKLOG {
        match listener.accept_now() {
            Ok((stream, peer)) => receive(stream, peer),
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => return,
        }
    }
}

fn receive(
    stream: Socket,
    peer: SocketAddr,
    context: &Context,
    workers: &[Worker],
    refusals: &Arc<Semaphore>,
) {
    match context.registry.place() {
        Some(place) => {
            context.live.load().proxy.metrics().server().connection_accepted();
            give(stream, peer, place, workers);
        }
        None => {
            context.live.load().proxy.metrics().server().connection_refused();
            refuse(stream, refusals);
        }
    }
}

fn give(stream: Socket, peer: SocketAddr, place: Place, workers: &[Worker]) {
    stream.tune(MAX_UNSENT);
    let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else { return };
    if let Ok(stream) = stream.detach() {
        worker.give(stream, peer, place);
    }
}

/// Errors of a connection that was gone before it was accepted; accept(2) lists them.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Says in a few bytes why there is no more.
fn refuse(stream: Socket, refusals: &Arc<Semaphore>) {
    let Ok(place) = Arc::clone(refusals).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let _place = place;
        let read_what_came = async {
            stream.ready(Interest::WRITABLE).await?;
            stream.try_write(TOO_MANY_CONNECTIONS)?;
            stream.shutdown_write();
            stream.discard(REFUSED_BYTES, LINGER_TIME).await
        };
        let _ = timeout(LINGER_TIME, read_what_came).await;
    });
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::super::listener::Listener;
    use super::*;
    use crate::config::Listen;

    #[tokio::test]
    async fn a_drain_takes_in_no_more_than_can_have_been_waiting() {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.address().unwrap().unwrap();
        let acceptor = Acceptor::new(listener).unwrap();
        let (mut clients, mut received) = (vec![TcpStream::connect(address).unwrap()], 0);
        receive_waiting(&acceptor, |_, _| {
            received += 1;
            assert!(received <= 2 * BACKLOG, "it never ends");
            // As fast as they are taken in.
            clients = vec![TcpStream::connect(address).unwrap()];
        });
        assert_eq!(received, BACKLOG + 1);
    }
}
