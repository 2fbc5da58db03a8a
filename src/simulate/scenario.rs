//! What is simulated: an application, its clients, what stands between them, and what is measured.

use std::time::Duration;

use super::laws;
use crate::config::scenario::{Law, Window};
use crate::gate::{Class, Limits};

/// All that a run depends on, besides its seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// The application.
    pub app: App,
    /// The routes; each is a lane of the gate, at the same index.
    pub routes: Vec<Route>,
    /// The clients.
    pub groups: Vec<Group>,
    /// What the gate may use; its lanes are the routes.
    pub limits: Limits,
    /// What stands before the application.
    pub protection: Protection,
    /// What operators do meanwhile.
    pub churn: Churn,
    /// How long clients come.
    pub duration: Duration,
    /// The parts of the run that are measured: in order, apart from each other.
    pub windows: Vec<Window>,
    /// The instant from which the time to recover counts.
    pub recover_from: Option<Duration>,
}

/// The application: servers before one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    /// How many requests it works on at once.
    pub workers: u32,
    /// How many may be inside before it slows down; 0: it never does.
    pub knee: u32,
    /// By what part it slows down for each `knee` more inside.
    pub contention: f64,
    /// Whether it notices that a client has left. If not it works on, and the slot is held.
    pub cancel: bool,
    /// What it becomes later, in order of time.
    pub steps: Vec<Step>,
}

/// What an application is from some instant on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Since when.
    pub at: Duration,
    /// How many requests it works on at once.
    pub workers: u32,
    /// A delay of each answer that occupies no server.
    pub delay: Duration,
    /// The part of answers that are errors of overload, 0 to 1.
    pub errors: f64,
    /// Whether it refuses connections.
    pub refuse: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// What it is called.
    pub name: String,
}

/// Clients of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What it is called.
    pub name: String,
    /// Calls a second of all of them together, since when.
    pub rates: Vec<(Duration, f64)>,
    /// The rate goes up and down around this.
    pub bursts: Option<Bursts>,
    /// How many clients there are; each is a flow.
    pub clients: u32,
    /// The route of their requests.
    pub route: usize,
    /// How long the application works on their requests.
    pub service: Law,
    /// How important they are.
    pub class: Class,
    /// How long a client waits for the answer to one attempt.
    pub timeout: Duration,
    /// How often it tries again.
    pub retries: u32,
    /// How long it waits before that, drawn anew for each; `None`: not at all.
    pub backoff: Option<Law>,
    /// Whether it comes back no earlier than it was told to.
    pub obey: bool,
    /// Whether the gate is told how long the client waits.
    pub tell: bool,
    /// The part of attempts whose client leaves early, 0 to 1, and when.
    pub leave: Option<(f64, Law)>,
}

/// A rate that goes up and down: first `on` at `high` times the rate, then `off` at `low` times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bursts {
    /// How long it is high.
    pub on: Duration,
    /// How long it is low.
    pub off: Duration,
    /// The factor meanwhile.
    pub high: f64,
    /// The factor otherwise.
    pub low: f64,
}

/// What stands before the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing: whoever comes is inside.
    None,
    /// The gate with the budget that its limits say.
    Gate,
    /// The gate, told nothing of deadlines, and a judge at its exit who knows the law of service
    /// times: whoever has less time left than 90 % of requests need does not go on.
    Oracle,
    /// The gate's queue, and a budget that goes up by one and down by a tenth.
    Aimd,
    /// The gate's queue, and the rule of Envoy's adaptive concurrency.
    Gradient,
    /// The gate's queue, and the rule of Netflix's Gradient2.
    Gradient2,
}

/// What operators do while clients come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Churn {
    /// The limits are given to the gate again, changed back and forth, so often.
    pub reconfigure_every: Option<Duration>,
    /// The gate pauses so often, for so long.
    pub pause: Option<(Duration, Duration)>,
}

// === impl Scenario ===

