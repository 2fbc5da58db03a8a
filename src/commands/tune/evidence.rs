//! What was seen, second by second, from looks at `/status.json`.

use serde_json::Value;

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    pub(super) seconds: f64,
    pub(super) upstreams: Vec<UpstreamSeen>,
    pub(super) routes: Vec<RouteSeen>,
}

/// An application.
#[derive(Clone, Debug, Default)]
pub(super) struct UpstreamSeen {
    pub(super) name: String,
    pub(super) auto: bool,
    /// At the end.
    pub(super) limit: f64,
    /// What `auto` has measured under load.
    pub(super) throughput: f64,
    pub(super) baseline: f64,
    /// Of the routes that share the limit.
    pub(super) seconds: Vec<Second>,
}

/// A route.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteSeen {
    pub(super) name: String,
    /// Its requests may wait.
    pub(super) queues: bool,
    pub(super) max_queue: f64,
    pub(super) max_wait: f64,
    pub(super) seconds: Vec<Second>,
}

/// About a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Second {
    pub(super) length: f64,
    /// Means.
    pub(super) in_flight: f64,
    pub(super) queue: f64,
    /// At its end.
    pub(super) limit: f64,
    pub(super) arrivals: f64,
    pub(super) answered: f64,
    pub(super) rejected: f64,
    pub(super) abandoned: f64,
    /// How many waits ended, and their sum; likewise times in the application.
    pub(super) waits: f64,
    pub(super) wait_seconds: f64,
    pub(super) service_seconds: f64,
}

// === impl Evidence ===

impl Evidence {
    /// From looks about a second apart, the oldest first. What lies before the last restart or
    /// change of routes is left out. `None` if there are not two looks after it.
    pub(super) fn of(looks: &[Value]) -> Option<Evidence> {
        let breaks = |pair: &[Value]| !continues(&pair[0], &pair[1]);
        let begin = looks.windows(2).rposition(breaks).map_or(0, |at| at + 1);
        let looks = &looks[begin..];
        let last = looks.last().filter(|_| looks.len() > 1)?;
        let routes = list(&last["routes"]).enumerate();
        let routes: Vec<_> =
            routes.map(|(index, route)| RouteSeen::of(route, looks, index)).collect();
        let upstreams = list(&last["upstreams"]).map(|upstream| {
            let shares = |route: &&Value| {
                route["upstream"] == upstream["name"] && route["kind"] == "request"
            };
            let sharing = list(&last["routes"]).zip(&routes).filter(|(route, _)| shares(route));
            let limit = number(&upstream["max_in_flight"]);
            let mut seconds = Vec::new();
            sharing.for_each(|(_, route)| add(&mut seconds, &route.seconds));
            let limits = looks.iter().skip(1).map(|look| {
                let named = list(&look["upstreams"]).find(|up| up["name"] == upstream["name"]);
                named.map_or(limit, |up| number(&up["max_in_flight"]))
            });
            seconds.iter_mut().zip(limits).for_each(|(second, limit)| second.limit = limit);
            UpstreamSeen {
                name: upstream["name"].as_str().unwrap_or_default().to_owned(),
                auto: upstream["limit"]["mode"] == "auto",
                limit,
                throughput: number(&upstream["limit"]["throughput"]),
                baseline: number(&upstream["limit"]["baseline"]),
                seconds,
            }
        });
        let upstreams: Vec<_> = upstreams.collect();
        let seconds = routes.first().map_or(0.0, |route| total(&route.seconds, |s| s.length));
        Some(Evidence { seconds, upstreams, routes })
    }
}

/// Whether a look comes from the same process, with the same routes, as the one before.
fn continues(before: &Value, now: &Value) -> bool {
    let names = |look: &Value| -> Vec<Value> {
        list(&look["routes"]).map(|route| route["name"].clone()).collect()
    };
    let rises = |field: &str| {
        let pairs = list(&before["routes"]).zip(list(&now["routes"]));
        pairs.into_iter().all(|(before, now)| number(&now[field]) >= number(&before[field]))
    };
    names(before) == names(now) && rises("arrivals") && rises("answered")
}

