//! From the tables of a scenario file to a [`Scenario`]: defaults applied, ranges checked.

use std::time::Duration;

use super::laws;
use super::scenario::{App, Bursts, Churn, Group, Protection, Route, Scenario, Step};
use crate::config::scenario::{
    AppTable, ChurnTable, GateTable, GroupTable, Law, LimitWord, OrderWord, Rate, RouteTable,
    ScenarioError, ScenarioFile, Span, Standing, StepTable, Tables, Window,
};
use crate::gate::{AutoLimits, Budget, Class, LaneLimits, Limits, Order};

const SECOND: Duration = Duration::from_secs(1);
/// The work of a request of which nothing is said.
const SERVICE: Law = Law::Exponential(Duration::from_millis(20));

/// What is wrong, before it has a place in a file.
type Wrong = (Option<std::ops::Range<usize>>, String);

/// The scenario of some tables of a file, with the limit set by `limit`.
///
/// # Errors
/// A name that is not there, or a value out of its range.
pub fn scenario(
    file: &ScenarioFile,
    tables: &Tables,
    name: &str,
    limit: LimitWord,
) -> Result<Scenario, ScenarioError> {
    build(tables, name, limit).map_err(|(at, message)| file.error(at, message))
}

fn build(tables: &Tables, name: &str, limit: LimitWord) -> Result<Scenario, Wrong> {
    let duration = tables.duration.map_or(30 * SECOND, |span| span.0);
    let app = app(&tables.app.clone().unwrap_or_default())?;
    let gate = tables.gate.clone().unwrap_or_default();
    let one_route = vec![RouteTable { name: Some("default".to_owned()), ..RouteTable::default() }];
    let route_tables = tables.route.clone().filter(|routes| !routes.is_empty());
    let route_tables = route_tables.unwrap_or(one_route);
    let reserved = route_tables.iter().filter_map(|table| table.reserved).sum();
    let routes: Vec<Route> = route_tables.iter().map(route).collect();
    let one_group = vec![GroupTable { name: Some("clients".to_owned()), ..GroupTable::default() }];
    let groups = tables.group.clone().unwrap_or(one_group);
    let groups = groups.iter().map(|table| group(table, &route_tables, &app));
    let churn = churn(&tables.churn.clone().unwrap_or_default());
    let scenario = Scenario {
        name: name.to_owned(),
        limits: Limits {
            budget: budget(&gate, limit, &app, reserved),
            floor_period: gate.floor_period.unwrap_or(20),
            // As whoever knows how long a restart takes would have it.
            hold: churn.pause.map_or(Duration::ZERO, |(_, length)| length * 2),
            lanes: route_tables.iter().map(|table| lane(table, &gate)).collect(),
        },
        groups: groups.collect::<Result<_, _>>()?,
        app,
        routes,
        protection: protection(limit),
        churn,
        duration,
        windows: windows(tables.windows.as_deref(), duration)?,
        recover_from: tables.recover_from.map(|span| span.0),
    };
    Ok(scenario)
}

/// What stands before the application where a limit is set so.
#[must_use]
pub fn protection(limit: LimitWord) -> Protection {
    match limit {
        LimitWord::Auto | LimitWord::Fixed => Protection::Gate,
        LimitWord::Aimd => Protection::Aimd,
        LimitWord::Gradient => Protection::Gradient,
        LimitWord::Gradient2 => Protection::Gradient2,
        LimitWord::None => Protection::None,
    }
}

/// A lane as a user gets it who says nothing.
#[must_use]
pub fn default_lane() -> LaneLimits {
    lane(&RouteTable::default(), &GateTable::default())
}

fn wrong<T>(message: String) -> Result<T, Wrong> {
    Err((None, message))
}

fn part(name: &str, value: Option<f64>) -> Result<f64, Wrong> {
    match value.unwrap_or(0.0) {
        share if (0.0..=1.0).contains(&share) => Ok(share),
        other => wrong(format!("`{name}` is a part of 1, and {other} is not: write 0.3 for 30 %")),
    }
}

