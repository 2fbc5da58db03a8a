// The parts of the page, each written anew once a second.

let chosen = null;

const CHARTS = [
  {
    title: 'Requests each second', least: 1, unit: figure,
    areas: [
      { label: 'answered', color: 'good', say: figure, of: s => at(s, chosen).answered / s.seconds },
      { label: 'failed', color: 'down', rare: true, say: figure, of: s => at(s, chosen).failed / s.seconds },
      { label: 'left the queue', color: 'gold', rare: true, say: figure, of: s => at(s, chosen).abandoned / s.seconds },
      { label: 'turned away', color: 'over', say: figure, of: s => at(s, chosen).turned_away / s.seconds },
    ],
    lines: [{ label: 'arriving', color: 'soft', dash: [3, 3], say: figure, of: s => at(s, chosen).arrivals / s.seconds }],
  },
  {
    title: 'In the app at once', least: 2, unit: figure,
    areas: [{ label: 'slots in use', color: 'blue', say: figure, of: s => chosen ? at(s, chosen).in_flight : inside(s) }],
    lines: [{ label: 'limit', color: 'text', dash: [5, 3], say: figure, of: s => limitAt(s, chosen) }],
  },
  {
    title: 'Waiting for a slot', least: 2, unit: figure,
    areas: [{ label: 'requests', color: 'busy', say: figure, of: s => at(s, chosen).queue }],
    lines: [],
  },
  {
    title: 'Times', least: 10, unit: time,
    areas: [],
    lines: [
      { label: 'wait', color: 'busy', say: time, of: s => at(s, chosen).wait_mean },
      { label: '99 %', color: 'busy', dash: [2, 3], say: time, of: s => at(s, chosen).wait_p99 },
      { label: 'app', color: 'blue', say: time, of: s => at(s, chosen).service_mean },
      { label: '90 %', color: 'blue', dash: [2, 3], say: time, of: s => at(s, chosen).service_p90 },
    ],
  },
];

// Slots of the limits in use; streams and probes stand beside them.
const inside = sample => sample.upstreams.reduce((sum, upstream) => sum + upstream.in_flight, 0);

// Once: the figures and their canvases.
function build() {
  for (const chart of CHARTS) {
    chart.canvas = make('canvas', { role: 'img', ariaLabel: chart.title });
    chart.legend = make('span.legend');
    for (const series of [...chart.areas, ...chart.lines]) {
      series.value = make('b');
      const entry = series.entry = make(chart.areas.includes(series) ? 'span' : 'span.line', {}, `${series.label} `, series.value);
      entry.style.setProperty('--c', `var(--${series.color})`);
      chart.legend.append(entry);
    }
    const figure = make('figure.card', {}, make('figcaption', {}, chart.title, chart.legend), chart.canvas);
    $('charts').append(figure);
    figure.addEventListener('pointermove', event => {
      const box = chart.canvas.getBoundingClientRect();
      pointer = Math.min(1, Math.max(0, (event.clientX - box.left - EDGES[0]) / (box.width - EDGES[0] - EDGES[1])));
      charts();
    });
    figure.addEventListener('pointerleave', () => { pointer = null; charts(); });
  }
  for (const [seconds, label] of [[60, '1 min'], [300, '5 min'], [900, '15 min']]) {
    const button = make('button', { type: 'button', onclick: () => { range = seconds; charts(); } }, label);
    button.dataset.seconds = seconds;
    $('ranges').append(button);
  }
  for (const [color, label] of [['good', 'fine'], ['busy', 'queue in use'], ['over', 'turning away'], ['down', 'app failing']]) {
    const entry = make('span', {}, label);
    entry.style.setProperty('--c', `var(--${color})`);
    $('key').append(entry);
  }
}

function charts() {
  if (!samples.length) return;
  const end = newest().at;
  const list = samples.filter(sample => sample.at >= end - shownSpan());
  const spot = pointed(list, end);
  for (const chart of CHARTS) {
    draw(chart, list, end);
    for (const series of [...chart.areas, ...chart.lines]) {
      write(series.value, series.say(series.of(spot || newest())));
      series.entry.hidden = Boolean(series.rare) && !list.some(series.of);
    }
  }
  write($('chosen').firstChild || $('chosen'), '');
  $('chosen').replaceChildren(...[
    chosen && `of ${chosen}`,
    chosen && make('button', { type: 'button', onclick: () => choose(null) }, 'all routes'),
    spot && ` at ${clock(spot.at)}`,
  ].filter(Boolean));
  for (const button of $('ranges').children) button.ariaPressed = String(Number(button.dataset.seconds) === shownSpan());
}

