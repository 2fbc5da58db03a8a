//! What a request knows of the connection it came on, and tells it.
//!
//! hyper does not read the socket while a request's body is unread, so that it cannot see a client
//! leave the queue in the middle of an upload. The socket is therefore shared: the waiting request
//! watches it for its end, without reading. On a connection of HTTP/2 h2 always reads, and a
//! request whose stream was reset is dropped.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::forwarded::Peer;
use super::interim::Interims;
use super::tunnel::Tunnel;
use crate::net::Socket;

/// A connection of HTTP/2 outlives a stream that is given up by so long.
const LEEWAY: Duration = Duration::from_secs(1);

/// A client's connection, as its requests see it.
#[derive(Debug)]
pub struct Client {
    /// The socket; only its owner reads and writes it.
    pub socket: Arc<Socket>,
    /// The worker that serves it.
    pub worker: usize,
    /// What the connection is doing.
    pub activity: Activity,
    /// What is said before a response of HTTP/1.1; each stream of HTTP/2 has its own.
    pub interims: Arc<Interims>,
    peer: OnceLock<Peer>,
    tunnel: Mutex<Option<Tunnel>>,
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
    /// Requests that are being served.
    open: AtomicU32,
    /// Several at once: HTTP/2.
    multiplexed: AtomicBool,
    /// Of HTTP/1: what came last does not end as a head does.
    goes_on: AtomicBool,
    /// Of HTTP/2: something that was asked for has not been written to its end.
    delivering: AtomicBool,
    /// Of HTTP/2: microseconds from `origin` to the last write of a response.
    progress: AtomicU64,
    /// Of HTTP/2: microseconds from `origin` to the beginning of a head that is coming; 0: none.
    heading: AtomicU64,
    /// Of HTTP/2: microseconds from `origin` to the last read.
    heard: AtomicU64,
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
    /// Of a socket that a worker serves.
    #[must_use]
    pub fn new(socket: Socket, worker: usize) -> Client {
        Client {
            socket: Arc::new(socket),
            worker,
            activity: Activity::new(),
            interims: Arc::default(),
            peer: OnceLock::new(),
            tunnel: Mutex::new(None),
        }
    }

    /// Says who is at the other end, once, before the first request.
    pub fn introduce(&self, peer: Peer) {
        // A second introduction would be a bug elsewhere, and changes nothing.
        let _ = self.peer.set(peer);
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        self.peer.get_or_init(|| Peer::new(SocketAddr::from(([0, 0, 0, 0], 0)), false))
    }

    /// Resolves when the client has left; never on a connection of HTTP/2, where h2 tells.
    ///
    /// # Cancel safety
    ///
    /// Nothing is read; dropping the future loses nothing.
    pub async fn gone(&self) {
        if self.activity.is_multiplexed() {
            return std::future::pending().await;
        }
        self.socket.hung_up().await;
    }

    /// Resolves when more comes from a client of HTTP/1, which hyper does not read as long as
    /// nobody wants it; never on a connection of HTTP/2, where streams have their own.
    pub(super) fn sends(&self) -> impl Future<Output = ()> + Send + use<> {
        let socket = (!self.activity.is_multiplexed()).then(|| Arc::clone(&self.socket));
        async move {
            match socket {
                Some(socket) => socket.readable().await,
                None => std::future::pending().await,
            }
        }
    }

