//! What the evidence supports, as TOML with the reasons in its comments.
//!
//! For the limit: Little's law. `N` requests in flight that take `W` each are `N / W` a second.
//! As long as the application has a place free for each, `W` stays as it is when `N` rises; beyond
//! that knee they queue up inside, and what is really worked on at once is the throughput there
//! times the `W` from below the knee. For the queue: nobody can be served within `max_wait` from a
//! place further back than what drains in that time.

use super::evidence::{Evidence, RouteSeen, Second, UpstreamSeen, total};

/// Fewer answers than this, or fewer busy seconds, say nothing.
const FEW_ANSWERS: f64 = 200.0;
const FEW_SECONDS: usize = 8;
/// The concurrency of the upper third must be so many times that of the lower to tell a knee.
const SPREAD: f64 = 1.4;
/// A time in the application so many times that of below is queueing inside.
const STRETCH: f64 = 1.25;
/// Room above what is useful: the slots must not run dry between two requests.
const HEADROOM: f64 = 1.15;
/// From this part of the limit on it counts as reached.
const REACHED: f64 = 0.9;
/// More of the busy time than this in overload is no burst.
const STANDING: f64 = 0.3;
/// The longest wait that is ever recommended, in seconds, and the shortest.
const LONGEST: f64 = 10.0;
const SHORTEST: f64 = 0.1;

/// A value to set, or to keep, and why.
#[derive(Clone, Debug, PartialEq)]
struct Advice {
    key: &'static str,
    /// `None`: what is set stays.
    value: Option<String>,
    why: String,
}

/// The whole text.
pub(super) fn advise(evidence: &Evidence) -> String {
    let mut text = format!(
        "# What {:.0} s of observation support. A line without # is a change; the others stay.\n",
        evidence.seconds
    );
    for upstream in &evidence.upstreams {
        let table = match upstream.name.as_str() {
            "default" => "[upstream]".to_owned(),
            name => format!("[upstreams.{name}]"),
        };
        text.push_str(&format!("\n{table}\n{}", limit(upstream).line()));
    }
    for route in evidence.routes.iter().filter(|route| route.queues) {
        let advice = queue(route);
        let lines: String = advice.iter().map(Advice::line).collect();
        text.push_str(&format!("\n[[route]]\nname = \"{}\"\n{lines}", route.name));
    }
    text
}

// === The limit ===

fn limit(upstream: &UpstreamSeen) -> Advice {
    let busy = busy(&upstream.seconds);
    let answered = total(&busy, |second| second.answered);
    if busy.len() < FEW_SECONDS || answered < FEW_ANSWERS {
        return keep(
            "max_in_flight",
            format!("too little evidence: {answered:.0} answers in {} busy seconds", busy.len()),
        );
    }
    if upstream.auto {
        return found(upstream);
    }
    let highest = busy.iter().map(|second| second.in_flight).fold(0.0, f64::max);
    let (low, high) = thirds(&busy);
    let stretch = high.time / low.time;
    let useful = high.rate * low.time;
    let spread = high.in_flight >= SPREAD * low.in_flight.max(0.5);
    if spread && stretch >= STRETCH {
        let value = (useful * HEADROOM).ceil().max(1.0);
        let why = format!(
            "the knee is visible: with {:.1} at once a request took {}, with {:.1} it took {} \
             ({stretch:.1} times); {:.0}/s x {} = {useful:.1} are really worked on at once",
            low.in_flight,
            ms(low.time),
            high.in_flight,
            ms(high.time),
            high.rate,
            ms(low.time)
        );
        return change("max_in_flight", value, upstream.limit, why);
    }
    if highest < REACHED * upstream.limit {
        let why = format!(
            "the limit of {:.0} was never reached: {highest:.1} at once at most, {} each. \
             No knee was seen, so nothing says that it should be lower or higher",
            upstream.limit,
            ms(high.time)
        );
        return keep("max_in_flight", why);
    }
    if spread {
        let value = (upstream.limit * 1.5).ceil();
        let why = format!(
            "the application was no slower at the limit ({:.1} at once, {}) than below ({:.1}, \
             {}): it may be able to do more. Raise it step by step and look again, or try \"auto\"",
            high.in_flight,
            ms(high.time),
            low.in_flight,
            ms(low.time)
        );
        return change("max_in_flight", value, upstream.limit, why);
    }
    let why = format!(
        "too little evidence: always about {:.1} at once, {} each, {:.0}/s. One level tells no \
         knee; look while the load changes, or set \"auto\" for a while",
        high.in_flight,
        ms(high.time),
        high.rate
    );
    keep("max_in_flight", why)
}

