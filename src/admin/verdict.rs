//! What happens to the application, in one sentence of plain words: for the top of the page and of
//! `tidegate status`.
//!
//! Pure: it judges the last few seconds, and remembers only since when it says the same.

use std::time::{Duration, SystemTime};

use super::sample::{RouteSample, Sample, UpstreamSample};
use crate::gate::RejectReason;

/// Fewer of all requests turned away than this are not called an overload.
const FEW: f64 = 0.005;
/// From this part of requests that fail on, the application is what is wrong.
const MANY_FAIL: f64 = 0.05;
/// From this part of the slots on, all are in use.
const FULL: f64 = 0.9;

/// What kind of situation it is; the worst comes first where several hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Draining,
    Down,
    Failing,
    Overloaded,
    Shadow,
    Busy,
    Good,
    Idle,
}

/// The sentence, and a second one that says why, or what to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) text: String,
    pub(super) detail: String,
    /// Since when the level is the same.
    pub(super) since: SystemTime,
}

/// Names that a verdict needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) routes: Vec<String>,
    /// The upstream of each route.
    pub(super) upstream_of: Vec<usize>,
    /// Name and address.
    pub(super) upstreams: Vec<(String, String)>,
}

// === impl Level ===

impl Level {
    pub(super) fn label(self) -> &'static str {
        match self {
            Level::Draining => "draining",
            Level::Down => "down",
            Level::Failing => "failing",
            Level::Overloaded => "overloaded",
            Level::Shadow => "shadow",
            Level::Busy => "busy",
            Level::Good => "good",
            Level::Idle => "idle",
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Judges the last seconds.
    pub(super) fn of(window: &Sample, names: &Names, before: Option<&Verdict>) -> Verdict {
        let (level, text, detail) = judge(window, names);
        let since = before.filter(|before| before.level == level).map(|before| before.since);
        let second = Duration::from_secs(1);
        let since = since.unwrap_or(window.at.checked_sub(second).unwrap_or(window.at));
        Verdict { level, text: text(&ago(window.at, since)), detail, since }
    }
}

/// A headline that leaves room for how long it has been so.
type Headline = Box<dyn Fn(&str) -> String>;

fn judge(window: &Sample, names: &Names) -> (Level, Headline, String) {
    let total = Total::of(window);
    if window.draining {
        let left = count(total.in_flight.round() as u64, "request is", "requests are");
        let detail = format!("{left} being finished; /ready says no to new ones.");
        return (Level::Draining, Box::new(|ago| format!("Shutting down, for {ago}")), detail);
    }
    if let Some(index) = window.upstreams.iter().position(|upstream| !upstream.up) {
        return down(window, names, index, &total);
    }
    let ended = (total.answered + total.failed).max(1);
    let failing = total.failed as f64 / ended as f64;
    if failing >= MANY_FAIL && total.failed > 1 {
        let part = percent(failing);
        let detail = "The answers are missing or broken; the reasons are in \
                      tidegate_upstream_errors_total and in the log."
            .to_owned();
        let text = move |ago: &str| {
            format!("The app fails: {part} of its requests get no answer, for {ago}")
        };
        return (Level::Failing, Box::new(text), detail);
    }
    let turned_away = total.turned_away as f64 / total.arrivals.max(1) as f64;
    if turned_away >= FEW {
        return overloaded(window, names, &total);
    }
    let gave_up = total.abandoned as f64 / total.arrivals.max(total.abandoned).max(1) as f64;
    if gave_up >= MANY_FAIL && total.abandoned > 1 {
        let part = percent(gave_up);
        let detail =
            "Clients leave before a slot comes free. A shorter max_wait tells them sooner; \
                      more capacity serves them."
                .to_owned();
        let text = move |ago: &str| {
            format!("Too slow for {part} of clients: they left the queue, for {ago}")
        };
        return (Level::Overloaded, Box::new(text), detail);
    }
    let shadow = total.shadow as f64 / total.arrivals.max(1) as f64;
    if shadow >= FEW {
        let part = percent(shadow);
        let detail = "enforce = false lets everybody in, and counts.".to_owned();
        let text = move |ago: &str| format!("Shadow mode: {part} would be turned away, for {ago}");
        return (Level::Shadow, Box::new(text), detail);
    }
    calm(window, &total)
}

/// Nobody is turned away.
fn calm(window: &Sample, total: &Total) -> (Level, Headline, String) {
    let slots = slots(total.in_flight, total.limit);
    if total.arrivals == 0 && total.in_flight < 0.5 {
        let detail = "Nobody asks for anything at the moment.".to_owned();
        return (Level::Idle, Box::new(|_| "Idle: no requests".to_owned()), detail);
    }
    let rate = total.answered as f64 / window.seconds;
    let detail = match total.service {
        Some(time) => {
            format!("The app answers {} a second, in {} on average.", number(rate), ms(time))
        }
        None => format!("The app answers {} a second.", number(rate)),
    };
    let waiting = total.queue.round() as u64;
    if waiting >= 1 {
        let waits = count(waiting, "request waits", "requests wait");
        let time = total.wait.map_or(String::new(), |time| format!(", {} on average", ms(time)));
        let detail = format!("{detail} The queue absorbs the rest; nobody is turned away.");
        let text = format!("Busy: {slots}, {waits}{time}");
        return (Level::Busy, Box::new(move |_| text.clone()), detail);
    }
    let text = format!("All good: {slots}, nobody waits");
    (Level::Good, Box::new(move |_| text.clone()), detail)
}

fn down(window: &Sample, names: &Names, index: usize, total: &Total) -> (Level, Headline, String) {
    let (name, address) = &names.upstreams[index];
    let who = if names.upstreams.len() > 1 { format!("The app {name}") } else { "The app".into() };
    let waiting = total.queue.round() as u64;
    let upstream = &window.upstreams[index];
    let detail = match (upstream.paused, upstream.hold_left.as_secs_f64().ceil()) {
        (false, _) => {
            format!(
                "The last attempt to connect to {address} failed. The next request tries again."
            )
        }
        (true, 0.0) => {
            format!("Requests are turned away until {address} accepts connections again.")
        }
        (true, left) => {
            let waits = count(waiting, "request waits", "requests wait");
            format!(
                "{waits} in the queue until {address} accepts connections again, for at most {left} \
                 s more."
            )
        }
    };
    let text = move |ago: &str| format!("{who} cannot be reached, for {ago}");
    (Level::Down, Box::new(text), detail)
}

fn overloaded(window: &Sample, names: &Names, total: &Total) -> (Level, Headline, String) {
    // Those who came before the window may be turned away in it.
    let part = total.turned_away as f64 / total.arrivals.max(total.turned_away) as f64;
    let turned_away = percent(part);
    let because = because(total.reason);
    let text = move |ago: &str| {
        format!("Overloaded: {turned_away} of requests are turned away, for {ago}, {because}")
    };
    let routes = window.routes.iter().enumerate();
    let worst = routes.max_by_key(|(_, route)| route.turned_away()).map_or(0, |(index, _)| index);
    let (route, upstream) = (&window.routes[worst], names.upstream_of[worst]);
    let upstream = &window.upstreams[upstream];
    let rate = number(total.answered as f64 / window.seconds);
    let detail = if is_full(upstream.in_flight, upstream.limit) {
        held_open(upstream).unwrap_or_else(|| does_what_it_can(upstream, total, &rate))
    } else if is_full(route.in_flight, route.limit) {
        let name = &names.routes[worst];
        let slots = slots(route.in_flight, route.limit);
        format!("The route {name} is held to a limit of its own: {slots}.")
    } else {
        format!("The app answers {rate} requests a second.")
    };
    (Level::Overloaded, Box::new(text), detail)
}

/// Where half of the slots or more are held by responses that stay open, these are the reason.
fn held_open(upstream: &UpstreamSample) -> Option<String> {
    let UpstreamSample { open, limit, .. } = *upstream;
    (2 * open >= limit).then(|| {
        format!(
            "{open} of {limit} slots are held by responses that stay open (WebSocket, event \
             stream). Routes with kind = \"stream\" have a bound of their own for them."
        )
    })
}

fn does_what_it_can(upstream: &UpstreamSample, total: &Total, rate: &str) -> String {
    let slots = slots(upstream.in_flight, upstream.limit);
    if total.answered + total.failed == 0 {
        return format!(
            "No request ends: {slots}. The app hangs, or its answers take as long as streams do: \
             those belong on a route with kind = \"stream\"."
        );
    }
    format!("The app does what it can: {rate} answers a second, {slots}. {}", hint(upstream))
}

fn hint(upstream: &UpstreamSample) -> &'static str {
    if upstream.auto.auto {
        "More in flight would not make it faster; more capacity would."
    } else {
        "If it could work on more at once, raise max_in_flight; else it needs more capacity."
    }
}

