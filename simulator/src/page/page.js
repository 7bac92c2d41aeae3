// Moves what is drawn already to another window of time. Everything with data-t is at that time (until
// data-u, if it lasts); everything else stays where it is.
(() => {
'use strict';
const MOST = 700, PIECES = 48; // messages drawn one by one; pieces of the window when they are too many
const svg = document.getElementById('detail'), data = svg.dataset, NS = svg.namespaceURI;
const left = +data.left, right = +data.right, end = +data.end;
const first = [+data.from, +data.to], lanes = JSON.parse(document.getElementById('steps').textContent);
const overview = document.getElementById('overview'), box = document.getElementById('window');
const parts = [...svg.querySelectorAll('[data-t]')].map(e => ({
  e, t: +e.dataset.t, u: +(e.dataset.u ?? e.dataset.t), tag: e.tagName,
  kind: e.classList.contains('m') ? e.classList[1] : '', guilty: e.classList.contains('guilty'),
  y: e.dataset.n ? (e.dataset.y ?? e.getAttribute('y1') + ' ' + e.getAttribute('y2')).split(' ').map(Number) : null,
  ends: e.dataset.n ? e.dataset.n.split(' ') : [], wide: 6.2 * (e.firstChild?.length ?? 0),
}));
const ORDER = ['other', 'snapshot', 'rejected', 'granted', 'vote', 'prevote', 'entries', 'reading', 'matched', 'heartbeat'];
const many = svg.querySelector('#messages').appendChild(document.createElementNS(NS, 'g'));
let from = first[0], to = first[1], asked = 0;
document.body.classList.add('scripted');

const place = t => left + (Math.min(Math.max(t, from), to) - from) / (to - from) * (right - left);
const put = (e, name, value) => e.setAttribute(name, value.toFixed(1));
const make = (parent, tag, attributes, text) => {
  const e = document.createElementNS(NS, tag);
  for (const name in attributes) e.setAttribute(name, attributes[name]);
  if (text) e.textContent = text;
  parent.appendChild(e);
  return e;
};
const lasting = us => us < 1e3 ? us + ' µs' : us < 1e6 ? +(us / 1e3).toFixed(2) + ' ms' : +(us / 1e6).toFixed(3) + ' s';
const seconds = us => (us / 1e6).toFixed(6) + ' s';
const off = name => [...document.querySelectorAll(`input[data-${name}]`)].filter(e => !e.checked).flatMap(e => e.dataset[name].split(' '));

function draw() {
  asked = 0;
  const noKind = off('kind'), noNode = off('node');
  const counts = {}, seen = [];
  for (const p of parts) {
    const isIn = p.u >= from && p.t <= to;
    if (!p.kind) { show(p, isIn); continue; }
    const passes = p.t < from && p.u > to;
    const wanted = isIn && !passes && !noKind.includes(p.kind) && !p.ends.some(n => noNode.includes(n));
    if (wanted) { counts[p.kind] = (counts[p.kind] ?? 0) + 1; seen.push(p); } else show(p, false);
  }
  // What there are too many of is drawn as streams; what is telling is drawn one by one the longest.
  let room = MOST;
  const streams = new Set(), told = [];
  for (const kind of ORDER) {
    const n = counts[kind] ?? 0;
    if (n > room) { streams.add(kind); told.push(`${n.toLocaleString('en')} ${kind}`); } else room -= n;
  }
  many.replaceChildren();
  const bundles = new Map();
  for (const p of seen) {
    const apart = p.guilty || !streams.has(p.kind);
    show(p, apart);
    if (!apart) {
      const piece = Math.floor((Math.max(p.t, from) - from) / (to - from) * PIECES);
      const key = `${p.kind} ${p.ends} ${piece}`, b = bundles.get(key) ?? { p, n: 0, t: 0, u: 0 };
      b.n++; b.t += p.t; b.u += p.u;
      bundles.set(key, b);
    }
  }
  for (const { p, n, t, u } of bundles.values()) {
    const line = make(many, 'line', { class: 'many ' + p.kind, x1: place(t / n).toFixed(1), x2: place(u / n).toFixed(1),
      y1: p.y[0], y2: p.y[1], 'stroke-width': (1 + Math.log2(n)).toFixed(1) });
    make(line, 'title', {}, `${n} × ${p.kind}, ${p.ends[0]} → ${p.ends[1]}`);
  }
  document.getElementById('hidden').textContent = told.length ? 'Drawn as streams, since they are many in this window: ' + told.join(', ') + '. Zoom in to see each.' : '';
  document.getElementById('shown').textContent = `${seconds(from)} to ${seconds(to)}: ${lasting(to - from)}`;
  drawAxis();
  drawSteps();
  if (overview) {
    const o = t => left + t / +overview.dataset.to * (right - left);
    put(box, 'x', o(from)); put(box, 'width', Math.max(2, o(to) - o(from)));
  }
}
function show(p, isSeen) {
  const e = p.e, c = e.classList;
  if (!isSeen) { c.add('out'); return; }
  c.remove('out');
  const x = place(p.t), u = place(p.u);
  if (p.tag === 'rect') { put(e, 'x', x); put(e, 'width', Math.max(1, u - x)); }
  else if (p.kind) arrow(p, c);
  else if (p.tag === 'line') { put(e, 'x1', x); put(e, 'x2', u); }
  else if (c.contains('sign')) put(e, 'x', x);
  else { put(e, 'x', x + 4); if (u - x - 4 < p.wide) c.add('out'); }
}
// An arrow is cut at the edge of the window, not bent to it. Of one that is under way for long, and not
// in the window whole, only the end that is in it is drawn: the rest would cross out the picture.
const STUB = [12, 24];
function arrow(p, c) {
  const { t, u, y: [begin, end] } = p, long = u - t > (to - from) / 4 && (t < from || u > to);
  const stub = Math.min(Math.max(end - begin, -STUB[1]), STUB[1]);
  c.toggle('leaving', long && u > to);
  let x1 = place(t), x2 = place(u), y1 = begin, y2 = end;
  if (!long && u > t) {
    const at = time => begin + (end - begin) * (time - t) / (u - t);
    y1 = at(Math.max(t, from)); y2 = at(Math.min(u, to));
  } else if (long && u <= to) { x1 = x2 - STUB[0]; y1 = end - stub; }
  else if (long && t >= from) { x2 = x1 + STUB[0]; y2 = begin + stub; }
  else if (long) { c.add('out'); return; }
  put(p.e, 'x1', x1); put(p.e, 'x2', x2); put(p.e, 'y1', y1); put(p.e, 'y2', y2);
}
function drawAxis() {
  const axis = svg.querySelector('#axis'), tall = svg.viewBox.baseVal.height;
  axis.replaceChildren();
  let step = 1;
  for (let i = 0; step < (to - from) / 10; i++) step = [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3);
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
    const x = place(t).toFixed(1), ago = end - t;
    make(axis, 'line', { class: 'grid', x1: x, x2: x, y1: 34, y2: tall });
    make(axis, 'text', { class: 'sign axis', x, y: 12 }, seconds(t));
    make(axis, 'text', { class: 'sign axis faint', x, y: 26 }, ago > 0 ? '−' + lasting(ago) : ago ? '' : '0');
  }
}
function drawSteps() {
  let low = Infinity, high = 0;
  const windows = lanes.map(({ steps }) => {
    const inside = [];
    for (let i = 0; i < steps.length; i += 4) {
      if (steps[i] <= from) inside.length = 0;
      if (steps[i] <= to) inside.push(i);
    }
    for (const i of inside) for (let k = 1; k < 4; k++) if (steps[i + k]) {
      low = Math.min(low, steps[i + k]); high = Math.max(high, steps[i + k]);
    }
    return inside;
  });
  lanes.forEach(({ top, bottom, steps }, node) => ['end', 'commit', 'applied'].forEach((name, k) => {
    const y = v => (bottom - (Math.max(v, low) - low) / Math.max(1, high - low) * (bottom - top)).toFixed(1);
    let d = '', before = null;
    for (const i of windows[node]) {
      const v = y(steps[i + k + 1]);
      if (before === null) d = `M${place(steps[i]).toFixed(1)} ${v}`;
      else if (v !== before) d += `H${place(steps[i]).toFixed(1)}V${v}`;
      before = v;
    }
    svg.querySelector(`#${name}${node}`).setAttribute('d', d && d + `H${place(Math.min(end, to)).toFixed(1)}`);
  }));
}

function go(a, b, keep) {
  const wide = Math.max(20, b - a);
  from = Math.round(Math.max(-wide / 4, a)); to = Math.round(from + wide);
  if (!keep) history.replaceState(null, '', `#from=${from}&to=${to}`);
  if (!asked) asked = requestAnimationFrame(draw);
}
const zoom = (factor, middle = (from + to) / 2) => go(middle - (middle - from) * factor, middle + (to - middle) * factor);
const move = part => go(from + (to - from) * part, to + (to - from) * part);
const on = (id, act) => document.getElementById(id)?.addEventListener('click', act);
on('first', () => go(...first)); on('all', () => go(0, +overview.dataset.to));
on('in', () => zoom(.5)); on('outward', () => zoom(2)); on('back', () => move(-.5)); on('on', () => move(.5));
document.addEventListener('keydown', e => {
  const act = { '+': () => zoom(.5), '-': () => zoom(2), ArrowLeft: () => move(-.25), ArrowRight: () => move(.25) }[e.key];
  if (act && !e.ctrlKey && !e.metaKey && !e.altKey && e.target.tagName !== 'INPUT') { e.preventDefault(); act(); }
});
document.querySelectorAll('input[data-kind],input[data-node]').forEach(e => e.addEventListener('change', draw));
document.querySelectorAll('[data-at]').forEach(e => e.addEventListener('click', () => {
  const at = +e.dataset.at, half = Math.min(to - from, first[1] - first[0]) / 2;
  go(at - half, at + half);
  svg.scrollIntoView({ block: 'nearest' });
}));
document.querySelectorAll('.again button').forEach(b => b.addEventListener('click', () => {
  navigator.clipboard?.writeText(b.nextElementSibling.textContent).then(() => { b.textContent = 'copied'; });
}));
// Where the pointer is, in the units of a picture.
const across = (picture, e) => { const r = picture.getBoundingClientRect(); return (e.clientX - r.left) / r.width * picture.viewBox.baseVal.width; };
let held = null;
svg.addEventListener('pointerdown', e => { held = [across(svg, e), from, to]; });
window.addEventListener('pointermove', e => {
  if (!held) return;
  const by = (across(svg, e) - held[0]) / (right - left) * (held[2] - held[1]);
  go(held[1] - by, held[2] - by);
});
window.addEventListener('pointerup', () => { held = null; });
svg.addEventListener('wheel', e => {
  if (!e.ctrlKey) return;
  e.preventDefault();
  zoom(e.deltaY < 0 ? .8 : 1.25, from + (across(svg, e) - left) / (right - left) * (to - from));
}, { passive: false });
if (overview) {
  const time = e => Math.max(0, (across(overview, e) - left) / (right - left) * +overview.dataset.to);
  let begun = null;
  overview.addEventListener('pointerdown', e => { begun = time(e); e.preventDefault(); });
  window.addEventListener('pointerup', e => {
    if (begun === null) return;
    const a = Math.min(begun, time(e)), b = Math.max(begun, time(e)), half = (to - from) / 2;
    begun = null;
    if ((b - a) / +overview.dataset.to > .004) go(a, b); else go(a - half, a + half);
  });
}
function read() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.has('from') && asked.has('to')) go(+asked.get('from'), +asked.get('to'), true); else go(...first, true);
}
window.addEventListener('hashchange', read);
read();
})();