function choose(name) {
  chosen = chosen === name ? null : name;
  paint();
}

function verdict() {
  $('verdict').className = `card ${now.level}`;
  write($('text'), now.text);
  write($('detail'), now.detail);
  const mark = { overloaded: '▲ ', down: '✕ ', failing: '✕ ' }[now.level] || '';
  document.title = `${mark}${now.text.split(':')[0]} · tidegate`;
}

function tile(id, big, unit, small) {
  const [, number] = $(id).children;
  number.replaceChildren(big, ...(unit ? [make('small', {}, ` ${unit}`)] : []));
  write($(id).querySelector('p'), small);
}

function flow() {
  const recent = latest(3);
  const all = over(recent, null);
  const used = recent.reduce((sum, sample) => sum + inside(sample), 0) / recent.length;
  // The limit may have moved meanwhile.
  const limit = Math.max(...recent.map(sample => limitAt(sample, null)));
  const places = facts.routes.reduce((sum, route) => sum + (route.order ? route.max_queue : 0), 0);
  tile('arriving', figure(all.arrivals), '/s', all.arrivals ? 'requests each second' : 'no requests at the moment');
  const waiting = Math.round(all.queue);
  // Nobody's wait has ended in the last seconds: there is no mean.
  const mean = all.wait_mean === null ? '' : `for ${time(all.wait_mean)} on average, `;
  tile('waiting', figure(waiting), '', waiting ? `${mean}of ${round(places, 0)} places` : `room for ${many(places, 'request', 'requests')}`);
  const dots = $('waiting').querySelector('.dots');
  count(dots, Math.min(waiting, 24), 'i');
  dots.classList.toggle('none', !waiting);
  const slots = used > 0 ? Math.max(1, Math.round(used)) : 0;
  const auto = facts.upstreams.some(upstream => upstream.mode === 'auto');
  tile('inside', round(slots, 0), `of ${round(limit, 0)} slots`, auto ? 'the limit finds itself' : 'the limit that you set');
  cells($('inside').querySelector('.cells'), slots, limit);
  tile('answered', figure(all.answered), '/s', all.answered
    ? `in ${time(all.service_mean)} on average${all.service_p90 === null ? '' : `, 9 of 10 within ${time(all.service_p90)}`}`
    : 'by the app');
  const part = all.turned_away / Math.max(all.arrivals, all.turned_away, 1e-9);
  tile('refused', figure(all.turned_away), '/s', all.turned_away ? `${percent(part)} of all: ${worst(all)}` : 'nobody');
  $('refused').classList.toggle('some', all.turned_away > 0);
}

const worst = row => facts.reasons[row.rejected.indexOf(Math.max(...row.rejected))].replaceAll('_', ' ');

function count(parent, wanted, tag) {
  while (parent.children.length > wanted) parent.lastChild.remove();
  while (parent.children.length < wanted) parent.append(make(tag));
}

// A cell for each slot, as long as they can be told apart.
function cells(parent, used, limit) {
  if (limit > 64) {
    if (!parent.querySelector('.meter')) parent.replaceChildren(make('span.meter', {}, make('i')));
    parent.querySelector('i').style.width = `${Math.min(100, (100 * used) / limit)}%`;
    return;
  }
  if (parent.querySelector('.meter')) parent.replaceChildren();
  count(parent, limit, 'i');
  const lines = Math.ceil(limit / 16);
  parent.style.gridTemplateColumns = `repeat(${Math.max(6, Math.ceil(limit / lines))}, 1fr)`;
  [...parent.children].forEach((cell, index) => cell.classList.toggle('on', index < used));
}

// === Routes ===

const rows = new Map();
// Of more routes than this only so many are shown, unless all are asked for.
const MANY_ROUTES = 16;
const SHOWN_ROUTES = 12;
let unfolded = false;
let picked = {};
// What a phone, which has no room for the head of the table, writes beside the figures.
const LABELS = ['waiting', 'arriving', 'answered', 'turned away', 'wait', 'app time'];

// First those that turn away, then those that keep the app busiest. Looked for now and then, so that
// rows do not come and go while somebody reads them; at once where one begins to turn away for
// which there is room, and after a reload.
function pick(routes) {
  const age = newest().at - picked.at;
  const begins = picked.room && [...newest().routes].some(([name, row]) => row.turned_away && !picked.names.has(name));
  if (picked.facts === facts && age >= 0 && age < 10 && !begins) return picked.names;
  const recent = new Map(routes.map(route => [route.name, over(latest(60), route.name)]));
  const rank = (a, b) => {
    const [one, other] = [recent.get(a.name), recent.get(b.name)];
    return other.turned_away - one.turned_away || other.in_flight - one.in_flight || other.arrivals - one.arrivals;
  };
  const names = [...routes].sort(rank).slice(0, SHOWN_ROUTES).map(route => route.name);
  const room = names.some(name => !recent.get(name).turned_away);
  picked = { at: newest().at, facts, names: new Set(names), room };
  return picked.names;
}