fn because(reason: Option<RejectReason>) -> &'static str {
    match reason {
        Some(RejectReason::QueueFull) => "because the queue is full",
        Some(RejectReason::MaxWait) => "because no slot comes free within max_wait",
        Some(RejectReason::Deadline) => "because their clients would not wait long enough",
        Some(RejectReason::StandingQueue) => "because the queue never empties",
        Some(RejectReason::Evicted) => "because others need their places more",
        Some(RejectReason::UpstreamDown) => "because it has been away for too long",
        Some(RejectReason::Draining) => "because tidegate shuts down",
        None => "because there is no room",
    }
}

// === impl Total ===

/// All routes together.
struct Total {
    arrivals: u64,
    answered: u64,
    failed: u64,
    abandoned: u64,
    turned_away: u64,
    shadow: u64,
    /// Of the requests that share a limit.
    in_flight: f64,
    limit: u64,
    queue: f64,
    wait: Option<f64>,
    service: Option<f64>,
    /// The most frequent one.
    reason: Option<RejectReason>,
}

impl Total {
    fn of(window: &Sample) -> Total {
        let sum = |value: fn(&RouteSample) -> u64| window.routes.iter().map(value).sum();
        let mean = |count: u64, sum: f64| (count > 0).then(|| sum / count as f64);
        let by_reason = |reason: &RejectReason| -> u64 {
            window.routes.iter().map(|route| route.rejected[*reason as usize]).sum()
        };
        let worst = RejectReason::ALL.into_iter().max_by_key(by_reason);
        Total {
            arrivals: sum(|route| route.arrivals),
            answered: sum(|route| route.answered),
            failed: sum(|route| route.failed),
            abandoned: sum(|route| route.abandoned),
            turned_away: sum(RouteSample::turned_away),
            shadow: sum(|route| route.shadow.iter().sum()),
            in_flight: window.upstreams.iter().map(|upstream| upstream.in_flight).sum(),
            limit: window.upstreams.iter().map(|upstream| upstream.limit).sum(),
            queue: window.routes.iter().map(|route| route.queue).sum(),
            wait: mean(
                sum(|route| route.waits.count),
                window.routes.iter().map(|route| route.waits.sum).sum(),
            ),
            service: mean(
                sum(|route| route.services.count),
                window.routes.iter().map(|route| route.services.sum).sum(),
            ),
            reason: worst.filter(|reason| by_reason(reason) > 0),
        }
    }
}

