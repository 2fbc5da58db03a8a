//! What a request knows of the connection it came on, and tells it.
//!
//! hyper does not read the socket while a request's body is unread, so that it cannot see a client
//! leave the queue in the middle of an upload. The socket is therefore shared: the waiting request
//! watches it for its end, without reading.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::forwarded::Peer;

/// A client's connection, as its requests see it.
#[derive(Debug)]
pub struct Client {
    /// The socket; only its owner reads and writes it.
    pub stream: Arc<TcpStream>,
    /// The other end.
    pub peer: Peer,
    /// The worker that serves it.
    pub worker: usize,
    /// What the connection is doing.
    pub activity: Activity,
}

/// What a connection is doing, shared between its socket, its requests and its timers.
#[derive(Debug)]
pub struct Activity {
    origin: Instant,
    phase: AtomicU8,
    /// Microseconds from `origin` to the last change of phase.
    since: AtomicU64,
    /// Microseconds from `origin` to the first write that found the client not reading; 0: none.
    blocked: AtomicU64,
    /// How long a write may stay blocked, in microseconds; 0: for ever.
    patience: AtomicU64,
    /// The client may still be sending what nobody will read.
    unread: AtomicBool,
    end_of_input: AtomicBool,
    /// The response broke off, and only a reset can tell.
    spoilt: AtomicBool,
    last: AtomicBool,
}

/// The phases of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Between two requests, or before the first.
    Idle = 0,
    /// Some of a request's head has come.
    Head = 1,
    /// A request is being served.
    Busy = 2,
}

// === impl Client ===

impl Client {
    /// Resolves when the client has closed its end, wholly or for writing, or reset the connection.
    ///
    /// An end behind unread bytes that fill the receive window cannot be seen.
    ///
    /// # Cancel safety
    ///
    /// Nothing is read; dropping the future loses nothing.
    pub async fn gone(&self) {
        loop {
            let Ok(ready) = self.stream.ready(watched()).await else { return };
            if ready.is_read_closed() || ready.is_write_closed() || ready.is_error() {
                return;
            }
            // Urgent data, say. Clears that readiness, so that the loop does not spin.
            let again = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
            let _ = self.stream.try_io(watched(), again);
        }
    }
}

/// Anything but readable: unread bytes would make that true for ever.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn watched() -> Interest {
    Interest::PRIORITY | Interest::ERROR
}

/// Elsewhere only a reset is seen; `max_wait` bounds the rest.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn watched() -> Interest {
    Interest::ERROR
}

// === impl Activity ===

impl Activity {
    /// A connection that has just been accepted.
    #[must_use]
    pub fn new() -> Activity {
        Activity {
            origin: Instant::now(),
            phase: AtomicU8::new(Phase::Idle as u8),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            patience: AtomicU64::new(0),
            unread: AtomicBool::new(false),
            end_of_input: AtomicBool::new(false),
            spoilt: AtomicBool::new(false),
            last: AtomicBool::new(false),
        }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The phase, and since when. As long as the client has not taken the end of a response, a
    /// request is being served.
    #[must_use]
    pub fn phase(&self) -> (Phase, Instant) {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 if self.blocked.load(Ordering::Relaxed) != 0 => Phase::Busy,
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, self.at(self.since.load(Ordering::Relaxed)))
    }

    /// Bytes have come from the client.
    pub fn received(&self) {
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            self.enter(Phase::Head);
        }
    }

    /// The client will send nothing more.
    pub fn end_of_input(&self) {
        self.end_of_input.store(true, Ordering::Relaxed);
    }

    /// Whether the client has said that it sends nothing more, or the connection is broken.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end_of_input.load(Ordering::Relaxed)
    }

    /// How long the client of the present request may refuse to read.
    pub fn set_patience(&self, patience: Option<Duration>) {
        let micros = patience.map_or(0, |patience| patience.as_micros() as u64);
        self.patience.store(micros, Ordering::Relaxed);
    }

    /// A write found the client reading, or not.
    pub fn wrote(&self, blocked: bool) {
        let before = self.blocked.load(Ordering::Relaxed);
        if !blocked {
            if before != 0 {
                self.blocked.store(0, Ordering::Relaxed);
                if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
                    // The end of a response was still on its way: only now is nothing going on.
                    self.enter(Phase::Idle);
                }
            }
        } else if before == 0 {
            self.blocked.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    /// When a blocked write becomes hopeless.
    #[must_use]
    pub fn write_deadline(&self) -> Option<Instant> {
        let blocked = self.blocked.load(Ordering::Relaxed);
        let patience = self.patience.load(Ordering::Relaxed);
        (blocked != 0 && patience != 0).then(|| self.at(blocked + patience))
    }

    /// A response goes out although the request's body has not been read to its end.
    pub fn leave_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Whether closing at once could destroy a response that the client has not read yet.
    #[must_use]
    pub fn must_linger(&self) -> bool {
        self.unread.load(Ordering::Relaxed) && !self.has_ended()
    }

    /// The response broke off although to its client (of HTTP/1.0) the end of the connection is the
    /// end of the body.
    pub fn spoil(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
    }

    /// Whether an orderly close would make a broken response look whole.
    #[must_use]
    pub fn is_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }

    /// The connection is to end with its present response.
    pub fn make_last(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// Whether the client should be told that it is the last response.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    fn at(&self, micros: u64) -> Instant {
        self.origin + Duration::from_micros(micros)
    }
}

impl Default for Activity {
    fn default() -> Activity {
        Activity::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_its_client_has_taken_everything() {
        let activity = Activity::new();
        activity.enter(Phase::Busy);
        activity.wrote(true);
        activity.enter(Phase::Idle);
        assert_eq!(activity.phase().0, Phase::Busy);
        assert_eq!(activity.write_deadline(), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        activity.wrote(false);
        assert_eq!(activity.phase(), (Phase::Idle, Instant::now()));
    }
}
