//! Accepting connections, within their bound and through shortages.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Context;
use super::registry::Place;
use super::worker::Worker;
use crate::proxy::TOO_MANY_CONNECTIONS;

/// How long to wait when no file descriptor or memory is left: a try costs a system call and fails.
const SHORTAGE: Duration = Duration::from_millis(200);
/// So many refused clients get the time to read why; others are just closed.
pub(super) const MAX_REFUSALS: usize = 64;

/// Accepts for ever.
pub(super) async fn accept(listener: TcpListener, context: Arc<Context>, workers: Arc<[Worker]>) {
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut short = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                short = false;
                if let Some(place) = context.registry.place() {
                    context.proxy.metrics().server().connection_accepted();
                    give(stream, peer, place, &workers);
                } else {
                    context.proxy.metrics().server().connection_refused();
                    refuse(stream, &refusals);
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !short {
                    tracing::error!(%error, "cannot accept connections; trying again");
                }
                short = true;
                // An idle connection has what is missing.
                context.registry.evict();
                sleep(SHORTAGE).await;
            }
        }
    }
}

fn give(stream: TcpStream, peer: SocketAddr, place: Place, workers: &[Worker]) {
    // Small responses must not wait for the acknowledgement of earlier ones.
    let _ = stream.set_nodelay(true);
    let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else { return };
    if let Ok(stream) = stream.into_std() {
        worker.give(stream, peer, place);
    }
}

/// Errors of a connection that was gone before it was accepted; accept(2) lists them.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Says in a few bytes why there is no more.
fn refuse(stream: TcpStream, refusals: &Arc<Semaphore>) {
    let Ok(place) = Arc::clone(refusals).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let _place = place;
        let read_what_came = async {
            stream.writable().await?;
            stream.try_write(TOO_MANY_CONNECTIONS)?;
            socket2::SockRef::from(&stream).shutdown(Shutdown::Write)?;
            let mut buffer = [0; 4096];
            for _ in 0..16 {
                stream.readable().await?;
                match stream.try_read(&mut buffer) {
                    Ok(0) => break,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    Ok(_) | Err(_) => {}
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(Duration::from_secs(1), read_what_came).await;
    });
}
