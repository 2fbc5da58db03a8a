//! One second of traffic, as the difference between two looks at gates and metrics.

use std::time::{Duration, Instant, SystemTime};

use super::State;
use crate::config::{AdmissionMode, Config, Route, RouteKind};
use crate::gate::RejectReason;
use crate::telemetry::metrics::{Distribution, LimitReading, Reading, RouteEvents, RouteReading};

const REASONS: usize = RejectReason::ALL.len();

/// A stretch of time, about a second long.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: SystemTime,
    pub(super) seconds: f64,
    pub(super) draining: bool,
    /// Client connections.
    pub(super) connections: u64,
    /// Parallel to the routes of the configuration.
    pub(super) routes: Vec<RouteSample>,
    /// Parallel to its upstreams.
    pub(super) upstreams: Vec<UpstreamSample>,
}

/// What happened on a route.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteSample {
    /// Means over the time, from the integrals: no burst is missed.
    pub(super) in_flight: f64,
    pub(super) queue: f64,
    pub(super) limit: u64,
    pub(super) arrivals: u64,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) abandoned: u64,
    pub(super) rejected: [u64; REASONS],
    pub(super) shadow: [u64; REASONS],
    pub(super) waits: Distribution,
    pub(super) services: Distribution,
    /// Of late, in seconds: the gate's own, which is finer than the buckets of the histogram.
    pub(super) service_p90: Option<f64>,
    /// Nobody waits longer, in seconds.
    pub(super) max_wait: f64,
}

/// What holds for an upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct UpstreamSample {
    /// Of the requests that share the limit, the mean over the time.
    pub(super) in_flight: f64,
    pub(super) limit: u64,
    pub(super) up: bool,
    /// Nothing is let in, since the application is away...
    pub(super) paused: bool,
    /// ...and for so long more requests wait for it.
    pub(super) hold_left: Duration,
    pub(super) connections: u64,
    /// Slots of the limit that responses hold which stay open.
    pub(super) open: u64,
    pub(super) auto: LimitReading,
}

/// Takes samples; remembers the look before.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    before: Option<Look>,
}

/// Everything at one instant.
#[derive(Debug)]
struct Look {
    taken: Instant,
    reading: Reading,
    events: Vec<RouteEvents>,
}

// === impl Sampler ===

impl Sampler {
    /// What happened since the last call; `None` for the first, and if the routes have changed.
    pub(super) fn take(&mut self, state: &State, config: &Config) -> Option<Sample> {
        let before = self.before.take();
        let nothing = RouteEvents::default();
        let proxy = state.proxy();
        let events = (0..config.routes.len()).map(|route| {
            let earlier = before.as_ref().and_then(|look| look.events.get(route));
            proxy.route_events(route, earlier.unwrap_or(&nothing))
        });
        let events = events.collect();
        let now = Look { taken: Instant::now(), events, reading: state.reading() };
        if !now.is_of(config) {
            return None;
        }
        let sample = before.filter(|before| before.is_of(config));
        let sample = sample.map(|before| between(&before, &now, config));
        self.before = Some(now);
        sample
    }
}

// === impl Look ===

impl Look {
    /// Whether it shows the routes and upstreams of this configuration, in its order: while one
    /// takes the place of another it may not.
    fn is_of(&self, config: &Config) -> bool {
        let routes = self.reading.routes.iter().map(|route| route.name.as_str());
        let upstreams = self.reading.upstreams.iter().map(|upstream| upstream.name.as_str());
        begins_with(routes, config.routes.iter().map(|route| route.name.as_str()))
            && begins_with(upstreams, config.upstreams.iter().map(|up| up.name.as_str()))
    }
}

/// Those of earlier configurations come after.
fn begins_with<'a>(
    mut names: impl Iterator<Item = &'a str>,
    wanted: impl Iterator<Item = &'a str>,
) -> bool {
    for name in wanted {
        if names.next() != Some(name) {
            return false;
        }
    }
    true
}

fn between(before: &Look, now: &Look, config: &Config) -> Sample {
    let seconds = now.taken.duration_since(before.taken).as_secs_f64().max(1e-3);
    let readings = before.reading.routes.iter().zip(&now.reading.routes);
    let events = before.events.iter().zip(&now.events);
    let routes: Vec<_> = readings
        .zip(events)
        .zip(&config.routes)
        .map(|(((earlier, later), (seen, events)), route)| RouteSample {
            max_wait: route.max_wait.as_secs_f64(),
            ..RouteSample::between(seconds, earlier, later, seen, events)
        })
        .collect();
    let upstreams = now.reading.upstreams.iter().take(config.upstreams.len()).enumerate();
    let upstreams = upstreams.map(|(index, upstream)| {
        let sharing = config.routes.iter().zip(&routes);
        let sharing = sharing.filter(|(route, _)| route.upstream == index && shares_budget(route));
        UpstreamSample {
            in_flight: sharing.map(|(_, route)| route.in_flight).sum(),
            limit: upstream.in_flight_limit,
            up: upstream.up,
            paused: upstream.paused,
            hold_left: upstream.hold_left,
            connections: upstream.connections,
            open: upstream.open_responses,
            auto: upstream.limit.clone(),
        }
    });
    Sample {
        at: SystemTime::now(),
        seconds,
        draining: now.reading.draining,
        connections: now.reading.connections,
        upstreams: upstreams.collect(),
        routes,
    }
}