    /// The connection is to carry a tunnel once its present response is written.
    pub(super) fn give_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel() = Some(tunnel);
    }

    /// Whether the connection has left HTTP.
    #[must_use]
    pub fn has_tunnel(&self) -> bool {
        self.tunnel().is_some()
    }

    /// The tunnel that the connection has become, if it has.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel().take()
    }

    fn tunnel(&self) -> MutexGuard<'_, Option<Tunnel>> {
        self.tunnel.lock().expect("nothing panics while it holds the lock")
    }
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
            open: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            goes_on: AtomicBool::new(false),
            delivering: AtomicBool::new(false),
            progress: AtomicU64::new(0),
            heading: AtomicU64::new(0),
            heard: AtomicU64::new(0),
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
            0 if self.delivering.load(Ordering::Relaxed) => Phase::Busy,
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, self.at(self.since.load(Ordering::Relaxed)))
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.enter(Phase::Busy);
    }

    /// A request has ended.
    pub(super) fn end(&self) {
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.enter(Phase::Idle);
        }
    }

    /// From now on requests come side by side (HTTP/2).
    pub fn multiplex(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    /// Whether requests come side by side.
    #[must_use]
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// Bytes have come from the client.
    pub fn received(&self) {
        if self.is_multiplexed() {
            return;
        }
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            self.enter(Phase::Head);
        }
    }

    /// Of HTTP/1: something has come, and ends as a head does, or not.
    pub fn came(&self, ends_a_head: bool) {
        self.goes_on.store(!ends_a_head, Ordering::Relaxed);
    }

    /// Of HTTP/1: whether something has come behind the head that was read last.
    pub(super) fn has_more(&self) -> bool {
        !self.is_multiplexed() && self.goes_on.load(Ordering::Relaxed)
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

    /// Whether a body that broke off means that nobody waits for the answer.
    pub(super) fn broke_off(&self) -> bool {
        self.has_ended() || self.is_multiplexed()
    }

    /// How long the client of the present request may refuse to read. Among requests side by side
    /// the most patient decides: what is blocked is the connection of all of them.
    pub fn set_patience(&self, patience: Option<Duration>) {
        let micros = patience.map_or(0, |patience| patience.as_micros() as u64);
        if self.is_multiplexed() && self.open.load(Ordering::Relaxed) > 1 {
            let before = self.patience.load(Ordering::Relaxed);
            let most = if before == 0 || micros == 0 { 0 } else { micros.max(before) };
            self.patience.store(most, Ordering::Relaxed);
        } else {
            self.patience.store(micros, Ordering::Relaxed);
        }
    }

    /// A write found the client reading, or not.
    pub fn wrote(&self, blocked: bool) {
        let before = self.blocked.load(Ordering::Relaxed);
        if !blocked {
            if before != 0 {
                self.blocked.store(0, Ordering::Relaxed);
                // Who takes what it has not taken for a while is there, even if it says nothing.
                self.heard.store(self.now(), Ordering::Relaxed);
                if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
                    // The end of a response was still on its way: only now is nothing going on.
                    self.enter(Phase::Idle);
                }
            }
        } else if before == 0 {
            self.blocked.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    /// Of HTTP/2: more has come. `delivering`: something that was asked for has not been written to
    /// its end; `heading`: since when a head is coming.
    pub fn asked(&self, delivering: bool, heading: Option<Instant>) {
        self.delivers(delivering);
        let since = heading.map_or(0, |since| self.micros(since).max(1));
        self.heading.store(since, Ordering::Relaxed);
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// Of HTTP/2: when the client last said anything.
    #[must_use]
    pub fn heard(&self) -> Instant {
        self.at(self.heard.load(Ordering::Relaxed))
    }

    /// Of HTTP/2: more of what was asked for has been written.
    pub fn delivered(&self) {
        self.progress.store(self.now(), Ordering::Relaxed);
    }

    /// Of HTTP/2: whether something that was asked for has not been written to its end.
    pub fn delivers(&self, delivering: bool) {
        let before = self.delivering.swap(delivering, Ordering::Relaxed);
        if before && !delivering && self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            // As with a blocked write: only now is nothing going on.
            self.enter(Phase::Idle);
        }
    }

    /// Of HTTP/2: when a head that is coming must have come.
    #[must_use]
    pub fn head_deadline(&self, within: Duration) -> Option<Instant> {
        let since = self.heading.load(Ordering::Relaxed);
        (since != 0).then(|| self.at(since) + within)
    }

    /// Of HTTP/2: when the client must have taken more of what is left to deliver, where nothing
    /// else is going on. It has longer than in the middle of a response, or than `otherwise`: a
    /// stream whose window stays shut gives up by itself, and leaves the others alone.
    #[must_use]
    pub fn delivery_deadline(&self, otherwise: Duration) -> Option<Instant> {
        let idle = self.phase.load(Ordering::Relaxed) == Phase::Idle as u8;
        let delivering = self.delivering.load(Ordering::Relaxed);
        let patience = match self.patience.load(Ordering::Relaxed) {
            0 => otherwise,
            micros => Duration::from_micros(micros),
        };
        let since = self.since.load(Ordering::Relaxed).max(self.progress.load(Ordering::Relaxed));
        (idle && delivering).then(|| self.at(since) + patience + LEEWAY)
    }

    /// Whether the last write found the client not reading.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) != 0
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

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_micros() as u64
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
        // And that says as much as a word of its own.
        assert_eq!(activity.heard(), Instant::now());
    }
}
