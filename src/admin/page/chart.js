// Charts on canvas: areas stacked on each other, and lines over them, along a common time.

const GAP = 3;
const EDGES = [52, 6, 8, 18];
let colors = {};
let range = 0;
let pointer = null;

function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ['back', 'card', 'text', 'soft', 'line', 'mute', 'good', 'busy', 'over', 'down', 'blue', 'gold']) {
    colors[name] = style.getPropertyValue(`--${name}`).trim();
  }
  colors.idle = colors.line;
}

// A canvas as sharp as the screen; its context, scaled to CSS pixels.
function sheet(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

// The first round number that reaches so far, and whose half is round too.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 3, 4, 6, 8, 10].map(step => step * power).find(step => step >= value * 0.999);
}

// The time shown: what was chosen, or as much as there is.
function shownSpan() {
  if (range) return range;
  const age = samples.length ? newest().at - samples[0].at : 0;
  return age < 55 ? 60 : age < 290 ? 300 : 900;
}

// Runs of samples without a hole between them; in a hole nothing is drawn.
function runs(list) {
  const found = [];
  list.forEach((sample, index) => {
    if (!index || sample.at - list[index - 1].at > GAP) found.push([]);
    found[found.length - 1].push(sample);
  });
  return found;
}

// { canvas, areas: [{ of, color }], lines: [{ of, color, dash }], unit, least }
function draw(chart, list, end) {
  const { pen, width, height } = sheet(chart.canvas);
  const [left, right, top, bottom] = EDGES;
  const shown = shownSpan();
  const x = at => left + (1 - (end - at) / shown) * (width - left - right);
  const stacked = sample => chart.areas.reduce((sum, area) => sum + (area.of(sample) || 0), 0);
  const highest = Math.max(chart.least, ...list.map(sample => Math.max(stacked(sample), ...chart.lines.map(line => line.of(sample) || 0))));
  const most = ceiling(highest * 1.04);
  const y = value => height - bottom - (value / most) * (height - top - bottom);

  pen.font = '11px system-ui, sans-serif';
  pen.fillStyle = colors.soft;
  pen.strokeStyle = colors.line;
  pen.lineWidth = 1;
  pen.textAlign = 'right';
  pen.textBaseline = 'middle';
  for (const part of [0, 0.5, 1]) {
    const level = Math.round(y(most * part)) + 0.5;
    pen.beginPath();
    pen.moveTo(left, level);
    pen.lineTo(width - right, level);
    pen.stroke();
    pen.fillText(part ? chart.unit(most * part) : '0', left - 6, level);
  }
  pen.textBaseline = 'alphabetic';
  const step = shown <= 60 ? 15 : shown / 5;
  for (let back = 0; back <= shown; back += step) {
    pen.textAlign = back === 0 ? 'right' : back === shown ? 'left' : 'center';
    const words = back === 0 ? 'now' : shown <= 60 ? `${back} s` : `${back / 60} min`;
    pen.fillText(back ? `−${words}` : words, x(end - back), height - 4);
  }

  pen.save();
  pen.beginPath();
  pen.rect(left, 0, width - left - right, height);
  pen.clip();
  for (const run of runs(list)) {
    const base = run.map(() => 0);
    for (const area of chart.areas) {
      pen.beginPath();
      run.forEach((sample, index) => pen.lineTo(x(sample.at), y(base[index] + (area.of(sample) || 0))));
      const upper = run.map((sample, index) => base[index] + (area.of(sample) || 0));
      for (let index = run.length - 1; index >= 0; index--) pen.lineTo(x(run[index].at), y(base[index]));
      pen.closePath();
      pen.globalAlpha = 0.28;
      pen.fillStyle = colors[area.color];
      pen.fill();
      pen.globalAlpha = 1;
      // No line where there is nothing: it would hide the one below.
      let piece = [];
      run.forEach((sample, index) => {
        const next = [x(sample.at), y(upper[index])];
        if (upper[index] > base[index] || chart.areas.length === 1) piece.push(next);
        else { stroke(pen, piece, colors[area.color], 1.6); piece = []; }
      });
      stroke(pen, piece, colors[area.color], 1.6);
      upper.forEach((value, index) => { base[index] = value; });
    }
    for (const line of chart.lines) {
      const points = run.map(sample => [x(sample.at), line.of(sample)]).filter(point => point[1] !== null);
      stroke(pen, points.map(([across, value]) => [across, y(value)]), colors[line.color], 1.6, line.dash);
    }
  }
  if (pointer !== null) {
    const across = left + pointer * (width - left - right);
    stroke(pen, [[across, top], [across, height - bottom]], colors.soft, 1);
  }
  pen.restore();
}

function stroke(pen, points, color, width, dash) {
  if (!points.length) return;
  pen.beginPath();
  pen.setLineDash(dash || []);
  points.forEach(([across, up]) => pen.lineTo(across, up));
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.lineJoin = 'round';
  pen.stroke();
  pen.setLineDash([]);
}

// The sample below the pointer, or null.
function pointed(list, end) {
  if (pointer === null || !list.length) return null;
  const wanted = end - (1 - pointer) * shownSpan();
  const near = list.reduce((best, sample) => Math.abs(sample.at - wanted) < Math.abs(best.at - wanted) ? sample : best);
  return Math.abs(near.at - wanted) <= GAP ? near : null;
}

// The band: one thin bar a second, in the colour of its mood.
function band(canvas, end) {
  const { pen, width, height } = sheet(canvas);
  pen.fillStyle = colors.idle;
  pen.fillRect(0, 0, width, height);
  const thin = width / KEPT;
  for (const sample of samples) {
    pen.fillStyle = colors[mood(sample)];
    pen.fillRect(width - (end - sample.at + 1) * thin, 0, thin + 0.6, height);
  }
}

// The last two minutes of a route, small: answered below, turned away above.
function spark(canvas, name, end) {
  const { pen, width, height } = sheet(canvas);
  const list = samples.filter(sample => sample.at > end - 120);
  const sum = sample => { const row = at(sample, name); return row.answered + row.turned_away; };
  const most = Math.max(1, ...list.map(sum));
  const thin = width / 120;
  for (const sample of list) {
    const row = at(sample, name);
    const across = width - (end - sample.at + 1) * thin;
    const low = (row.answered / most) * (height - 1);
    const high = (row.turned_away / most) * (height - 1);
    pen.fillStyle = colors.good;
    pen.fillRect(across, height - low, thin + 0.3, low);
    pen.fillStyle = colors.over;
    pen.fillRect(across, height - low - high, thin + 0.3, high);
  }
}
