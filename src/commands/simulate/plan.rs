//! From flags and files to a scenario.

use std::path::Path;

use super::SimulateArgs;
use crate::config::scenario::{
    AppTable, GateTable, GroupTable, LimitWord, RouteTable, ScenarioFile, Spanned, Tables,
};
use crate::config::{self, Config, Format, Overrides};
use crate::gate::Limits;
use crate::proxy::{lane_limits, limits};
use crate::simulate::build;
use crate::simulate::scenario::Scenario;

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) scenario: Scenario,
    pub(super) seeds: Vec<u64>,
}

/// What a configuration says about one upstream.
struct Configured {
    routes: Vec<String>,
    limits: Limits,
}

/// The scenario that the flags ask for.
pub(super) fn plan(args: &SimulateArgs) -> Result<Plan, String> {
    plan_with(args, args.config.as_deref())
}

/// The same, with the limits of another configuration.
pub(super) fn plan_with(args: &SimulateArgs, config: Option<&Path>) -> Result<Plan, String> {
    let file = match &args.scenario {
        Some(path) => ScenarioFile::load(path).map_err(|error| error.to_string())?,
        None => ScenarioFile::parse("flags", "").map_err(|error| error.to_string())?,
    };
    let mut tables = chosen(args, &file)?;
    let configured = config.map(|path| configured(path, args)).transpose()?;
    if let Some(configured) = &configured {
        tables.route = Some(routes_of(configured, &tables, args));
    }
    let limit = limit(args, &mut tables)?;
    let catch_all = configured.as_ref().and_then(|configured| configured.routes.last());
    apply_flags(args, &mut tables, args.route.as_ref().or(catch_all))?;
    let name = match (&args.scenario, &args.case) {
        (Some(path), Some(case)) => format!("{}/{case}", stem(path)),
        (Some(path), None) => stem(path),
        (None, _) => "simulation".to_owned(),
    };
    let built = build::scenario(&file, &tables, &name, limit);
    let mut scenario = built.map_err(|error| error.to_string())?;
    if let Some(configured) = configured {
        let chosen = args.max_in_flight.is_some() || args.limit.is_some();
        let budget = if chosen { scenario.limits.budget } else { configured.limits.budget };
        scenario.limits = Limits { budget, ..configured.limits };
    }
    let first = args.seed.or(tables.first_seed).unwrap_or(1);
    let seeds = (first..).take(args.seeds.unwrap_or(1).max(1) as usize).collect();
    Ok(Plan { scenario, seeds })
}

/// The name of a file without its ending.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The tables of the file, with those of the chosen case over them.
fn chosen(args: &SimulateArgs, file: &ScenarioFile) -> Result<Tables, String> {
    let mut tables = file.tables.clone();
    let cases = tables.case.take().unwrap_or_default();
    let Some(name) = &args.case else { return Ok(tables) };
    let found = cases.iter().find(|case| case.name.as_ref() == Some(name));
    let case = found.ok_or_else(|| {
        let names: Vec<_> = cases.iter().filter_map(|case| case.name.as_deref()).collect();
        format!("{}: no case is called \"{name}\": take one of {}", file.name, names.join(", "))
    })?;
    Ok(case.set.clone().unwrap_or_default().over(tables))
}

/// Who sets the limit, and to what.
fn limit(args: &SimulateArgs, tables: &mut Tables) -> Result<LimitWord, String> {
    let gate = tables.gate.get_or_insert_with(GateTable::default);
    match (args.max_in_flight.as_deref(), args.limit) {
        (None, limit) => Ok(limit.unwrap_or(LimitWord::Auto)),
        (Some("auto"), limit) => Ok(limit.unwrap_or(LimitWord::Auto)),
        (Some(number), limit) => {
            let fixed = number.parse().ok().filter(|number| *number > 0);
            let problem =
                || format!("--max-in-flight is a number or auto, and \"{number}\" is not");
            gate.fixed = Some(fixed.ok_or_else(problem)?);
            Ok(limit.unwrap_or(LimitWord::Fixed))
        }
    }
}

fn apply_flags(
    args: &SimulateArgs,
    tables: &mut Tables,
    route: Option<&String>,
) -> Result<(), String> {
    tables.duration = args.duration.or(tables.duration);
    if args.duration.is_some() {
        // The windows of the file need not fit any more.
        tables.windows = None;
    }
    let app = tables.app.get_or_insert_with(AppTable::default);
    app.workers = args.workers.or(app.workers);
    let unnamed = || GroupTable { name: Some("clients".to_owned()), ..GroupTable::default() };
    let groups = tables.group.get_or_insert_with(|| vec![unnamed()]);
    if args.rate.is_some() && groups.len() > 1 {
        return Err("--rate is for one group of clients, and the scenario has several".to_owned());
    }
    for group in groups {
        if args.rate.is_some() {
            (group.rate, group.load, group.step) = (args.rate, None, None);
        } else if group.rate.is_none() && group.load.is_none() {
            group.rate = "1200/s".parse().ok();
        }
        group.service = args.service.or(group.service);
        group.timeout = args.timeout.or(group.timeout);
        group.retries = args.retries.or(group.retries);
        if args.route.is_some() || group.route.is_none() {
            group.route = route.map(|route| Spanned::new(0..0, route.clone()));
        }
    }
    Ok(())
}

/// The routes of a configuration, with what the scenario says about those of the same name.
fn routes_of(configured: &Configured, tables: &Tables, args: &SimulateArgs) -> Vec<RouteTable> {
    let known = tables.route.iter().flatten();
    let named = |name: &String| {
        let found = known.clone().find(|table| table.name.as_ref() == Some(name));
        let mut table = found.cloned().unwrap_or_default();
        (table.name, table.service) = (Some(name.clone()), args.service.or(table.service));
        table
    };
    configured.routes.iter().map(named).collect()
}

// === the configuration ===

fn configured(path: &Path, args: &SimulateArgs) -> Result<Configured, String> {
    let flags = Overrides::default();
    let loaded = config::load(path, &config::environment(), &flags)
        .map_err(|report| report.render(Format::Human, false))?;
    let config = loaded.config;
    let upstream = match &args.route {
        None => config.routes.last().map_or(0, |route| route.upstream),
        Some(name) => {
            let found = config.routes.iter().find(|route| route.name == *name);
            let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
            let problem = || format!("no route is called {name}: take one of {}", names.join(", "));
            found.ok_or_else(problem)?.upstream
        }
    };
    Ok(limits_of(&config, upstream))
}

/// The lanes of an upstream's routes, as the proxy makes them.
fn limits_of(config: &Config, upstream: usize) -> Configured {
    let own = config.routes.iter().filter(|route| route.upstream == upstream);
    let upstream = &config.upstreams[upstream];
    let lanes = own.filter_map(|route| Some((route.name.clone(), lane_limits(route, upstream)?)));
    let (routes, lanes) = lanes.unzip();
    Configured { routes, limits: limits(upstream, lanes) }
}
