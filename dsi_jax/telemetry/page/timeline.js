"use strict";
// Draws the runs of a prompt on one time axis. All times are milliseconds; `view` is the part that is shown.
const data = JSON.parse(document.getElementById("data").textContent);
const LEFT = 84, RIGHT = 14, LANE = 23, COMMITS = 27; // pixels: names at the left, a lane, the row of settled tokens
const MOST_ZOOM_MS = 1e-3;
const $ = (id) => document.getElementById(id);
let group = data.groups[0], view = { start: 0, end: 1 }, selected = null, panels = [], queued = false;

// ------------------------------------------------------------------------------------------------------------ scale

const width = () => Math.max(320, $("axis").clientWidth);
const perMs = () => (width() - LEFT - RIGHT) / (view.end - view.start);
const xOf = (ms) => LEFT + (ms - view.start) * perMs();
const msAt = (x) => view.start + (x - LEFT) / perMs();

function show(start, end) {
  const whole = group.end_ms, length = Math.min(Math.max(end - start, MOST_ZOOM_MS), whole);
  view.start = Math.min(Math.max(start, 0), whole - length);
  view.end = view.start + length;
  redraw();
}

function zoom(factor, around = (view.start + view.end) / 2) {
  show(around - (around - view.start) * factor, around + (view.end - around) * factor);
}

const move = (share) => show(view.start + share * (view.end - view.start), view.end + share * (view.end - view.start));
const fit = () => show(0, group.end_ms);
const first = () => show(group.window[0], group.window[1]);

function ticks() {
  const rough = (view.end - view.start) / Math.max(2, (width() - LEFT) / 110);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(view.start / step); n * step <= view.end; n++) found.push(n * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return found.map((at) => [at, at.toFixed(digits)]);
}

// ---------------------------------------------------------------------------------------------------------- drawing

function redraw() {
  if (!queued) requestAnimationFrame(() => { queued = false; draw(); });
  queued = true;
}