/// What `auto` has found by itself.
fn found(upstream: &UpstreamSeen) -> Advice {
    if upstream.throughput <= 0.0 || upstream.baseline <= 0.0 {
        let why = "\"auto\" was never full, and has measured nothing yet".to_owned();
        return keep("max_in_flight", why);
    }
    let useful = upstream.throughput * upstream.baseline;
    let why = format!(
        "\"auto\" is at {:.0}: {:.0}/s x {} without congestion = {useful:.1} are worked on at once. \
         As a number it would be {:.0}",
        upstream.limit,
        upstream.throughput,
        ms(upstream.baseline),
        (useful * HEADROOM).ceil()
    );
    keep("max_in_flight", why)
}

/// Means of several seconds.
struct Level {
    in_flight: f64,
    rate: f64,
    /// In the application, a request.
    time: f64,
}

/// The third of the seconds with the fewest in flight, and that with the most.
fn thirds(seconds: &[Second]) -> (Level, Level) {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(|a, b| a.in_flight.total_cmp(&b.in_flight));
    let third = (sorted.len() / 3).max(1);
    (level(&sorted[..third]), level(&sorted[sorted.len() - third..]))
}

fn level(seconds: &[Second]) -> Level {
    let length = total(seconds, |second| second.length);
    let answered = total(seconds, |second| second.answered).max(1.0);
    Level {
        in_flight: total(seconds, |second| second.in_flight * second.length) / length,
        rate: answered / length,
        time: total(seconds, |second| second.service_seconds) / answered,
    }
}

fn busy(seconds: &[Second]) -> Vec<Second> {
    seconds.iter().filter(|second| second.answered >= 1.0).copied().collect()
}

// === The queue ===

fn queue(route: &RouteSeen) -> [Advice; 2] {
    let busy = busy(&route.seconds);
    let answered = total(&busy, |second| second.answered);
    if busy.len() < FEW_SECONDS || answered < FEW_ANSWERS {
        let seconds = busy.len();
        let why = format!("too little evidence: {answered:.0} answers in {seconds} busy seconds");
        return [keep("max_wait", why.clone()), keep("max_queue", why)];
    }
    let full: Vec<_> = busy.iter().filter(|second| second.queue >= 0.5).copied().collect();
    let refused: Vec<_> = busy.iter().filter(|second| second.rejected >= 1.0).copied().collect();
    let drain = if full.is_empty() { level(&busy).rate } else { level(&full).rate };
    let (wait, why) = if refused.is_empty() {
        calm(route, &busy)
    } else if refused.len() as f64 > STANDING * busy.len() as f64 {
        standing(route, &busy, &refused)
    } else {
        bursts(route, &refused, drain)
    };
    let places = (drain * wait).ceil().max(1.0);
    let size = format!("{drain:.0}/s x {} = {places:.0} can be served within max_wait", ms(wait));
    // A queue that is a little too long costs nothing.
    let fits = route.max_queue >= places && route.max_queue <= 2.0 * places;
    let queue = if fits {
        keep("max_queue", size)
    } else {
        change("max_queue", places, route.max_queue, size)
    };
    let same = (wait - route.max_wait).abs() < 1e-9;
    let value = (!same).then(|| format!("\"{}\"", unit(wait)));
    [Advice { key: "max_wait", value, why }, queue]
}

