//! The addresses of an application's host name: asked for when they are needed, kept for a while,
//! and never lost to a resolver that fails.
//!
//! There is no task that asks on its own: an application that nobody calls is not looked up. One
//! question is under way at a time, whoever wants to know.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::UpstreamError;

/// Who needs an address waits so long for a newer answer while there is an older one: a resolver
/// that does not answer must not cost more than that.
const PATIENCE: Duration = Duration::from_millis(250);
/// An answer this young is true, whatever happens: an application that refuses connections must not
/// become a flood of questions.
const YOUNG: Duration = Duration::from_millis(100);
/// After a question without an answer, the next one comes no later.
const RETRY: Duration = Duration::from_secs(1);
/// Connections that are used again ask whether their address still holds, but not more often.
const LOOK: Duration = Duration::from_secs(1);

/// The future of [`Resolve::resolve`].
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Answers what addresses a host name has. Tests bring their own.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses in the order in which they are to be tried. None at all is a failure.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolving<'a>;
}

/// The resolver of the system (`getaddrinfo`): `/etc/hosts`, DNS, and their order (RFC 6724).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

/// What is known of one host name. Shared by all workers.
pub(super) struct Names {
    inner: Arc<Inner>,
    /// The host is an address: there is nothing to ask.
    literal: Option<Arc<[SocketAddr]>>,
}

struct Inner {
    host: String,
    port: u16,
    refresh: Duration,
    resolver: Arc<dyn Resolve>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the last good answer; empty: there was none yet.
    addresses: Arc<[SocketAddr]>,
    /// When it was last asked for; none: never, or the answer is doubted.
    asked: Option<Instant>,
    /// The last question had no answer.
    failed: bool,
    /// Closed when the question that is under way is answered, or given up.
    flight: Option<watch::Receiver<()>>,
}

// === impl Names ===

impl Names {
    pub(super) fn new(
        host: &str,
        port: u16,
        refresh: Duration,
        resolver: Arc<dyn Resolve>,
    ) -> Names {
        let literal = host.parse::<IpAddr>().ok();
        let literal = literal.map(|ip| Arc::from([SocketAddr::new(ip, port)]));
        let host = host.to_owned();
        let state = Mutex::new(State::default());
        Names { inner: Arc::new(Inner { host, port, refresh, resolver, state }), literal }
    }

    /// Addresses that are not older than they may be, as far as the resolver answers.
    pub(super) async fn current(&self) -> Result<Arc<[SocketAddr]>, UpstreamError> {
        if let Some(literal) = &self.literal {
            return Ok(Arc::clone(literal));
        }
        let flight = {
            let mut state = self.inner.lock();
            let due = state.is_due(self.inner.refresh);
            due.then(|| Inner::ask(&self.inner, &mut state))
        };
        self.answer(flight).await
    }

    /// After connecting to all of `tried` has failed: addresses that differ, if the name has got
    /// some.
    pub(super) async fn again(&self, tried: &[SocketAddr]) -> Option<Arc<[SocketAddr]>> {
        if self.literal.is_some() {
            return None;
        }
        let flight = {
            let mut state = self.inner.lock();
            (!state.is_young()).then(|| Inner::ask(&self.inner, &mut state))
        };
        let addresses = self.answer(flight).await.ok()?;
        (!same(&addresses, tried)).then_some(addresses)
    }

    /// The addresses may be out of date: the next one who needs them asks.
    pub(super) fn doubt(&self) {
        let mut state = self.inner.lock();
        if !state.is_young() {
            state.asked = None;
        }
    }