function routes() {
  const all = facts.routes.filter(route => route.kind !== 'deny');
  const folds = all.length > MANY_ROUTES;
  const names = folds && !unfolded && pick(all);
  const shown = names ? all.filter(route => names.has(route.name) || route.name === chosen) : all;
  const body = document.querySelector('#routes tbody');
  for (const [name, row] of rows) {
    if (!shown.some(route => route.name === name)) { row.remove(); rows.delete(name); }
  }
  for (const [place, route] of shown.entries()) {
    if (!rows.has(route.name)) rows.set(route.name, row(route));
    const element = rows.get(route.name);
    if (body.children[place] !== element) body.insertBefore(element, body.children[place] || null);
    fill(element, route);
  }
  $('fold').hidden = !folds;
  const [said, button] = $('fold').children;
  write(said, unfolded ? '' : `Only the busiest of ${all.length} routes.`);
  write(button, unfolded ? 'show the busiest only' : 'show all');
}

function fold() {
  unfolded = !unfolded;
  picked = {};
  paint();
}

function row(route) {
  const button = make('button', { type: 'button', onclick: () => choose(route.name) }, route.name);
  const slots = make('td.slots', {}, make('span.meter', {}, make('i')), make('small'));
  const cells = LABELS.map(label => {
    const cell = make(label === 'wait' || label === 'app time' ? 'td.late' : 'td');
    cell.dataset.label = label;
    return cell;
  });
  const last = make('td.spark', {}, make('canvas'));
  return make('tr', {}, make('th', { scope: 'row' }, button, make('small', {}, about(route))), slots, ...cells, last);
}

function about(route) {
  const words = [route.path];
  if (route.kind !== 'request') words.push(route.kind);
  if (route.kind === 'request' && route.class !== 3) words.push(`class ${route.class}`);
  if (route.reserved) words.push(`${route.reserved} reserved`);
  if (!route.enforce) words.push('shadow');
  return words.join(' · ');
}

function fill(element, route) {
  const recent = over(latest(3), route.name);
  const limit = Math.max(...latest(3).map(sample => limitAt(sample, route.name)));
  const used = recent.in_flight > 0 && recent.in_flight < 0.1 ? '< 0.1' : figure(recent.in_flight);
  const [, slots, waiting, arriving, answered, refused, wait, service, last] = element.children;
  slots.querySelector('i').style.width = `${limit ? Math.min(100, (100 * recent.in_flight) / limit) : 0}%`;
  write(slots.querySelector('small'), limit ? `${used} of ${limit}` : used);
  write(waiting, figure(Math.round(recent.queue)));
  write(arriving, `${figure(recent.arrivals)}/s`);
  write(answered, `${figure(recent.answered)}/s`);
  write(refused, recent.turned_away ? `${figure(recent.turned_away)}/s` : '–');
  refused.className = recent.turned_away ? 'bad' : '';
  write(wait, recent.arrivals ? time(recent.wait_mean) : '–');
  write(service, time(recent.service_mean));
  element.classList.toggle('chosen', chosen === route.name);
  if (last.offsetParent) spark(last.firstChild, route.name, newest().at);
}

// === Cards ===

function list(parent, title, ...parts) {
  parent.replaceChildren(make('h3', {}, title), ...parts);
}

const pairs = entries => make('dl', {}, ...entries.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));

function limits() {
  const parts = facts.upstreams.flatMap((upstream, index) => {
    const state = newest().upstreams[index];
    const name = facts.upstreams.length > 1 ? `${upstream.name}: ` : '';
    if (upstream.mode === 'fixed') {
      const open = state.open ? ` ${many(state.open, 'slot is', 'slots are')} held by responses that stay open.` : '';
      return [make('p', {}, `${name}You set max_in_flight = ${upstream.max}: the app never gets more than ${upstream.max} requests at once.${open}`)];
    }
    const [moved, why] = DECISION[facts.decisions[state.decision]];
    const found = [make('p', {}, `${name}It finds itself, between ${upstream.min} and ${upstream.max}. It ${moved}, since ${why}.`)];
    if (state.open) {
      found.push(make('p', {}, `${many(state.open, 'response that stays open counts', 'responses that stay open count')} on top of what it has found.`));
    }
    if (state.throughput) {
      found.push(pairs([
        ['Done when full', `${figure(state.throughput)}/s`],
        ['App time then', time(state.latency)],
        ['Without congestion', time(state.baseline)],
        ['Gain of the last rise', percent(Math.max(0, state.elasticity))],
      ]));
    }
    return found;
  });
  list($('limits'), `Why ${round(limitAt(newest(), null), 0)} slots?`, ...parts);
}