/// Nobody was turned away.
fn calm(route: &RouteSeen, busy: &[Second]) -> (f64, String) {
    let longest = busy.iter().map(|s| s.wait_seconds / s.waits.max(1.0)).fold(0.0, f64::max);
    let why = format!(
        "nobody was turned away; waits were {} on average in the worst second. {} is enough",
        ms(longest),
        unit(route.max_wait)
    );
    (route.max_wait, why)
}

/// Most of the time more came than could be served: waiting serves nobody.
fn standing(route: &RouteSeen, busy: &[Second], refused: &[Second]) -> (f64, String) {
    // Without the queue inside the application, if that was seen.
    let service = thirds(busy).0.time;
    let enough = nice((5.0 * service).max(SHORTEST));
    let short = if enough < route.max_wait {
        format!("{} is five times what one takes without congestion", unit(enough))
    } else {
        format!("{} is short enough", unit(route.max_wait))
    };
    let length = total(refused, |second| second.length);
    let why = format!(
        "more came than could be served in {} of {} busy seconds ({:.0}/s came, {:.0}/s were \
         answered): a longer wait would serve nobody more; {short}",
        refused.len(),
        busy.len(),
        total(refused, |second| second.arrivals) / length,
        total(refused, |second| second.answered) / length,
    );
    (enough.min(route.max_wait), why)
}

/// It was too much now and then: how long a queue would have taken all of it?
fn bursts(route: &RouteSeen, refused: &[Second], drain: f64) -> (f64, String) {
    let (mut backlog, mut most) = (0.0_f64, 0.0_f64);
    for second in &route.seconds {
        backlog = (backlog + second.arrivals - second.abandoned - drain * second.length).max(0.0);
        most = most.max(backlog);
    }
    let needed = most / drain.max(1.0);
    let lost = total(refused, |second| second.rejected);
    if needed > LONGEST {
        let why = format!(
            "{lost:.0} were turned away in bursts that would take {needed:.0} s to work off: too \
             long to wait. More capacity, or nothing"
        );
        return (route.max_wait, why);
    }
    let wait = nice(1.2 * needed).max(route.max_wait);
    let why = format!(
        "{lost:.0} were turned away in {} seconds; the largest burst left {most:.0} waiting, which \
         drain in {} at {drain:.0}/s",
        refused.len(),
        ms(needed)
    );
    (wait, why)
}

// === impl Advice ===

impl Advice {
    fn line(&self) -> String {
        let why = wrapped(&self.why);
        match &self.value {
            Some(value) => format!("{why}{} = {value}\n", self.key),
            None => format!("{why}# {} stays\n", self.key),
        }
    }
}

fn keep(key: &'static str, why: String) -> Advice {
    Advice { key, value: None, why }
}

/// A number that is nearly the one that is set is no advice.
fn change(key: &'static str, value: f64, now: f64, why: String) -> Advice {
    let near = (value - now).abs() <= 0.1 * now;
    Advice { key, value: (!near).then(|| format!("{value:.0}")), why }
}

/// Comment lines of at most so many columns.
fn wrapped(text: &str) -> String {
    let mut lines = String::from("#");
    let mut column = 1;
    for word in text.split(' ') {
        if column + word.chars().count() + 1 > 98 {
            lines.push_str("\n#");
            column = 1;
        }
        lines.push(' ');
        lines.push_str(word);
        column += word.chars().count() + 1;
    }
    lines + "\n"
}

/// The next of 100, 150, 200, 300, 500, 700 ms and so on.
fn nice(seconds: f64) -> f64 {
    let mut power = 0.001;
    while power * 10.0 <= seconds {
        power *= 10.0;
    }
    let steps = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0];
    let step = steps.into_iter().find(|step| step * power >= seconds * 0.999);
    ((step.unwrap_or(10.0) * power) * 1e3).round() / 1e3
}