fn app(table: &AppTable) -> Result<App, Wrong> {
    let base = App::base();
    let workers = table.workers.unwrap_or(base.workers);
    let contention = table.contention.unwrap_or(base.contention);
    if workers == 0 {
        return wrong("an application has at least one worker: write `workers = 16`".to_owned());
    }
    if !(0.0..=100.0).contains(&contention) {
        return wrong(format!("`contention` is 0 to 100, and {contention} is not: write 0.3"));
    }
    let steps = table.step.iter().flatten().map(|table| step(table, workers));
    let mut steps = steps.collect::<Result<Vec<_>, _>>()?;
    steps.sort_by_key(|step| step.at);
    Ok(App {
        workers,
        knee: table.knee.unwrap_or(base.knee),
        contention,
        cancel: table.cancel.unwrap_or(base.cancel),
        steps,
    })
}

fn step(table: &StepTable, workers: u32) -> Result<Step, Wrong> {
    Ok(Step {
        at: table.at.unwrap_or_default().0,
        workers: table.workers.unwrap_or(workers),
        delay: table.delay.unwrap_or_default().0,
        errors: part("errors", table.errors)?,
        refuse: table.refuse.unwrap_or(false),
    })
}

fn route(table: &RouteTable) -> Route {
    Route { name: table.name.clone().unwrap_or_else(|| "default".to_owned()) }
}

fn lane(table: &RouteTable, gate: &GateTable) -> LaneLimits {
    let max_queue = table.max_queue.or(gate.max_queue).unwrap_or(1_024);
    let max_wait = table.max_wait.or(gate.max_wait).map_or(SECOND, |span| span.0);
    LaneLimits {
        max_in_flight: table.max_in_flight,
        reserved: table.reserved.unwrap_or(0),
        order: match table.order.or(gate.order).unwrap_or(OrderWord::Adaptive) {
            OrderWord::Fifo => Order::Fifo,
            OrderWord::Lifo => Order::Lifo,
            OrderWord::Adaptive => Order::Adaptive,
        },
        standing_after: match table.standing_after.or(gate.standing_after) {
            Some(Standing::Off) => None,
            Some(Standing::After(time)) => Some(time),
            None => Some(max_wait * 3 / 2),
        },
        ..LaneLimits::plain(max_queue, max_wait)
    }
}

/// A budget that could fall to what is reserved would leave nothing to the others: the
/// configuration raises `auto_min` for that, and so does this.
fn budget(gate: &GateTable, limit: LimitWord, app: &App, reserved: u32) -> Budget {
    match limit {
        LimitWord::Auto => Budget::Auto(AutoLimits {
            min: gate.auto_min.unwrap_or(2).max(if reserved > 0 { reserved + 1 } else { 0 }),
            max: gate.auto_max.unwrap_or(500),
            max_latency: None,
        }),
        _ => Budget::Fixed(gate.fixed.unwrap_or(app.workers)),
    }
}

