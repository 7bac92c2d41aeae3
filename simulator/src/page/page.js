// Moves what is drawn already to another window of time. Everything with data-t is at that time (until
// data-u, if it lasts); everything else stays where it is.
(() => {
'use strict';
const MOST = 700; // messages drawn at once
const svg = document.getElementById('detail'), data = svg.dataset, NS = svg.namespaceURI;
const left = +data.left, right = +data.right, end = +data.end;
const first = [+data.from, +data.to];
const overview = document.getElementById('overview'), box = document.getElementById('window');
const parts = [...svg.querySelectorAll('[data-t]')].map(e => ({
  e, t: +e.dataset.t, u: +(e.dataset.u ?? e.dataset.t), tag: e.tagName,
  kind: e.classList.contains('m') ? e.classList[1] : '', guilty: e.classList.contains('guilty'),
  y: e.dataset.y?.split(' ').map(Number),
  wide: 6.2 * (e.firstChild?.length ?? 0),
}));
const ORDER = ['other', 'snapshot', 'rejected', 'granted', 'vote', 'prevote', 'entries', 'reading', 'matched', 'heartbeat'];
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
  const noKind = off('kind'), counts = {}, seen = [];
  for (const p of parts) {
    const isIn = p.u >= from && p.t <= to && !(p.kind && p.t < from && p.u > to) && !noKind.includes(p.kind);
    if (!p.kind || !isIn) { show(p, isIn); continue; }
    counts[p.kind] = (counts[p.kind] ?? 0) + 1;
    seen.push(p);
  }
  // What there are too many of is hidden, except what is part of the story; telling kinds stay longest.
  let room = MOST;
  const hidden = new Set(), told = [];
  for (const kind of ORDER) {
    const n = counts[kind] ?? 0;
    if (n > room) { hidden.add(kind); told.push(`${n.toLocaleString('en')} ${kind}`); } else room -= n;
  }
  for (const p of seen) show(p, p.guilty || !hidden.has(p.kind));
  document.getElementById('hidden').textContent = told.length ? 'Hidden, since there are too many in this window: ' + told.join(', ') + '. Zoom in to see them.' : '';
  document.getElementById('shown').textContent = `${seconds(from)} to ${seconds(to)}: ${lasting(to - from)}`;
  drawAxis();
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
// An arrow is cut at the edge of the window, not bent to it.
function arrow(p, c) {
  const { t, u, y: [begin, end] } = p, at = time => begin + (u > t ? (end - begin) * (time - t) / (u - t) : 0);
  c.toggle('leaving', u > to);
  put(p.e, 'x1', place(t)); put(p.e, 'x2', place(u));
  put(p.e, 'y1', at(Math.max(t, from))); put(p.e, 'y2', u > to ? at(to) : end);
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
document.querySelectorAll('input[data-kind]').forEach(e => e.addEventListener('change', draw));
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
