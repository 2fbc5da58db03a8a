//! `/events`: what the page shows, as server-sent events.
//!
//! One task takes one sample a second for all pages. An event is encoded once, and its bytes are
//! shared. A page that does not keep up is let go; it comes back by itself, and gets what it
//! missed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::State;
use super::facts;
use super::history::History;
use super::sample::{Sample, Sampler};
use super::verdict::Verdict;
use crate::config::Config;
use crate::telemetry::access::Rejected;

/// Pages at once. One takes a connection, a descriptor and some 30 KiB.
pub(super) const MAX_PAGES: usize = 128;
/// Events that a page may be behind before it is let go.
const BEHIND: usize = 8;
/// Events, about one a second, after which a page has to come back: below the longest life of an
/// admin connection, so that the stream ends in order.
const MAX_EVENTS: u32 = 240;
/// Seconds that a verdict looks back.
const WINDOW: usize = 5;

/// The events and who gets them.
#[derive(Debug)]
pub(super) struct Feed {
    /// When the process began to serve.
    started: SystemTime,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    number: u64,
    facts: Arc<Bytes>,
    history: History,
    /// The latest event `now`.
    now: Bytes,
    pages: Vec<mpsc::Sender<Bytes>>,
    samples: VecDeque<Sample>,
    verdict: Option<Verdict>,
}

/// The stream that one page reads.
#[derive(Debug)]
pub(super) struct Events {
    events: mpsc::Receiver<Bytes>,
    left: u32,
}

// === impl Feed ===

impl Feed {
    pub(super) fn new(state: &State) -> Arc<Feed> {
        let started = SystemTime::now().checked_sub(state.started.elapsed());
        let started = started.unwrap_or_else(SystemTime::now);
        let inner = Inner {
            facts: text(facts::facts(state, &state.running.load().config, started)),
            ..Inner::default()
        };
        Arc::new(Feed { started, inner: Mutex::new(inner) })
    }

    /// Takes a sample a second, for ever.
    pub(super) async fn run(self: Arc<Feed>, state: Arc<State>) {
        let mut sampler = Sampler::default();
        let mut clock = interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let proxy = state.proxy();
            proxy.access().new_second();
            let running = state.running.load_full();
            if let Some(sample) = sampler.take(&state, &running.config) {
                self.publish(&state, &running.config, sample, &proxy.access().recent());
            }
        }
    }

    fn publish(&self, state: &State, config: &Config, sample: Sample, rejections: &[Rejected]) {
        let facts = facts::facts(state, config, self.started);
        let names = facts::names(config);
        let mut inner = self.lock();
        let mut fresh = Vec::new();
        if inner.facts[..] != *facts.as_bytes() {
            inner.facts = text(facts);
            fresh.extend_from_slice(&inner.facts);
            // The rows of earlier samples may be other routes.
            inner.samples.clear();
        }
        inner.number += 1;
        let event = Bytes::from(facts::sample(&self.id(inner.number), &sample));
        if inner.samples.len() == WINDOW {
            inner.samples.pop_front();
        }
        inner.samples.push_back(sample);
        if let Some(window) = Sample::over(&inner.samples) {
            let verdict = Verdict::of(&window, &names, inner.verdict.as_ref());
            inner.now = Bytes::from(facts::now(&verdict, rejections));
            inner.verdict = Some(verdict);
        }
        fresh.extend_from_slice(&event);
        fresh.extend_from_slice(&inner.now);
        let (number, facts) = (inner.number, Arc::clone(&inner.facts));
        inner.history.push(number, &facts, event);
        let fresh = Bytes::from(fresh);
        inner.pages.retain(|page| page.try_send(fresh.clone()).is_ok());
    }

    /// One page more, which has seen everything up to the event of this id; `None`: there are too
    /// many.
    pub(super) fn open(&self, last: Option<&str>) -> Option<Events> {
        let mut inner = self.lock();
        inner.pages.retain(|page| !page.is_closed());
        if inner.pages.len() >= MAX_PAGES {
            return None;
        }
        let (sender, events) = mpsc::channel(BEHIND);
        let mut first = b"retry: 1000\n\n".to_vec();
        let replay = inner.history.replay(last.and_then(|last| self.number(last)));
        if replay.is_empty() {
            first.extend_from_slice(&inner.facts);
        } else {
            first.extend_from_slice(&replay);
        }
        first.extend_from_slice(&inner.now);
        // There is room for the first.
        let _ = sender.try_send(Bytes::from(first));
        inner.pages.push(sender);
        Some(Events { events, left: MAX_EVENTS })
    }

    /// Ends every stream.
    pub(super) fn close(&self) {
        self.lock().pages.clear();
    }

    /// What is said at present, and the last seconds as one.
    pub(super) fn latest(&self) -> (Option<Verdict>, Option<Sample>) {
        let inner = self.lock();
        (inner.verdict.clone(), Sample::over(&inner.samples))
    }

    /// An id that no other process gives: a restarted one begins anew.
    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch())
    }

    fn number(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.split_once('-')?;
        let number = number.parse().ok()?;
        (epoch == self.epoch().to_string()).then_some(number)
    }

    fn epoch(&self) -> u64 {
        (facts::unix(self.started) * 1e3) as u64
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whole between any two statements that can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(text: String) -> Arc<Bytes> {
    Arc::new(Bytes::from(text))
}

// === impl Events ===

impl Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.events.poll_recv(cx));
        self.left -= 1;
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}
