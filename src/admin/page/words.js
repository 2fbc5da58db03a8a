// Numbers and words for people.

const WHY = {
  queue_full: 'every place in the queue was taken',
  max_wait: 'no slot came free while it waited as long as it may',
  deadline: 'its client would have stopped waiting before the answer',
  standing_queue: 'the queue does not empty any more, so waits are kept short',
  evicted: 'a more important request, or one of a client with fewer, took its place',
  upstream_down: 'the app was away for too long',
  draining: 'tidegate was shutting down',
};

const DECISION = {
  hold: ['stays', 'there is nothing to learn at the moment: it is not full, or the evidence is thin'],
  grow: ['went up', 'more requests in the app brought more answers'],
  shrink: ['went down', 'fewer requests in the app bring just as many answers'],
  back_off: ['went down', 'the app failed, timed out, or was slower than allowed'],
};

const round = (value, digits) => value.toLocaleString('en', { maximumFractionDigits: digits });

// A rate or a mean.
function figure(value) {
  return round(value, value > 0 && value < 9.95 ? 1 : 0);
}

// Milliseconds.
function time(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms < 0.95) return '< 1 ms';
  return ms < 1000 ? `${round(ms, ms < 10 ? 1 : 0)} ms` : `${round(ms / 1000, ms < 1e4 ? 1 : 0)} s`;
}

function percent(part) {
  const all = part * 100;
  return `${all > 0 && all < 1 ? round(all, 1) : round(part < 1 ? Math.min(all, 99) : all, 0)} %`;
}

// Seconds, as a length of time.
function span(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`;
}

const clock = at => new Date(at * 1000).toLocaleTimeString('en-GB');
const many = (count, one, more) => `${round(count, 0)} ${count === 1 ? one : more}`;
const $ = id => document.getElementById(id);

// An element: a tag with classes, properties, and what is inside.
function make(tag, properties, ...inside) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name);
  element.classList.add(...classes);
  Object.assign(element, properties);
  element.append(...inside);
  return element;
}

// Writes only what has changed, so that a selection of text survives.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