/// Streams and probes stand beside the budget.
fn shares_budget(route: &Route) -> bool {
    route.admission == AdmissionMode::Queue && route.kind == RouteKind::Request
}

// === impl RouteSample ===

impl RouteSample {
    fn between(
        seconds: f64,
        before: &RouteReading,
        now: &RouteReading,
        seen: &RouteEvents,
        events: &RouteEvents,
    ) -> RouteSample {
        let since = |later: u64, earlier: u64| later.saturating_sub(earlier);
        let services = events.services.since(&seen.services);
        RouteSample {
            in_flight: ((now.in_flight_seconds - before.in_flight_seconds) / seconds).max(0.0),
            queue: ((now.queue_depth_seconds - before.queue_depth_seconds) / seconds).max(0.0),
            limit: now.in_flight_limit,
            arrivals: since(now.arrivals, before.arrivals),
            answered: services.count,
            failed: since(events.failed, seen.failed),
            abandoned: since(now.abandoned, before.abandoned),
            rejected: by_reason(&now.rejected, &before.rejected),
            shadow: by_reason(&now.shadow_rejected, &before.shadow_rejected),
            waits: events.waits.since(&seen.waits),
            services,
            service_p90: now.service_p90.map(|time| time.as_secs_f64()),
            max_wait: f64::INFINITY,
        }
    }

    /// The wait that 99 of 100 do not exceed, as well as the histogram's buckets tell.
    pub(super) fn wait_p99(&self) -> Option<f64> {
        self.waits.quantile(0.99).map(|wait| wait.min(self.max_wait))
    }

    /// Requests turned away.
    pub(super) fn turned_away(&self) -> u64 {
        self.rejected.iter().sum()
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_idle(&self) -> bool {
        let happened = self.arrivals + self.answered + self.failed + self.abandoned;
        happened + self.turned_away() == 0 && self.in_flight <= 0.0 && self.queue <= 0.0
    }

    /// Both stretches of time as one; `part` of it is `other`.
    pub(super) fn merge(&mut self, other: &RouteSample, part: f64) {
        self.in_flight += (other.in_flight - self.in_flight) * part;
        self.queue += (other.queue - self.queue) * part;
        self.limit = self.limit.max(other.limit);
        self.service_p90 = other.service_p90;
        self.arrivals += other.arrivals;
        self.answered += other.answered;
        self.failed += other.failed;
        self.abandoned += other.abandoned;
        for (sum, more) in self.rejected.iter_mut().zip(other.rejected) {
            *sum += more;
        }
        for (sum, more) in self.shadow.iter_mut().zip(other.shadow) {
            *sum += more;
        }
        self.waits.add(&other.waits);
        self.services.add(&other.services);
    }
}

fn by_reason(now: &[u64], before: &[u64]) -> [u64; REASONS] {
    let count = |counts: &[u64], index: usize| counts.get(index).copied().unwrap_or_default();
    std::array::from_fn(|index| count(now, index).saturating_sub(count(before, index)))
}

// === impl Sample ===

impl Sample {
    /// Several in a row, the oldest first, as one: sums, means over the whole time, and what holds
    /// at its end.
    pub(super) fn over<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Option<Sample> {
        let mut samples = samples.into_iter();
        let mut whole = samples.next()?.clone();
        for sample in samples {
            let seconds = whole.seconds + sample.seconds;
            let part = sample.seconds / seconds;
            let routes = whole.routes.iter_mut().zip(&sample.routes);
            routes.for_each(|(route, other)| route.merge(other, part));
            for (upstream, other) in whole.upstreams.iter_mut().zip(&sample.upstreams) {
                let UpstreamSample { in_flight, limit, .. } = *upstream;
                *upstream = other.clone();
                upstream.in_flight = in_flight + (other.in_flight - in_flight) * part;
                // One that went down was not exceeded.
                upstream.limit = limit.max(other.limit);
            }
            whole = Sample {
                at: sample.at,
                seconds,
                draining: sample.draining,
                connections: sample.connections,
                ..whole
            };
        }
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64, queue: f64, arrivals: u64) -> Sample {
        let route = RouteSample { queue, arrivals, ..RouteSample::default() };
        Sample {
            at: SystemTime::UNIX_EPOCH,
            seconds,
            draining: false,
            connections: 0,
            routes: vec![route],
            upstreams: Vec::new(),
        }
    }

    #[test]
    fn means_are_weighted_by_time_and_counts_add_up() {
        let samples = [sample(1.0, 4.0, 10), sample(3.0, 0.0, 2), sample(4.0, 1.0, 1)];
        let whole = Sample::over(&samples).unwrap();
        assert!((whole.seconds - 8.0).abs() < 1e-9);
        assert!((whole.routes[0].queue - 1.0).abs() < 1e-9);
        assert_eq!(whole.routes[0].arrivals, 13);
        assert!(Sample::over(&[]).is_none());
    }

    #[test]
    fn a_reading_that_lacks_a_reason_counts_as_none() {
        assert_eq!(by_reason(&[3, 5], &[1])[..3], [2, 5, 0]);
    }
}