    /// Whether the name still has the address, as far as is known. Has it asked for now and then,
    /// so that a name that moves is noticed while the old connections are in use.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        if self.literal.is_some() {
            return true;
        }
        let mut state = self.inner.lock();
        if state.is_due(self.inner.refresh.max(LOOK)) && Handle::try_current().is_ok() {
            Inner::ask(&self.inner, &mut state);
        }
        state.addresses.is_empty() || state.addresses.contains(&address)
    }

    /// Waits for the answer: without any address until it comes, else not for long.
    async fn answer(
        &self,
        flight: Option<watch::Receiver<()>>,
    ) -> Result<Arc<[SocketAddr]>, UpstreamError> {
        if let Some(mut flight) = flight {
            let bounded = !self.inner.lock().addresses.is_empty();
            // An error is what is waited for: the question is no longer under way.
            if bounded {
                let _ = timeout(PATIENCE, flight.changed()).await;
            } else {
                let _ = flight.changed().await;
            }
        }
        let addresses = Arc::clone(&self.inner.lock().addresses);
        if addresses.is_empty() { Err(UpstreamError::DnsError) } else { Ok(addresses) }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("host", &self.inner.host).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// Asks, unless somebody has. The question belongs to nobody: who asked may leave.
    fn ask(this: &Arc<Inner>, state: &mut State) -> watch::Receiver<()> {
        let under_way = state.flight.as_ref().filter(|flight| flight.has_changed().is_ok());
        if let Some(flight) = under_way {
            return flight.clone();
        }
        let (answered, flight) = watch::channel(());
        state.flight = Some(flight.clone());
        let inner = Arc::clone(this);
        tokio::spawn(async move {
            let answer = inner.resolver.resolve(&inner.host, inner.port).await;
            inner.learn(answer);
            drop(answered);
        });
        flight
    }

    fn learn(&self, answer: io::Result<Vec<SocketAddr>>) {
        let mut state = self.lock();
        state.asked = Some(Instant::now());
        let (host, failed_before) = (self.host.as_str(), state.failed);
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                let addresses = interleaved(addresses);
                if !state.addresses.is_empty() && !same(&state.addresses, &addresses) {
                    tracing::info!(host, ?addresses, "the upstream's addresses have changed");
                }
                state.addresses = addresses.into();
                state.failed = false;
            }
            failed => {
                state.failed = true;
                if !failed_before {
                    let error = failed.err().map_or("no address".to_owned(), |e| e.to_string());
                    let kept = state.addresses.len();
                    tracing::warn!(host, error, kept, "the upstream's name cannot be resolved");
                }
            }
        }
    }
}

// === impl State ===

impl State {
    fn is_due(&self, refresh: Duration) -> bool {
        let refresh = if self.failed { refresh.min(RETRY) } else { refresh };
        self.addresses.is_empty() || self.asked.is_none_or(|asked| asked.elapsed() >= refresh)
    }

    fn is_young(&self) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < YOUNG)
    }
}

// === impl SystemResolver ===

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolving<'a> {
        Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
    }
}

/// The order of RFC 8305, section 4: the families take turns, the resolver's first one first, so
/// that a family without a way out costs one attempt and not all the time there is.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut ordered = Vec::new();
    for address in first {
        ordered.push(address);
        ordered.extend(second.next());
    }
    ordered.extend(second);
    ordered
}

/// Whether both hold the same addresses, in whatever order.
fn same(a: &[SocketAddr], b: &[SocketAddr]) -> bool {
    a.len() == b.len() && a.iter().all(|address| b.contains(address))
}

#[cfg(test)]
pub(super) mod testing {
    //! A resolver that answers as it is told.

    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives its answers one after the other, the last one for ever.
    pub(in crate::upstream) struct Script {
        answers: Mutex<VecDeque<Option<Vec<SocketAddr>>>>,
        pub(in crate::upstream) asked: AtomicUsize,
    }

    impl Script {
        /// `None`: never answers. An empty list: fails.
        pub(in crate::upstream) fn new(answers: &[Option<&[SocketAddr]>]) -> Arc<Script> {
            let answers = answers.iter().map(|answer| answer.map(<[_]>::to_vec)).collect();
            Arc::new(Script { answers: Mutex::new(answers), asked: AtomicUsize::new(0) })
        }