impl Scenario {
    /// What the application can do in a part of the run: server-seconds.
    #[must_use]
    pub fn server_seconds(&self, window: Window) -> f64 {
        let mut total = 0.0;
        let (mut since, mut workers) = (Duration::ZERO, self.app.workers);
        let ends = self.app.steps.iter().map(|step| (step.at, step.workers));
        for (until, next) in ends.chain([(Duration::MAX, 0)]) {
            let (from, to) = (since.max(window.from), until.min(window.to));
            total += to.saturating_sub(from).as_secs_f64() * f64::from(workers);
            (since, workers) = (until, next);
        }
        total
    }

    /// Requests a second that the application can serve at its start, of the mix that comes then.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        let (mut rate, mut load) = (0.0, 0.0);
        for group in &self.groups {
            let own = group.rate_at(Duration::ZERO);
            rate += own;
            load += own * laws::mean(&group.service) / 1e9;
        }
        if load > 0.0 { rate / load * f64::from(self.app.workers) } else { 0.0 }
    }

    /// What is measured: all windows together, in seconds.
    #[must_use]
    pub fn measured(&self) -> f64 {
        self.windows.iter().map(|window| (window.to - window.from).as_secs_f64()).sum()
    }
}

// === impl App, Step, Group, Protection ===

impl App {
    /// 16 workers that slow down by 0.3 for each 32 above 32 inside.
    #[must_use]
    pub fn base() -> App {
        App { workers: 16, knee: 32, contention: 0.3, cancel: false, steps: Vec::new() }
    }
}

impl Step {
    /// An application that is well.
    #[must_use]
    pub fn of(workers: u32) -> Step {
        Step { at: Duration::ZERO, workers, delay: Duration::ZERO, errors: 0.0, refuse: false }
    }
}

impl Group {
    /// Many different clients of the first route that wait for a second and do not try again.
    #[must_use]
    pub fn plain(name: &str, rate: f64) -> Group {
        Group {
            name: name.to_owned(),
            rates: vec![(Duration::ZERO, rate)],
            bursts: None,
            clients: 1_000,
            route: 0,
            service: Law::Exponential(Duration::from_millis(20)),
            class: Class::DEFAULT,
            timeout: Duration::from_secs(1),
            retries: 0,
            backoff: None,
            obey: false,
            tell: false,
            leave: None,
        }
    }

    /// Calls a second at an instant, apart from bursts.
    #[must_use]
    pub fn rate_at(&self, at: Duration) -> f64 {
        self.rates.iter().rev().find(|(since, _)| *since <= at).map_or(0.0, |(_, rate)| *rate)
    }
}

impl Protection {
    /// All of them, with the words for them.
    pub const ALL: [(&'static str, Protection); 6] = [
        ("none", Protection::None),
        ("gate", Protection::Gate),
        ("oracle", Protection::Oracle),
        ("aimd", Protection::Aimd),
        ("gradient", Protection::Gradient),
        ("gradient2", Protection::Gradient2),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_seconds_follow_the_steps() {
        let app = App {
            steps: vec![
                Step { at: Duration::from_secs(10), ..Step::of(8) },
                Step { at: Duration::from_secs(20), ..Step::of(16) },
            ],
            ..App::base()
        };
        let scenario = Scenario {
            name: String::new(),
            app,
            routes: vec![Route { name: "r".into() }],
            groups: vec![Group::plain("g", 100.0)],
            limits: Limits {
                budget: crate::gate::Budget::Fixed(16),
                floor_period: 0,
                hold: Duration::ZERO,
                lanes: Vec::new(),
            },
            protection: Protection::Gate,
            churn: Churn::default(),
            duration: Duration::from_secs(30),
            windows: vec!["5s..25s".parse().unwrap()],
            recover_from: None,
        };
        assert_eq!(
            scenario.server_seconds(scenario.windows[0]),
            5.0 * 16.0 + 10.0 * 8.0 + 5.0 * 16.0
        );
        assert!((scenario.capacity() - 800.0).abs() < 1e-6);
        assert_eq!(scenario.measured(), 20.0);
    }
}
