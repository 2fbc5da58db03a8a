//! Every client connection that is open: how many, which has been idle longest, and how to tell it
//! something.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::proxy::{Client, Phase};

/// How many candidates for eviction one look at all connections yields.
const CANDIDATES: usize = 64;

/// The least time from one look to the next: when nobody is idle, a flood of newcomers must not
/// make each of them cost a look at everybody.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// What a connection is told to do. A later one never takes back an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Command {
    /// Go on.
    Run = 0,
    /// Close now if idle, else with the present response.
    Drain = 1,
    /// Close now.
    Cut = 2,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Registry {
    max: AtomicU32,
    /// Places in use.
    taken: Arc<AtomicU32>,
    inner: Mutex<Inner>,
    emptied: Notify,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    handles: HashMap<u64, Arc<Handle>>,
    /// Idle connections as they were at the last look, the longest idle last.
    candidates: Vec<(Instant, u64)>,
    looked: Option<Instant>,
    /// What connections are told that come from now on.
    command: Command,
}

/// The right to have one connection open.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicU32>);

/// One connection.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) client: Arc<Client>,
    id: u64,
    command: AtomicU8,
    waker: Mutex<Option<Waker>>,
    /// `None` once it was evicted: its place has gone to another.
    place: Mutex<Option<Place>>,
}

// === impl Registry ===

impl Registry {
    pub(super) fn new(max: u32) -> Registry {
        let inner = Inner {
            next: 0,
            handles: HashMap::new(),
            candidates: Vec::new(),
            looked: None,
            command: Command::Run,
        };
        let (taken, emptied) = (Arc::default(), Notify::new());
        Registry { max: AtomicU32::new(max), taken, inner: Mutex::new(inner), emptied }
    }

    /// Changes the bound. Connections beyond a lower one stay until they end.
    pub(super) fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// A place for one more connection, if need be that of the longest idle, which is closed for
    /// it.
    pub(super) fn place(&self) -> Option<Place> {
        self.free_place().or_else(|| {
            self.evict();
            self.free_place()
        })
    }

    /// Closes the longest idle connection, if there is one, to free what it holds.
    pub(super) fn evict(&self) {
        if let Some(handle) = self.longest_idle() {
            drop(handle.take_place());
            handle.tell(Command::Drain);
        }
    }

    /// Takes a connection in. Pair it with [`Registry::remove`].
    pub(super) fn insert(&self, client: Client, place: Place) -> Arc<Handle> {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let handle = Arc::new(Handle {
            client: Arc::new(client),
            id,
            command: AtomicU8::new(inner.command as u8),
            waker: Mutex::new(None),
            place: Mutex::new(Some(place)),
        });
        inner.handles.insert(id, Arc::clone(&handle));
        handle
    }

    /// A connection has closed.
    pub(super) fn remove(&self, handle: &Handle) {
        let mut inner = self.lock();
        inner.handles.remove(&handle.id);
        drop(handle.take_place());
        if inner.handles.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Connections that are open.
    pub(super) fn alive(&self) -> usize {
        self.lock().handles.len()
    }

    /// Tells every connection, and those to come.
    pub(super) fn command_all(&self, command: Command) {
        let handles: Vec<_> = {
            let mut inner = self.lock();
            inner.command = inner.command.max(command);
            inner.handles.values().cloned().collect()
        };
        handles.iter().for_each(|handle| handle.tell(command));
    }

    /// Waits until no connection is left.
    pub(super) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            // A place without a connection is one on its way from the acceptor to its worker.
            if self.alive() == 0 && self.taken.load(Ordering::Relaxed) == 0 {
                return;
            }
            let _ = timeout(Duration::from_millis(20), emptied).await;
        }
    }

    fn free_place(&self) -> Option<Place> {
        let max = self.max.load(Ordering::Relaxed);
        let next = |taken: u32| (taken < max).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.is_ok().then(|| Place(Arc::clone(&self.taken)))
    }

    /// The connection that has been idle longest and has not been evicted yet.
    fn longest_idle(&self) -> Option<Arc<Handle>> {
        let mut inner = self.lock();
        loop {
            let Some((since, id)) = inner.candidates.pop() else {
                if inner.looked.is_some_and(|looked| looked.elapsed() < BETWEEN_LOOKS) {
                    return None;
                }
                inner.looked = Some(Instant::now());
                inner.look_for_candidates();
                continue;
            };
            let Some(handle) = inner.handles.get(&id) else { continue };
            let idle = handle.client.activity.phase() == (Phase::Idle, since);
            // Who has asked already is only not heard yet, and would be closed without an answer.
            if idle && handle.has_place() && !handle.client.socket.has_unread() {
                return Some(Arc::clone(handle));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }
}

impl Inner {
    /// One look at everybody serves many evictions.
    fn look_for_candidates(&mut self) {
        let idle = self.handles.values().filter_map(|handle| {
            let (phase, since) = handle.client.activity.phase();
            (phase == Phase::Idle && handle.has_place()).then_some((since, handle.id))
        });
        let mut idle: Vec<_> = idle.collect();
        if idle.len() > CANDIDATES {
            idle.select_nth_unstable(CANDIDATES);
            idle.truncate(CANDIDATES);
        }
        idle.sort_unstable_by(|a, b| b.cmp(a));
        self.candidates = idle;
    }
}

// === impl Handle ===

impl Handle {
    /// What the connection is to do.
    pub(super) fn command(&self) -> Command {
        match self.command.load(Ordering::Acquire) {
            0 => Command::Run,
            1 => Command::Drain,
            _ => Command::Cut,
        }
    }

    /// The task that serves the connection; a task's waker stays the same.
    pub(super) fn served_by(&self, waker: &Waker) {
        *self.waker.lock().expect("nothing panics while it holds the lock") = Some(waker.clone());
    }

    fn has_place(&self) -> bool {
        self.place.lock().expect("nothing panics while it holds the lock").is_some()
    }

    fn take_place(&self) -> Option<Place> {
        self.place.lock().expect("nothing panics while it holds the lock").take()
    }

    fn tell(&self, command: Command) {
        self.command.fetch_max(command as u8, Ordering::AcqRel);
        let waker = self.waker.lock().expect("nothing panics while it holds the lock").clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::super::listener::{Acceptor, Listener};
    use super::*;
    use crate::config::Listen;

    #[tokio::test]
    async fn who_has_asked_and_was_not_heard_yet_is_not_idle() {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.address().unwrap().unwrap();
        let acceptor = Acceptor::new(listener).unwrap();
        let registry = Registry::new(3);
        let joined = || {
            let stream = TcpStream::connect(address).unwrap();
            let (socket, _) = acceptor.accept_now().unwrap();
            (stream, registry.insert(Client::new(socket, 0), registry.place().unwrap()))
        };
        let (mut asks, first) = joined();
        let (_silent, second) = joined();
        let (_late, third) = joined();
        asks.write_all(b"G").unwrap();
        assert!(registry.place().is_some());
        let commands = [&first, &second, &third].map(|handle| handle.command());
        assert_eq!(commands, [Command::Run, Command::Drain, Command::Run]);
    }
}