        pub(in crate::upstream) fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    impl Resolve for Script {
        fn resolve<'a>(&'a self, _: &'a str, _: u16) -> Resolving<'a> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut answers = self.answers.lock().expect("no test panics here");
            let last = answers.len() == 1;
            let answer =
                if last { answers[0].clone() } else { answers.pop_front().expect("one is left") };
            Box::pin(async move {
                match answer {
                    None => std::future::pending().await,
                    Some(answer) if answer.is_empty() => Err(io::ErrorKind::NotFound.into()),
                    Some(answer) => Ok(answer),
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Script;
    use super::*;

    const REFRESH: Duration = Duration::from_secs(5);

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn names(script: &Arc<Script>) -> Names {
        Names::new("app", 80, REFRESH, Arc::clone(script) as Arc<dyn Resolve>)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_while_and_an_old_address_is_noticed() {
        let script = Script::new(&[Some(&[at(1)]), Some(&[at(2)])]);
        let names = names(&script);
        assert_eq!(*names.current().await.unwrap(), [at(1)]);
        tokio::time::advance(REFRESH - Duration::from_millis(1)).await;
        assert_eq!(*names.current().await.unwrap(), [at(1)]);
        assert!(names.has(at(1)) && script.asked() == 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(*names.current().await.unwrap(), [at(2)]);
        assert!(!names.has(at(1)) && names.has(at(2)) && script.asked() == 2);
    }

    #[tokio::test(start_paused = true)]
    async fn using_old_connections_asks_too() {
        let script = Script::new(&[Some(&[at(1)]), Some(&[at(2)])]);
        let names = names(&script);
        names.current().await.unwrap();
        tokio::time::advance(REFRESH).await;
        assert!(names.has(at(1)), "the answer is on its way");
        while names.has(at(1)) {
            tokio::task::yield_now().await;
        }
        assert_eq!(script.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_outlives_failures_and_silence() {
        let script = Script::new(&[Some(&[at(1)]), Some(&[]), None]);
        let names = names(&script);
        names.current().await.unwrap();
        tokio::time::advance(REFRESH).await;
        assert_eq!(*names.current().await.unwrap(), [at(1)], "it fails");
        tokio::time::advance(RETRY).await;
        let began = Instant::now();
        assert_eq!(*names.current().await.unwrap(), [at(1)], "it is silent");
        assert_eq!((began.elapsed(), script.asked()), (PATIENCE, 3));
        names.current().await.unwrap();
        assert_eq!(script.asked(), 3, "one question at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_answer_there_is_none() {
        let script = Script::new(&[Some(&[]), Some(&[at(1)])]);
        let names = names(&script);
        assert_eq!(names.current().await, Err(UpstreamError::DnsError));
        assert_eq!(*names.current().await.unwrap(), [at(1)], "asked again at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connection_asks_at_once_but_not_in_a_flood() {
        let script = Script::new(&[Some(&[at(1)]), Some(&[at(1)]), Some(&[at(2), at(1)])]);
        let names = names(&script);
        let tried = names.current().await.unwrap();
        assert_eq!((names.again(&tried).await, script.asked()), (None, 1), "it is young");
        tokio::time::advance(YOUNG).await;
        assert_eq!((names.again(&tried).await, script.asked()), (None, 2), "nothing new");
        tokio::time::advance(YOUNG).await;
        assert_eq!(*names.again(&tried).await.unwrap(), [at(2), at(1)]);
        tokio::time::advance(YOUNG).await;
        names.doubt();
        names.current().await.unwrap();
        assert_eq!(script.asked(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_was_given_up_is_asked_again() {
        let script = Script::new(&[None, Some(&[at(1)])]);
        let names = Arc::new(names(&script));
        let other = tokio::runtime::Builder::new_current_thread();
        let asking = Arc::clone(&names);
        // Its runtime ends, and the question with it.
        std::thread::spawn(move || {
            let mut other = other;
            let runtime = other.enable_time().build().unwrap();
            runtime.block_on(async { timeout(Duration::ZERO, asking.current()).await.is_err() })
        })
        .join()
        .unwrap();
        assert_eq!(*names.current().await.unwrap(), [at(1)]);
    }

    #[test]
    fn families_take_turns() {
        let v6 = |last| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, last], 80));
        let mixed = vec![v6(1), v6(2), v6(3), at(1)];
        assert_eq!(interleaved(mixed), [v6(1), at(1), v6(2), v6(3)]);
        assert_eq!(interleaved(vec![at(1), v6(1), v6(2)]), [at(1), v6(1), v6(2)]);
        assert_eq!(interleaved(Vec::new()), []);
    }

    #[tokio::test]
    async fn addresses_are_not_looked_up() {
        let script = Script::new(&[None]);
        let names = Names::new("::1", 80, REFRESH, Arc::clone(&script) as Arc<dyn Resolve>);
        assert_eq!(names.current().await.unwrap()[0], "[::1]:80".parse().unwrap());
        assert!(names.has(at(1)) && names.again(&[]).await.is_none());
        assert_eq!(script.asked(), 0);
    }
}