fn add(sums: &mut Vec<Second>, seconds: &[Second]) {
    sums.resize(seconds.len().max(sums.len()), Second::default());
    for (sum, second) in sums.iter_mut().zip(seconds) {
        sum.length = second.length;
        sum.in_flight += second.in_flight;
        sum.queue += second.queue;
        sum.arrivals += second.arrivals;
        sum.answered += second.answered;
        sum.rejected += second.rejected;
        sum.abandoned += second.abandoned;
        sum.waits += second.waits;
        sum.wait_seconds += second.wait_seconds;
        sum.service_seconds += second.service_seconds;
    }
}

// === impl RouteSeen ===

impl RouteSeen {
    fn of(route: &Value, looks: &[Value], index: usize) -> RouteSeen {
        let seconds = looks.windows(2).map(|pair| {
            let length = (number(&pair[1]["at"]) - number(&pair[0]["at"])).max(1e-3);
            Second::between(length, &pair[0]["routes"][index], &pair[1]["routes"][index])
        });
        RouteSeen {
            name: route["name"].as_str().unwrap_or_default().to_owned(),
            queues: route["order"].is_string() && number(&route["max_queue"]) > 0.0,
            max_queue: number(&route["max_queue"]),
            max_wait: number(&route["max_wait"]),
            seconds: seconds.collect(),
        }
    }
}

// === impl Second ===

impl Second {
    fn between(length: f64, before: &Value, now: &Value) -> Second {
        let rise = |field: &str| (number(&now[field]) - number(&before[field])).max(0.0);
        let rejected = |look: &Value| -> f64 {
            look["rejected"].as_object().into_iter().flatten().map(|(_, count)| number(count)).sum()
        };
        Second {
            length,
            in_flight: rise("in_flight_seconds") / length,
            queue: rise("queue_depth_seconds") / length,
            limit: number(&now["max_in_flight"]),
            arrivals: rise("arrivals"),
            answered: rise("answered"),
            rejected: (rejected(now) - rejected(before)).max(0.0),
            abandoned: rise("abandoned"),
            waits: rise("waits"),
            wait_seconds: rise("wait_seconds"),
            service_seconds: rise("service_seconds"),
        }
    }
}

/// The sum of a figure.
pub(super) fn total(seconds: &[Second], figure: impl Fn(&Second) -> f64) -> f64 {
    // Not sum(): that of nothing is -0.
    seconds.iter().map(figure).fold(0.0, |sum, figure| sum + figure)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look(arrivals: u64, answered: u64, busy: f64) -> Value {
        json!({
            "at": f64::from(u32::try_from(arrivals).unwrap()) / 10.0,
            "upstreams": [{"name": "default", "max_in_flight": 8, "limit": {"mode": "fixed"}}],
            "routes": [{
                "name": "a", "upstream": "default", "kind": "request", "order": "fifo",
                "max_queue": 10, "max_wait": 0.5, "max_in_flight": 8, "arrivals": arrivals,
                "answered": answered, "in_flight_seconds": busy, "rejected": {"queue_full": 1},
            }],
        })
    }

    #[test]
    fn seconds_are_differences() {
        let seen = Evidence::of(&[look(0, 0, 0.0), look(10, 9, 3.5), look(30, 29, 9.0)]).unwrap();
        let seconds = &seen.upstreams[0].seconds;
        assert_eq!(seconds.len(), 2);
        assert_eq!((seconds[1].arrivals, seconds[1].length), (20.0, 2.0));
        assert_eq!(seconds[1].in_flight, 2.75);
        assert_eq!((seconds[1].limit, seconds[1].rejected), (8.0, 0.0));
        assert!(seen.routes[0].queues);
    }

    #[test]
    fn what_was_before_a_restart_does_not_count() {
        let looks = [look(50, 50, 9.0), look(90, 90, 19.0), look(3, 3, 0.1), look(5, 5, 0.2)];
        let seen = Evidence::of(&looks).unwrap();
        assert_eq!(seen.routes[0].seconds.len(), 1);
        assert!(Evidence::of(&looks[..3]).is_none());
    }
}