fn group(table: &GroupTable, routes: &[RouteTable], app: &App) -> Result<Group, Wrong> {
    let name = table.name.clone().unwrap_or_else(|| "clients".to_owned());
    let index = match &table.route {
        None => 0,
        Some(named) => {
            let found =
                routes.iter().position(|other| other.name.as_ref() == Some(named.get_ref()));
            found.ok_or_else(|| {
                let names: Vec<_> = routes.iter().map(|table| route(table).name).collect();
                let message = format!("no route is called \"{}\"", named.get_ref());
                (Some(named.span()), format!("{message}: write one of {}", names.join(", ")))
            })?
        }
    };
    let service = table.service.or(routes[index].service).unwrap_or(SERVICE);
    let capacity = f64::from(app.workers) * 1e9 / laws::mean(&service);
    let calls = |rate: Option<Rate>, load: Option<f64>| match (rate, load) {
        (Some(_), Some(_)) => {
            wrong(format!("the group {name} has a `rate` and a `load`: leave one"))
        }
        (Some(rate), None) => Ok(rate.0),
        (None, Some(load)) if (0.0..1e6).contains(&load) => Ok(load * capacity),
        (None, Some(load)) => wrong(format!("`load` is a multiple of the capacity, not {load}")),
        (None, None) => wrong(format!("the group {name} needs a rate: write `rate = \"500/s\"`")),
    };
    let mut rates = vec![(Duration::ZERO, calls(table.rate, table.load)?)];
    for step in table.step.iter().flatten() {
        rates.push((step.at.unwrap_or_default().0, calls(step.rate, step.load)?));
    }
    rates.sort_by_key(|(since, _)| *since);
    let leave = part("leave", table.leave)?;
    let class = table.class.unwrap_or(Class::DEFAULT.number());
    Ok(Group {
        rates,
        bursts: table.bursts.as_ref().map(|bursts| Bursts {
            on: bursts.on.map_or(SECOND / 2, |span| span.0),
            off: bursts.off.map_or(SECOND / 2, |span| span.0),
            high: bursts.high.unwrap_or(2.0),
            low: bursts.low.unwrap_or(0.0),
        }),
        clients: table.clients.unwrap_or(1_000).max(1),
        route: index,
        service,
        class: match Class::new(class) {
            Some(class) => class,
            None => return wrong(format!("a `class` is 0 to 7, and {class} is not")),
        },
        timeout: table.timeout.map_or(SECOND, |span| span.0),
        retries: table.retries.unwrap_or(0),
        backoff: table.backoff,
        obey: table.obey_retry_after.unwrap_or(false),
        tell: table.tell_deadline.unwrap_or(false),
        leave: (leave > 0.0).then(|| {
            (leave, table.leave_after.unwrap_or(Law::Exponential(Duration::from_millis(100))))
        }),
        name,
    })
}

fn churn(table: &ChurnTable) -> Churn {
    let length = table.pause_for.unwrap_or(Span(Duration::from_millis(200)));
    Churn {
        reconfigure_every: table.reconfigure_every.map(|span| span.0),
        pause: table.pause_every.map(|every| (every.0, length.0)),
    }
}

fn windows(given: Option<&[Window]>, duration: Duration) -> Result<Vec<Window>, Wrong> {
    let windows = given.map_or(vec![Window { from: duration / 10, to: duration }], <[_]>::to_vec);
    let apart = windows.windows(2).all(|pair| pair[0].to <= pair[1].from);
    let inside = windows.iter().all(|window| window.to <= duration);
    if windows.is_empty() || !apart || !inside {
        let help = "write them in order, apart, and within `duration`";
        return wrong(format!("the windows do not fit: {help}"));
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(text: &str) -> Result<Scenario, ScenarioError> {
        let file = ScenarioFile::parse("s.toml", text).unwrap();
        scenario(&file, &file.tables, "s", LimitWord::Auto)
    }

    #[test]
    fn defaults_are_those_of_a_user_who_says_nothing() {
        let scenario = built("[[group]]\nload = 0.5\n").unwrap();
        assert_eq!(scenario.groups[0].rates, [(Duration::ZERO, 400.0)]);
        assert_eq!(scenario.limits.lanes, [default_lane()]);
        assert_eq!(scenario.windows[0].to_string(), "3s..30s");
        assert!(matches!(scenario.limits.budget, Budget::Auto(_)));
    }

    #[test]
    fn mistakes_are_named_with_what_to_write() {
        let error = |text: &str| built(text).unwrap_err().to_string();
        let unknown = error("[[group]]\nrate = \"1/s\"\nroute = \"x\"\n");
        assert_eq!(unknown, "s.toml:3:9: no route is called \"x\": write one of default");
        assert!(error("[[group]]\n").contains("write `rate ="));
        assert!(error("[[group]]\nrate = \"1/s\"\nload = 1.0\n").contains("leave one"));
        assert!(error("[[group]]\nrate = \"1/s\"\nclass = 9\n").contains("0 to 7"));
        assert!(error("windows = [\"5s..40s\"]\n[[group]]\nload = 1.0\n").contains("within"));
        assert!(error("[app]\nworkers = 0\n").contains("at least one"));
    }
}