function brush(canvas, height) {
  const dense = window.devicePixelRatio || 1, wide = width();
  canvas.style.height = `${height}px`;
  if (canvas.width !== Math.round(wide * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(wide * dense);
    canvas.height = Math.round(height * dense);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.clearRect(0, 0, wide, height);
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  return pen;
}

function draw() {
  const marks = ticks();
  drawAxis(marks);
  drawStrip();
  const drawn = panels.reduce((sum, panel) => sum + drawLanes(panel, marks), 0);
  drawSettled(marks);
  const all = panels.reduce((sum, panel) => sum + panel.run.spans.length, 0);
  const words = (ms) => ms.toLocaleString("en", { maximumFractionDigits: view.end - view.start < 10 ? 3 : 1 });
  $("shown").textContent =
    `shown: ${words(view.start)} to ${words(view.end)} ms of ${words(group.end_ms)} · ${drawn} of ${all} jobs`;
  placeSelected();
}

function drawAxis(marks) {
  const pen = brush($("axis"), 22);
  pen.fillStyle = data.style.faint;
  pen.textAlign = "center";
  for (const [at, text] of marks) if (xOf(at) < width() - 20) pen.fillText(text, xOf(at), 12);
  pen.textAlign = "left";
  pen.fillText("time (ms)", 0, 12);
  $("axis").setAttribute("aria-label", `time axis in ms: ${marks.map((mark) => mark[1]).join(" ")}`);
}

function grid(pen, marks, height) {
  pen.strokeStyle = data.style.grid;
  pen.lineWidth = 0.6;
  pen.beginPath();
  for (const [at] of marks) { pen.moveTo(xOf(at), 0); pen.lineTo(xOf(at), height); }
  pen.stroke();
}

/** Draws what is seen of a run; returns how many of its jobs that is. */
function drawLanes(panel, marks) {
  const { run, canvas } = panel, height = COMMITS + LANE * run.servers.length;
  const pen = brush(canvas, height), right = width() - RIGHT;
  run.servers.forEach((server, lane) => {
    pen.fillStyle = data.style.idle;
    pen.fillRect(LEFT, COMMITS + lane * LANE + 1.5, right - LEFT, LANE - 3);
    name(pen, server.replaceAll("_", " "), COMMITS + (lane + 0.5) * LANE);
  });
  name(pen, "settled", COMMITS / 2 + 4);
  grid(pen, marks, height);
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, right - LEFT, height);
  pen.clip();
  let drawn = 0;
  panel.lanes.forEach((spans, lane) => {
    for (let i = firstNotOver(spans, view.start); i < spans.length && spans[i].start < view.end; i++) {
      if (spans[i].end <= view.start && spans[i].start < view.start) continue;
      drawJob(pen, spans[i], COMMITS + lane * LANE + 2.5, hatch(pen));
      drawn++;
    }
  });
  drawCommits(pen, run, height);
  drawIncidents(pen, run);
  if (selected && selected.panel === panel) outline(pen, selected.span);
  pen.restore();
  return drawn;
}

function name(pen, text, y) {
  pen.fillStyle = data.style.ink;
  pen.textAlign = "right";
  pen.fillText(text, LEFT - 8, y);
}

function drawJob(pen, span, y, hatched) {
  const x = xOf(span.start), wide = Math.max(xOf(span.end) - x, 0.7), high = LANE - 5, stale = span.outcome === "stale";
  pen.fillStyle = stale ? data.style.stale_fill : data.style.fill[span.kind];
  pen.fillRect(x, y, wide, high);
  if (stale && wide > 3) { pen.fillStyle = hatched; pen.fillRect(x, y, wide, high); }
  if (wide > 4) {
    pen.strokeStyle = stale ? data.style.stale_edge : "#fff";
    pen.lineWidth = 0.8;
    pen.strokeRect(x, y, wide, high);
  }
  if (span.outcome === "rejected" && wide > 3) {
    pen.strokeStyle = data.style.rejection;
    pen.lineWidth = 1.6;
    pen.strokeRect(x + 0.8, y + 0.8, wide - 1.6, high - 1.6);
  }
  const from = Math.max(x, LEFT), to = Math.min(x + wide, width() - RIGHT), text = label(span);
  if (text && to - from > 7 * text.length + 4) {
    pen.textAlign = "center";
    if (stale) {
      const half = pen.measureText(text).width / 2 + 2;
      pen.fillStyle = data.style.stale_fill;
      pen.fillRect((from + to) / 2 - half, y + 3, 2 * half, high - 6);
    }
    pen.fillStyle = stale ? data.style.stale_text : data.style.text[span.kind];
    pen.fillText(text, (from + to) / 2, y + high / 2 + 0.5);
  }
}

function label(span) {
  if (span.kind === "prefill" || span.kind === "digest") return span.kind;
  return span.last > span.first + 1 ? `${span.first}–${span.last - 1}` : `${span.first}`;
}

let pattern = null;
function hatch(pen) {
  if (pattern) return pattern;
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const line = tile.getContext("2d");
  line.strokeStyle = data.style.stale_edge;
  line.lineWidth = 0.9;
  line.beginPath();
  for (const shift of [-6, 0, 6]) { line.moveTo(shift, 6); line.lineTo(shift + 6, 0); }
  line.stroke();
  return (pattern = pen.createPattern(tile, "repeat"));
}

function drawCommits(pen, run, height) {
  let cluster = null;
  const say = () => {
    pen.fillStyle = cluster.rejected ? data.style.rejection : data.style.commit;
    pen.textAlign = "center";
    pen.fillText(`+${cluster.tokens}`, (cluster.from + cluster.to) / 2, 7);
  };
  for (const [time, tokens, , rejected] of run.commits) {
    if (time < view.start || time > view.end) continue;
    const x = xOf(time);
    pen.strokeStyle = rejected ? data.style.rejection : data.style.commit;
    pen.lineWidth = rejected ? 1 : 1.6;
    pen.beginPath();
    if (rejected) {
      pen.globalAlpha = 0.75;
      pen.moveTo(x, COMMITS); pen.lineTo(x, height);
      pen.stroke();
      pen.globalAlpha = 1;
      pen.lineWidth = 2.4;
      pen.beginPath();
      pen.moveTo(x - 3.5, 16); pen.lineTo(x + 3.5, 23);
      pen.moveTo(x + 3.5, 16); pen.lineTo(x - 3.5, 23);
    } else { pen.moveTo(x, 15); pen.lineTo(x, 25); }
    pen.stroke();
    if (cluster && x - cluster.from < 22) {
      cluster.tokens += tokens; cluster.to = x; cluster.rejected ||= rejected;
    } else {
      if (cluster) say();
      cluster = { tokens, from: x, to: x, rejected };
    }
  }
  if (cluster) say();
}

/** Names in its lane what became of a server: why it was lost, or that it is back. */
function drawIncidents(pen, run) {
  pen.textAlign = "left";
  for (const [time, lane, kind] of run.incidents) {
    if (time < view.start || time > view.end) continue;
    const x = xOf(time), y = COMMITS + lane * LANE;
    pen.fillStyle = kind === "back" ? data.style.commit : data.style.rejection;
    pen.fillRect(x - 1, y, 2, LANE);
    pen.fillRect(x + 1, y + 4, pen.measureText(kind).width + 8, LANE - 8);
    pen.fillStyle = "#fff";
    pen.fillText(kind, x + 5, y + LANE / 2 + 0.5);
  }
}

function outline(pen, span) {
  pen.strokeStyle = data.style.ink;
  pen.lineWidth = 2;
  const x = xOf(span.start);
  pen.strokeRect(x, COMMITS + span.lane * LANE + 2.5, Math.max(xOf(span.end) - x, 2), LANE - 5);
}

// ------------------------------------------------------------------------------------------------- settled tokens

function curve(pen, run, x, y, line) {
  pen.strokeStyle = line.color;
  pen.lineWidth = line.width;
  pen.setLineDash(line.dash);
  pen.beginPath();
  pen.moveTo(x(0), y(0));
  let count = 0;
  for (const [time, tokens] of run.commits) {
    pen.lineTo(x(time), y(count));
    count += tokens;
    pen.lineTo(x(time), y(count));
  }
  pen.stroke();
  pen.setLineDash([]);
  return count;
}

const settledTokens = (run) => run.commits.reduce((sum, commit) => sum + commit[1], 0);

function drawStrip() {
  const pen = brush($("strip"), 46), x = (ms) => LEFT + (ms / group.end_ms) * (width() - LEFT - RIGHT);
  const most = Math.max(1, ...group.runs.map(settledTokens));
  name(pen, "whole run", 23);
  pen.fillStyle = data.style.idle;
  pen.fillRect(LEFT, 3, width() - LEFT - RIGHT, 40);
  pen.fillStyle = "#cfd8e3";
  pen.fillRect(x(view.start), 3, Math.max(2, x(view.end) - x(view.start)), 40);
  for (const run of group.runs) curve(pen, run, x, (count) => 41 - (36 * count) / most, { ...run.line, width: 1.5 });
}

function drawSettled(marks) {
  const height = 190, pen = brush($("settled"), height);
  const before = (ms) => Math.max(1, ...group.runs.map((run) => run.commits.filter((c) => c[0] <= ms).reduce((n, c) => n + c[1], 0)));
  const most = before(view.end) * 1.12, low = view.start > 0 ? Math.min(...group.runs.map((run) =>
    run.commits.filter((c) => c[0] <= view.start).reduce((n, c) => n + c[1], 0))) : 0;
  const y = (count) => height - 8 - ((count - low) / Math.max(1, most - low)) * (height - 16);
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1e4].find((n) => n >= (most - low) / 5) || 1e5;
  grid(pen, marks, height);
  for (let n = Math.ceil(low / step) * step; n < most; n += step) {
    name(pen, `${n}`, y(n));
    pen.strokeStyle = data.style.grid;
    pen.beginPath(); pen.moveTo(LEFT, y(n)); pen.lineTo(width() - RIGHT, y(n)); pen.stroke();
  }
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, 0, width() - LEFT - RIGHT, height);
  pen.clip();
  group.runs.forEach((run, index) => {
    curve(pen, run, xOf, y, run.line);
    const upto = run.commits.filter((commit) => commit[0] <= view.end);
    const last = upto.length ? upto[upto.length - 1][0] : view.start, count = upto.reduce((n, c) => n + c[1], 0);
    const ended = upto.length === run.commits.length, at = ended ? last : view.end;
    if (!ended) { // a line that goes on goes on to the edge
      pen.beginPath(); pen.moveTo(xOf(last), y(count)); pen.lineTo(xOf(at), y(count));
      pen.strokeStyle = run.line.color; pen.lineWidth = run.line.width; pen.setLineDash(run.line.dash); pen.stroke();
      pen.setLineDash([]);
    } else { pen.fillStyle = run.line.color; pen.beginPath(); pen.arc(xOf(at), y(count), 4, 0, 7); pen.fill(); }
    pen.fillStyle = run.line.color;
    pen.font = "bold 12px system-ui, 'DejaVu Sans', sans-serif";
    const text = `${run.label}: ${count}${ended ? ` in ${at.toFixed(0)} ms` : ""}`;
    pen.textAlign = "right";
    pen.fillText(text, Math.max(xOf(at), LEFT + 8 + pen.measureText(text).width) - 8, Math.max(8, y(count) - 10));
  });
  pen.restore();
  $("settled").setAttribute("aria-label", group.runs.map((run) => `${run.label}: ${settledTokens(run)} tokens`).join("; "));
}

