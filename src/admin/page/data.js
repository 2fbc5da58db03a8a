// The last 15 minutes: samples as they came, and sums over routes.

const KEPT = 900;
const samples = [];
let facts = null;
let now = null;
let lastId = '';

const EMPTY = {
  in_flight: 0, queue: 0, arrivals: 0, answered: 0, failed: 0, abandoned: 0, turned_away: 0,
  wait_mean: null, wait_p99: null, service_mean: null, service_p90: null, rejected: [],
};

const named = (fields, row) => Object.fromEntries(fields.map((field, index) => [field, row[index]]));

// Rows become objects, and indices names: after a restart the same index may be another route.
function take(event, id) {
  if (!facts) return;
  lastId = id;
  const newest = samples[samples.length - 1];
  if (newest && event.at <= newest.at) return;
  const routes = new Map();
  for (const row of event.routes) {
    const route = named(facts.route_fields, row);
    route.turned_away = route.rejected.reduce((sum, count) => sum + count, 0);
    route.seconds = event.seconds;
    routes.set(facts.routes[route.route].name, route);
  }
  const upstreams = event.upstreams.map(row => named(facts.upstream_fields, row));
  samples.push({ at: event.at, seconds: event.seconds, connections: event.connections, routes, upstreams, started: facts.started });
  while (samples.length > KEPT || (samples.length && samples[0].at < event.at - KEPT)) samples.shift();
}

// Means weighted by how often, since routes and seconds differ.
function blend(into, route) {
  for (const field of ['in_flight', 'queue', 'arrivals', 'answered', 'failed', 'abandoned', 'turned_away']) into[field] += route[field];
  route.rejected.forEach((count, index) => { into.rejected[index] = (into.rejected[index] || 0) + count; });
  const waits = route.answered + route.turned_away || 1;
  for (const [mean, p99, weight] of [['wait_mean', 'wait_p99', waits], ['service_mean', 'service_p90', route.answered || 1]]) {
    if (route[mean] === null) continue;
    const known = into[`${mean}_weight`] || 0;
    into[mean] = ((into[mean] || 0) * known + route[mean] * weight) / (known + weight);
    if (route[p99] !== null) into[p99] = Math.max(into[p99] || 0, route[p99]);
    into[`${mean}_weight`] = known + weight;
  }
  return into;
}

const blank = () => ({ ...EMPTY, rejected: [] });

// One sample: a route's figures, or those of all together; null where the route did not exist.
function at(sample, name) {
  if (name) return sample.routes.get(name) || EMPTY;
  sample.all ??= [...sample.routes.values()].reduce(blend, blank());
  return sample.all;
}

// Several seconds as one: counts a second, and means.
function over(list, name) {
  const total = list.map(sample => at(sample, name)).reduce(blend, blank());
  const seconds = list.reduce((sum, sample) => sum + sample.seconds, 0) || 1;
  for (const field of ['arrivals', 'answered', 'failed', 'abandoned', 'turned_away']) total[field] /= seconds;
  for (const field of ['in_flight', 'queue']) total[field] /= list.length || 1;
  return total;
}

const latest = count => samples.slice(-count);
const newest = () => samples[samples.length - 1];

// The slots of a route, or of all upstreams; slots of streams and probes are not among the latter.
function limitAt(sample, name) {
  if (!name) return sample.upstreams.reduce((sum, upstream) => sum + upstream.limit, 0);
  const route = facts.routes.find(route => route.name === name);
  const row = sample.routes.get(name);
  if (row) return row.limit;
  if (!route || !sample.upstreams[route.upstream]) return 0;
  return Math.min(route.cap ?? Infinity, sample.upstreams[route.upstream].limit);
}

// How a second was: for the band below the verdict.
function mood(sample) {
  const all = at(sample, null);
  if (sample.upstreams.some(upstream => !upstream.up)) return 'down';
  if (all.failed > 0.05 * (all.answered + all.failed)) return 'down';
  if (all.turned_away > 0) return 'over';
  if (all.queue >= 0.5) return 'busy';
  return all.arrivals > 0 || all.in_flight > 0 ? 'good' : 'idle';
}
