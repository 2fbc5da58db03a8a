// The stream of events: opened, lost, opened again.

let source = null;
let heard = 0;
let tried = 0;
let again = null;

function open() {
  clearTimeout(again);
  if (source) source.close();
  tried = Date.now();
  // Relative, so that it also works below a path.
  source = new EventSource(lastId ? `events?after=${encodeURIComponent(lastId)}` : 'events');
  source.addEventListener('facts', event => { facts = JSON.parse(event.data); });
  source.addEventListener('sample', event => take(JSON.parse(event.data), event.lastEventId));
  source.addEventListener('now', event => {
    now = JSON.parse(event.data);
    heard = Date.now();
    link();
    if (!document.hidden) requestAnimationFrame(paint);
  });
  // A refusal (too many pages) ends the browser's own attempts.
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) again = setTimeout(open, 3000);
  };
}

function link() {
  const quiet = heard ? (Date.now() - heard) / 1000 : 0;
  const lost = heard > 0 && quiet > 3.5;
  document.body.classList.toggle('lost', lost);
  $('link').classList.toggle('live', heard > 0 && !lost);
  write($('link').lastElementChild, lost ? `no word for ${span(quiet)}; trying again` : heard ? 'live' : 'connecting');
  // A connection may be dead without anybody having said so: after a sleep, or behind a proxy.
  if (lost && Date.now() - tried > 5000) open();
  if (lost) document.title = 'no connection · tidegate';
}

// A page that nobody sees costs nothing; seen again, it gets what it missed.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    clearTimeout(again);
    if (source) source.close();
    source = null;
  } else if (!source) {
    heard = heard && Date.now();
    open();
  }
});

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readColors(); paint(); });
addEventListener('resize', paint);
$('fold').lastElementChild.addEventListener('click', fold);
setInterval(() => { if (!document.hidden) link(); }, 1000);
readColors();
build();
open();