// ------------------------------------------------------------------------------------------------------ finding jobs

function firstNotOver(spans, ms) {
  let low = 0, high = spans.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spans[middle].latest >= ms) high = middle; else low = middle + 1;
  }
  return low;
}

function jobAt(panel, x, y) {
  const spans = panel.lanes[Math.floor((y - COMMITS) / LANE)];
  if (!spans || y < COMMITS || x < LEFT) return null;
  const slack = 2 / perMs(), ms = msAt(x);
  let best = null;
  for (let i = firstNotOver(spans, ms - slack); i < spans.length && spans[i].start <= ms + slack; i++) {
    const away = Math.max(spans[i].start - ms, ms - spans[i].end, 0);
    if (away <= slack && (!best || away <= best.away)) best = { away, span: spans[i] };
  }
  return best && best.span;
}

function select(panel, span) {
  selected = { panel, span };
  if (span.end < view.start || span.start > view.end) {
    const half = (view.end - view.start) / 2;
    show((span.start + span.end) / 2 - half, (span.start + span.end) / 2 + half);
  }
  tell(panel, span);
  redraw();
}

function step(by) {
  const panel = selected ? selected.panel : panels[0], all = panel.spans;
  if (!selected) return select(panel, all.find((span) => span.end > view.start) || all[0]);
  const lane = panel.lanes[selected.span.lane], next = lane[lane.indexOf(selected.span) + by];
  if (next) select(panel, next);
}