// === Words ===

fn is_full(in_flight: f64, limit: u64) -> bool {
    limit > 0 && in_flight >= FULL * limit as f64
}

fn slots(in_flight: f64, limit: u64) -> String {
    let used = if in_flight > 0.0 { in_flight.round().max(1.0) } else { 0.0 };
    if used >= limit as f64 && limit > 1 {
        format!("all {limit} slots in use")
    } else {
        format!("{used} of {limit} slots in use")
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

fn percent(part: f64) -> String {
    match part * 100.0 {
        small if small < 1.0 => format!("{small:.1} %"),
        // Not 100 % while somebody gets in.
        most if part < 1.0 => format!("{:.0} %", most.min(99.0)),
        all => format!("{all:.0} %"),
    }
}

fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn ms(seconds: f64) -> String {
    match seconds * 1e3 {
        none if none < 0.95 => "less than 1 ms".to_owned(),
        short if short < 1e3 => format!("{short:.0} ms"),
        long => format!("{:.1} s", long / 1e3),
    }
}

fn ago(now: SystemTime, since: SystemTime) -> String {
    let seconds = now.duration_since(since).unwrap_or_default().as_secs_f64().round() as u64;
    match seconds.max(1) {
        short if short < 120 => format!("{short} s"),
        minutes if minutes < 7200 => format!("{} min", minutes / 60),
        hours => format!("{} h", hours / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::LimitReading;

    const SECONDS: f64 = 5.0;

    fn upstream(in_flight: f64) -> UpstreamSample {
        UpstreamSample { in_flight, limit: 16, up: true, ..UpstreamSample::default() }
    }

    fn window(upstream: UpstreamSample, route: RouteSample) -> Sample {
        Sample {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
            seconds: SECONDS,
            draining: false,
            connections: 1,
            routes: vec![route],
            upstreams: vec![upstream],
        }
    }

    fn names() -> Names {
        Names {
            routes: vec!["search".into()],
            upstream_of: vec![0],
            upstreams: vec![("default".into(), "127.0.0.1:8000".into())],
        }
    }

    fn route(arrivals: u64, answered: u64) -> RouteSample {
        RouteSample { arrivals, answered, limit: 16, ..RouteSample::default() }
    }

    fn say(upstream: UpstreamSample, route: RouteSample) -> (Level, String, String) {
        let verdict = Verdict::of(&window(upstream, route), &names(), None);
        (verdict.level, verdict.text, verdict.detail)
    }

    #[test]
    fn calm_is_calm() {
        let (level, text, _) = say(upstream(0.0), route(0, 0));
        assert_eq!((level, text.as_str()), (Level::Idle, "Idle: no requests"));
        let (level, text, detail) = say(upstream(3.2), route(500, 500));
        assert_eq!(level, Level::Good);
        assert_eq!(text, "All good: 3 of 16 slots in use, nobody waits");
        assert_eq!(detail, "The app answers 100 a second.");
        let (level, text, _) = say(upstream(15.9), RouteSample { queue: 4.0, ..route(500, 500) });
        assert_eq!(level, Level::Busy);
        assert_eq!(text, "Busy: all 16 slots in use, 4 requests wait");
    }

    #[test]
    fn an_overload_says_how_much_since_when_and_why() {
        let mut full = RouteSample { queue: 9.0, in_flight: 16.0, ..route(1000, 580) };
        full.rejected[RejectReason::QueueFull as usize] = 420;
        let (level, text, detail) = say(upstream(16.0), full.clone());
        assert_eq!(level, Level::Overloaded);
        assert_eq!(
            text,
            "Overloaded: 42 % of requests are turned away, for 1 s, because the queue is full"
        );
        assert_eq!(
            detail,
            "The app does what it can: 116 answers a second, all 16 slots in use. If it could \
             work on more at once, raise max_in_flight; else it needs more capacity."
        );
        let (_, _, detail) = say(UpstreamSample { open: 8, ..upstream(16.0) }, full.clone());
        assert_eq!(
            detail,
            "8 of 16 slots are held by responses that stay open (WebSocket, event stream). Routes \
             with kind = \"stream\" have a bound of their own for them."
        );
        let none = RouteSample { answered: 0, ..full.clone() };
        let (_, _, detail) = say(upstream(16.0), none);
        assert!(detail.starts_with("No request ends: all 16 slots in use."), "{detail}");
        let auto = LimitReading { auto: true, ..LimitReading::default() };
        let (_, _, detail) = say(UpstreamSample { auto, ..upstream(16.0) }, full.clone());
        assert!(detail.ends_with("more capacity would."), "{detail}");
        let capped = RouteSample { limit: 4, in_flight: 4.0, ..full };
        let (_, _, detail) = say(upstream(4.0), capped);
        assert_eq!(detail, "The route search is held to a limit of its own: all 4 slots in use.");
    }

    #[test]
    fn it_remembers_since_when() {
        let mut first = window(upstream(16.0), route(10, 5));
        first.routes[0].rejected[0] = 5;
        let before = Verdict::of(&first, &names(), None);
        let mut later = first.clone();
        later.at += Duration::from_secs(11);
        let verdict = Verdict::of(&later, &names(), Some(&before));
        assert!(verdict.text.contains("for 12 s"), "{}", verdict.text);
        later.routes[0] = route(10, 10);
        let calm = Verdict::of(&later, &names(), Some(&verdict));
        assert_ne!(calm.since, verdict.since);
    }

    #[test]
    fn the_worst_comes_first() {
        let mut bad = RouteSample { failed: 50, ..route(100, 50) };
        bad.rejected[0] = 10;
        assert_eq!(say(upstream(1.0), bad.clone()).0, Level::Failing);
        let away = UpstreamSample { up: false, ..upstream(1.0) };
        assert_eq!(say(away.clone(), bad.clone()).0, Level::Down);
        let ending = Sample { draining: true, ..window(away, bad) };
        assert_eq!(Verdict::of(&ending, &names(), None).level, Level::Draining);
        let impatient = RouteSample { abandoned: 20, ..route(100, 80) };
        let (level, text, _) = say(upstream(1.0), impatient);
        assert_eq!(level, Level::Overloaded);
        assert_eq!(text, "Too slow for 20 % of clients: they left the queue, for 1 s");
        let mut shadow = route(100, 100);
        shadow.shadow[0] = 30;
        let (level, text, _) = say(upstream(1.0), shadow);
        assert_eq!(
            (level, text.as_str()),
            (Level::Shadow, "Shadow mode: 30 % would be turned away, for 1 s")
        );
    }

    #[test]
    fn parts_are_never_rounded_up_to_all() {
        assert_eq!(percent(0.006), "0.6 %");
        assert_eq!(percent(0.999), "99 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(ms(0.0004), "less than 1 ms");
        assert_eq!(ms(1.26), "1.3 s");
    }
}
