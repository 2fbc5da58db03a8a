//! An application that takes no connections for a while, such as during its restart.
//!
//! The request that notices keeps its slot, and the gate is paused: everybody else waits in the
//! queue, within its bounds. From then on one task alone looks whether the application is back, so
//! that no crowd knocks at its door; then all go on. What becomes of a pause that lasts is the
//! gate's to say.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::backend::Backend;
use crate::admission::Admission;

/// From one look to the next, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Whether the application of a gate is away.
#[derive(Debug)]
pub(super) struct Outage {
    /// `None`: it is there, as far as is known.
    search: watch::Sender<Option<Search>>,
}

/// The search for an application that is away; dropped, it ends.
#[derive(Debug)]
struct Search {
    began: Instant,
    task: AbortHandle,
}

// === impl Outage ===

impl Outage {
    pub(super) fn none() -> Outage {
        Outage { search: watch::Sender::new(None) }
    }

    /// Waits until the application is back, which has just been found away; `false`: it is not by
    /// `until`, which is asked again where [`Outage::reconsider`] says so. A connection will be
    /// looked for on `worker`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the wait, and not the outage.
    pub(super) async fn wait(
        backend: &Arc<Backend>,
        worker: usize,
        until: impl Fn() -> Instant,
    ) -> bool {
        let outage = &backend.outage;
        outage.begin(&backend.admission, || {
            let (sought, kept) = (Arc::downgrade(backend), Arc::downgrade(backend));
            let search = tokio::spawn(async move {
                tokio::select! {
                    () = look_for(sought, worker) => {}
                    () = keep_time(kept) => {}
                }
            });
            Search { began: Instant::now(), task: search.abort_handle() }
        });
        let mut search = outage.search.subscribe();
        while search.borrow_and_update().is_some() {
            if !timeout_at(until(), search.changed()).await.is_ok_and(|changed| changed.is_ok()) {
                return false;
            }
        }
        true
    }

    /// Another configuration holds for longer, or not for as long.
    pub(super) fn reconsider(&self) {
        self.search.send_modify(|_| {});
    }

    /// The application has answered over a connection that was asked for at `asked`: if that was
    /// after it had been found away, it is back. The search alone might not find out, where that
    /// connection is the last that there may be.
    pub(super) fn got_through(&self, admission: &Admission, asked: Instant) {
        let is_over = |search: &Search| search.began < asked;
        if self.search.borrow().as_ref().is_some_and(is_over) {
            self.end(admission);
        }
    }

    /// The application is back, or nobody is to wait for it any more.
    pub(super) fn end(&self, admission: &Admission) {
        self.search.send_if_modified(|search| {
            let search = search.take();
            if search.is_some() {
                admission.resume();
            }
            search.is_some()
        });
    }

    fn begin(&self, admission: &Admission, look: impl FnOnce() -> Search) {
        self.search.send_if_modified(|search| {
            if search.is_some() {
                return false;
            }
            *search = Some(look());
            admission.pause();
            true
        });
    }
}

/// Tries to connect until that works.
async fn look_for(backend: Weak<Backend>, worker: usize) {
    let began = Instant::now();
    let (mut pause, mut given_up) = (LOOK.0, false);
    if let Some(backend) = backend.upgrade() {
        let hold = backend.hold();
        tracing::warn!(
            upstream = backend.name(),
            ?hold,
            "the application takes no connections; requests wait for it"
        );
    }
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
        let Some(backend) = backend.upgrade() else { return };
        // With a slot, and usually on this worker.
        let somebody_waits = backend.outage.search.receiver_count() > 0;
        match backend.way().pool.open_spare(worker, somebody_waits).await {
            Err(error) if error.is_away() || error.is_shortage() => {}
            // That it does not speak as it should is for the requests to tell.
            Ok(()) | Err(_) => {
                let away = began.elapsed();
                tracing::info!(upstream = backend.name(), ?away, "the application is back");
                backend.note(Ok(()));
                return backend.outage.end(&backend.admission);
            }
        }
        if began.elapsed() < backend.hold() {
            continue;
        }
        if backend.is_retired() {
            // Nobody comes any more, and nobody is left.
            return backend.outage.end(&backend.admission);
        }
        if !given_up {
            given_up = true;
            tracing::warn!(
                upstream = backend.name(),
                "the application is still away; requests are turned away until it is back"
            );
        }
    }
}

/// Turns away whom the pause keeps no longer. Who came before it had set its timer by `max_wait`,
/// and another configuration may hold for less.
async fn keep_time(backend: Weak<Backend>) {
    loop {
        let Some(next) = backend.upgrade().map(|backend| backend.admission.turn_away_overdue())
        else {
            return;
        };
        let soon = Instant::now() + LOOK.1;
        sleep_until(next.map_or(soon, |next| next.min(soon))).await;
    }
}

// === impl Search ===

impl Drop for Search {
    fn drop(&mut self) {
        self.task.abort();
    }
}