function reasons() {
  const sums = facts.reasons.map((_, index) => samples.reduce((sum, sample) => sum + (at(sample, chosen).rejected[index] || 0), 0));
  const all = sums.reduce((sum, count) => sum + count, 0);
  const age = span(newest().at - samples[0].at + 1);
  if (!all) return list($('reasons'), 'Turned away, and why', make('p.soft', {}, `Nobody within ${age}.`));
  const order = sums.map((_, index) => index).filter(index => sums[index]).sort((a, b) => sums[b] - sums[a]);
  const bars = order.flatMap(index => {
    const fill = make('i');
    fill.style.width = `${(100 * sums[index]) / all}%`;
    const name = make('span', { title: WHY[facts.reasons[index]] || '' }, facts.reasons[index].replaceAll('_', ' '));
    return [name, make('span', {}, `${round(sums[index], 0)} · ${percent(sums[index] / all)}`), make('span.meter', {}, fill)];
  });
  return list($('reasons'), 'Turned away, and why', make('p.soft', {}, `${many(all, 'request', 'requests')} within ${age}`), make('div.why', {}, ...bars));
}

function app() {
  const entries = facts.upstreams.map((upstream, index) => {
    const state = newest().upstreams[index];
    const words = state.paused ? 'is waited for' : state.up ? 'reachable' : 'not reachable';
    const light = make(state.up && !state.paused ? 'i.state' : 'i.state.off');
    const name = facts.upstreams.length > 1 ? `${upstream.name}, ` : '';
    return make('div', {}, make('p', {}, light, `${name}${upstream.address}: ${words}`), pairs([
      ['Connections to it', round(state.connections, 0)],
    ]));
  });
  const all = over(latest(60), null);
  const ended = all.answered + all.failed;
  list($('app'), 'The app', ...entries, pairs([
    ['No answer, last minute', ended ? percent(all.failed / ended) : '–'],
    ['Clients that leave the queue', `${figure(all.abandoned)}/s`],
  ]));
}

function setup() {
  const reload = facts.last_reload;
  const loaded = `${facts.loaded > facts.started + 1 ? 'reloaded' : 'loaded'} ${clock(facts.loaded)}`;
  // The old one stays in force; the diagnostics begin with what is wrong.
  const failed = reload && !reload.ok
    ? [make('p.bad', { title: reload.why }, `A change at ${clock(reload.at)} was not taken: ${reload.why.trim().split('\n')[0]}`)]
    : [];
  list($('setup'), 'tidegate', pairs([
    ['Running for', span(Date.now() / 1000 - facts.started)],
    ['Configuration', loaded],
    ['Listens on', facts.listen.join(', ')],
    ['Connections', `${round(newest().connections, 0)} of ${round(facts.max_connections, 0)}`],
    ['Workers', round(facts.workers, 0)],
  ]), ...failed, make('p', {}, make('a', { href: 'config' }, 'configuration'), ' · ', make('a', { href: 'status.json' }, 'status.json'), ' · ', make('a', { href: 'metrics' }, 'metrics')));
}

const MOST_REJECTIONS = 10;
let told = '';

function rejections() {
  const list = now.rejections.slice(0, MOST_REJECTIONS);
  const key = JSON.stringify(list);
  $('rejections').classList.toggle('none', !list.length);
  write($('nobody'), list.length ? '' : 'Nobody has been turned away.');
  if (key === told) return;
  told = key;
  document.querySelector('#rejections tbody').replaceChildren(...list.map(line => make('tr', {},
    make('td', {}, clock(line.at)),
    make('td', {}, line.route),
    make('td', {}, make('code', {}, `${line.method} ${line.path}`)),
    make('td', {}, line.waited ? time(line.waited * 1000) : '–'),
    make('td', {}, make('span.pill', {}, line.reason.replaceAll('_', ' ')), WHY[line.reason] || ''),
  )));
}

// Everything.
function paint() {
  if (!facts || !now || !samples.length) return;
  write($('about'), `${facts.version} in front of ${facts.upstreams.map(upstream => upstream.address).join(', ')}`);
  verdict();
  band($('band'), newest().at);
  flow();
  charts();
  routes();
  limits();
  reasons();
  app();
  setup();
  rejections();
}
