//! From one configuration to the next: what keeps its place, what is new, what is no more.
//!
//! Upstreams and routes are the same if their names are. A route keeps its lane unless it goes to
//! another upstream, or in or out of the budget; its old lane then goes on until it is empty, as
//! does that of a route that is no more. Nothing is ever forgotten: counters must not fall.

use std::sync::Arc;

use super::backend::{Backend, LaneAt};
use super::forwarded::Forwarding;
use super::plan::{Plan, lane_limits, limits};
use super::route::RouteTable;
use super::{Common, Proxy};
use crate::config::{Config, Route, Upstream};
use crate::gate::LaneLimits;
use crate::upstream::Connect;

/// A route of an earlier configuration, and every lane that it had.
#[derive(Debug)]
pub(super) struct Former {
    pub(super) name: String,
    pub(super) lanes: Vec<LaneAt>,
}

/// What there was before.
#[derive(Default)]
pub(super) struct Past {
    backends: Vec<Arc<Backend>>,
    /// The lanes of each route, the latest first.
    routes: Vec<Former>,
}

/// The lanes of one gate under the next configuration.
struct Lanes<'c> {
    upstream: &'c Upstream,
    backend: Arc<Backend>,
    limits: Vec<LaneLimits>,
    /// Whether a lane has found its route.
    taken: Vec<bool>,
}

// === impl Past ===

impl Past {
    pub(super) fn of(proxy: &Proxy) -> Past {
        let lanes = |plan: &Plan| plan.lane_at().into_iter().chain(plan.former.clone()).collect();
        let plans = proxy.plans.iter();
        let routes = plans.map(|plan| Former { name: plan.name.clone(), lanes: lanes(plan) });
        let former = proxy.former.iter();
        let former =
            former.map(|route| Former { name: route.name.clone(), lanes: route.lanes.clone() });
        Past { backends: proxy.backends.clone(), routes: routes.chain(former).collect() }
    }

    fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.name() == name)
    }

    fn lanes_of(&self, route: &str) -> &[LaneAt] {
        let past = self.routes.iter().find(|past| past.name == route);
        past.map_or(&[], |past| &past.lanes)
    }
}

/// What a configuration makes of what there was. Gates change here; who comes with the old
/// configuration is still served by it.
pub(super) fn build(
    config: &Config,
    common: Arc<Common>,
    past: &Past,
    connect: &dyn Fn(&Upstream) -> Box<dyn Connect>,
) -> Arc<Proxy> {
    let workers = common.lags.len();
    let mut gates: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| {
            let backend = match past.backend(&upstream.name) {
                Some(backend) => {
                    backend.go(upstream, connect(upstream), workers);
                    Arc::clone(backend)
                }
                None => Backend::new(upstream, connect(upstream), workers),
            };
            Lanes::new(upstream, backend)
        })
        .collect();
    let plans: Vec<_> = config
        .routes
        .iter()
        .map(|route| {
            let gate = &mut gates[route.upstream];
            let lanes = gate.assign(route, past.lanes_of(&route.name));
            let metrics = common.metrics.route(route);
            Plan::new((route, gate.upstream), Arc::clone(&gate.backend), lanes, metrics)
        })
        .collect();
    for gate in &gates {
        gate.backend.reconfigure(&limits(gate.upstream, gate.limits.clone()));
    }
    let mut backends: Vec<_> = gates.iter().map(|gate| Arc::clone(&gate.backend)).collect();
    for backend in &past.backends {
        if !backends.iter().any(|kept| Arc::ptr_eq(kept, backend)) {
            backend.retire();
            backends.push(Arc::clone(backend));
        }
    }
    let gone = past.routes.iter().filter(|past| !plans.iter().any(|plan| plan.name == past.name));
    let former = gone.map(|past| Former { name: past.name.clone(), lanes: past.lanes.clone() });
    let former = former.collect();
    Arc::new(Proxy {
        table: RouteTable::new(&config.routes),
        plans,
        former,
        backends,
        forwarding: Forwarding::new(config.server.forwarded, &config.server.trusted_proxies),
        common,
    })
}

// === impl Lanes ===

impl<'c> Lanes<'c> {
    fn new(upstream: &'c Upstream, backend: Arc<Backend>) -> Lanes<'c> {
        let limits = backend.hidden_lanes();
        let taken = vec![false; limits.len()];
        Lanes { upstream, backend, limits, taken }
    }

    /// The lane of a route, and those that it had before; `had` has the latest first.
    fn assign(&mut self, route: &Route, had: &[LaneAt]) -> (Option<usize>, Vec<LaneAt>) {
        let Some(limits) = lane_limits(route, self.upstream) else { return (None, had.to_vec()) };
        let fits = |at: &&LaneAt| {
            let here = Arc::ptr_eq(&at.backend, &self.backend);
            here && self.limits[at.lane].kind == limits.kind && !self.taken[at.lane]
        };
        let lane = had.iter().find(fits).map(|at| at.lane);
        let lane = lane.unwrap_or_else(|| {
            self.limits.push(limits);
            self.taken.push(false);
            self.limits.len() - 1
        });
        self.limits[lane] = limits;
        self.taken[lane] = true;
        let others =
            had.iter().filter(|at| !(Arc::ptr_eq(&at.backend, &self.backend) && at.lane == lane));
        (Some(lane), others.cloned().collect())
    }
}