/// As a duration of the configuration.
fn unit(seconds: f64) -> String {
    match (seconds * 1e3).round() {
        ms if ms >= 1e3 && ms % 1e3 == 0.0 => format!("{:.0}s", ms / 1e3),
        ms => format!("{ms:.0}ms"),
    }
}

fn ms(seconds: f64) -> String {
    match seconds * 1e3 {
        short if short < 10.0 => format!("{short:.1} ms"),
        long => format!("{long:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An application with so many places that takes 40 ms, with so many in flight.
    fn second(in_flight: f64, places: f64, limit: f64) -> Second {
        let rate = in_flight.min(places) / 0.04;
        Second {
            length: 1.0,
            in_flight,
            limit,
            arrivals: rate,
            answered: rate,
            service_seconds: in_flight,
            waits: rate,
            ..Second::default()
        }
    }

    fn upstream(limit: f64, levels: &[f64]) -> UpstreamSeen {
        let seconds = levels.iter().flat_map(|level| [second(*level, 16.0, limit); 10]);
        let name = "default".to_owned();
        UpstreamSeen { name, limit, seconds: seconds.collect(), ..UpstreamSeen::default() }
    }

    #[test]
    fn a_knee_is_found() {
        let advice = limit(&upstream(64.0, &[4.0, 12.0, 64.0]));
        assert_eq!(advice.value.as_deref(), Some("19"), "{}", advice.why);
        assert!(advice.why.contains("400/s x 40 ms = 16.0"), "{}", advice.why);
    }

    #[test]
    fn a_limit_that_starves_the_application_is_seen() {
        let advice = limit(&upstream(8.0, &[2.0, 5.0, 8.0]));
        assert_eq!(advice.value.as_deref(), Some("12"), "{}", advice.why);
    }

    #[test]
    fn thin_evidence_is_called_thin() {
        for (seen, said) in [
            (upstream(16.0, &[]), "too little evidence: 0 answers"),
            (upstream(16.0, &[16.0, 16.0, 16.0]), "One level tells no knee"),
            (upstream(32.0, &[4.0, 8.0, 12.0]), "was never reached"),
        ] {
            let advice = limit(&seen);
            assert_eq!(advice.value, None, "{}", advice.why);
            assert!(advice.why.contains(said), "{}", advice.why);
        }
    }

    fn route(seconds: Vec<Second>, max_wait: f64, max_queue: f64) -> RouteSeen {
        let name = "r".to_owned();
        RouteSeen { name, queues: true, max_queue, max_wait, seconds }
    }

    #[test]
    fn a_standing_overload_gets_a_short_wait() {
        let over = Second {
            length: 1.0,
            queue: 50.0,
            arrivals: 900.0,
            answered: 400.0,
            service_seconds: 16.0,
            rejected: 500.0,
            ..Second::default()
        };
        let [wait, places] = queue(&route(vec![over; 30], 1.0, 1024.0));
        assert_eq!(wait.value.as_deref(), Some("\"200ms\""), "{}", wait.why);
        assert_eq!(places.value.as_deref(), Some("80"), "{}", places.why);
    }

    #[test]
    fn a_burst_gets_a_queue_that_takes_it() {
        let calm = second(4.0, 16.0, 16.0);
        let mut seconds = vec![calm; 30];
        let burst =
            Second { queue: 100.0, arrivals: 800.0, answered: 400.0, rejected: 250.0, ..calm };
        seconds[10] = burst;
        let [wait, places] = queue(&route(seconds, 0.2, 100.0));
        assert_eq!(wait.value.as_deref(), Some("\"1500ms\""), "{}", wait.why);
        assert_eq!(places.value.as_deref(), Some("600"), "{}", places.why);
    }

    #[test]
    fn durations_are_round() {
        assert_eq!((nice(0.11), nice(0.2), nice(1.2), nice(0.0)), (0.15, 0.2, 1.5, 0.001));
        assert_eq!(
            (unit(0.2), unit(2.0), unit(1.5)),
            ("200ms".into(), "2s".into(), "1500ms".into())
        );
    }
}