function change(by) {
  if (!selected) return step(0);
  const lanes = panels.flatMap((panel) => panel.lanes.map((spans) => ({ panel, spans })));
  let at = lanes.findIndex((lane) => lane.panel === selected.panel && lane.spans.includes(selected.span));
  for (at += by; lanes[at] && !lanes[at].spans.length; at += by);
  if (!lanes[at]) return;
  const { panel, spans } = lanes[at], nearest = spans[Math.min(firstNotOver(spans, selected.span.start), spans.length - 1)];
  select(panel, nearest);
}

function tell(panel, span) {
  const positions = span.last > span.first ? (span.last > span.first + 1 ? `${span.first} to ${span.last - 1}` : `${span.first}`) : "none";
  const rows = [["outcome", span.detail ? `${span.outcome}: ${span.detail}` : span.outcome]];
  if (span.kind === "draft" || span.kind === "verify") rows.push(["positions", positions], ["epoch", `${span.epoch}`]);
  rows.push(["start", `${span.start.toFixed(3)} ms`], ["length", `${(span.end - span.start).toFixed(3)} ms`]);
  rows.push(["request", `${span.request}`]);
  const head = document.createElement("strong"), list = document.createElement("dl");
  head.textContent = `${span.kind} on ${panel.run.servers[span.lane]} (${panel.run.label})`;
  for (const [term, value] of rows) {
    list.append(Object.assign(document.createElement("dt"), { textContent: term }));
    list.append(Object.assign(document.createElement("dd"), { textContent: value }));
  }
  $("tip").replaceChildren(head, list);
  $("tip").hidden = false;
}

function placeTip(x, y) {
  const tip = $("tip"), wide = tip.offsetWidth, high = tip.offsetHeight;
  tip.style.left = `${Math.max(4, x + wide + 22 > innerWidth ? x - wide - 14 : x + 14)}px`;
  tip.style.top = `${Math.max(4, y + high + 22 > innerHeight ? y - high - 14 : y + 14)}px`;
}

function placeSelected() {
  if (!selected) return;
  const box = selected.panel.canvas.getBoundingClientRect(), middle = (selected.span.start + selected.span.end) / 2;
  placeTip(box.left + xOf(middle), box.top + COMMITS + (selected.span.lane + 0.5) * LANE);
}

function forget() {
  selected = null;
  $("tip").hidden = true;
  redraw();
}
