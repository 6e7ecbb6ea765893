// ------------------------------------------------------------------------------------------------------ the controls

function listen(panel) {
  const canvas = panel.canvas;
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    grip = { x: event.clientX, start: view.start, end: view.end };
    canvas.classList.add("moving");
    try { canvas.setPointerCapture(event.pointerId); } catch { /* a pointer that has gone, or was never there */ }
  });
  canvas.addEventListener("pointerup", () => { grip = null; canvas.classList.remove("moving"); });
  canvas.addEventListener("pointermove", (event) => {
    if (grip) {
      const by = (grip.x - event.clientX) / perMs();
      return show(grip.start + by, grip.end + by);
    }
    const box = canvas.getBoundingClientRect();
    const span = jobAt(panel, event.clientX - box.left, event.clientY - box.top);
    if (!span) return selected || ($("tip").hidden = true);
    selected = null;
    tell(panel, span);
    placeTip(event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", () => { if (!selected) $("tip").hidden = true; });
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), span = jobAt(panel, event.clientX - box.left, event.clientY - box.top);
    if (span) { selected = { panel, span }; redraw(); }
  });
  canvas.addEventListener("wheel", onWheel, { passive: false });
}

function onWheel(event) {
  event.preventDefault();
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return move((event.deltaX || event.deltaY) / 900);
  const box = event.currentTarget.getBoundingClientRect();
  zoom(Math.exp(Math.max(-0.6, Math.min(0.6, event.deltaY * 0.0022))), msAt(Math.max(LEFT, event.clientX - box.left)));
}

function listenToStrip() {
  const strip = $("strip");
  let from = null;
  const at = (event) => {
    const share = (event.clientX - strip.getBoundingClientRect().left - LEFT) / (width() - LEFT - RIGHT);
    return Math.min(Math.max(share, 0), 1) * group.end_ms;
  };
  strip.addEventListener("pointerdown", (event) => {
    from = at(event);
    try { strip.setPointerCapture(event.pointerId); } catch { /* as above */ }
  });
  strip.addEventListener("pointermove", (event) => {
    if (from !== null && Math.abs(at(event) - from) > group.end_ms / 200) show(Math.min(from, at(event)), Math.max(from, at(event)));
  });
  strip.addEventListener("pointerup", (event) => {
    const half = (view.end - view.start) / 2;
    if (from !== null && Math.abs(at(event) - from) <= group.end_ms / 200) show(from - half, from + half); // a click moves there
    from = null;
  });
}

const KEYS = {
  ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), ArrowUp: () => change(-1), ArrowDown: () => change(1),
  "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), "0": fit, f: fit, Home: first,
  n: () => step(1), p: () => step(-1), Escape: forget,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLSelectElement || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
$("fit").addEventListener("click", fit);
$("start").addEventListener("click", first);
$("in").addEventListener("click", () => zoom(0.6));
$("out").addEventListener("click", () => zoom(1 / 0.6));
$("axis").addEventListener("wheel", onWheel, { passive: false });
$("settled").addEventListener("wheel", onWheel, { passive: false });
$("group").addEventListener("change", () => open(Number($("group").value)));
addEventListener("resize", redraw);
addEventListener("scroll", placeSelected);

// ------------------------------------------------------------------------------------------------------- the contents

function unpack(run) {
  const spans = run.spans.map(([lane, kind, start, end, epoch, first, last, outcome, detail, request]) => ({
    lane, kind: data.kinds[kind], start, end, epoch, first, last, outcome: data.outcomes[outcome], detail: data.details[detail], request,
  }));
  const lanes = run.servers.map((_, lane) => spans.filter((span) => span.lane === lane));
  for (const list of [spans, ...lanes]) {
    list.sort((a, b) => a.start - b.start);
  }
  for (const list of lanes) { // `latest`: when it and all before it have ended, so that a search by halves finds them
    let latest = 0;
    for (const span of list) span.latest = latest = Math.max(latest, span.end);
  }
  return { spans, lanes };
}

function open(index) {
  group = data.groups[index];
  selected = null;
  $("tip").hidden = true;
  $("prompt").textContent = group.prompt === null ? "" : `prompt: ${JSON.stringify(group.prompt)}`;
  $("runs").replaceChildren();
  panels = group.runs.map((run) => {
    const section = document.createElement("section"), title = document.createElement("h2"), facts = document.createElement("small");
    title.textContent = run.label;
    facts.textContent = run.facts;
    title.append(facts);
    const canvas = Object.assign(document.createElement("canvas"), { className: "wide lanes", tabIndex: 0 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${run.label}: ${run.spans.length} jobs on ${run.servers.length} servers; keys n and p read them out`);
    section.append(title, ...budget(run), canvas);
    $("runs").append(section);
    const panel = { run, canvas, ...unpack(run) };
    listen(panel);
    return panel;
  });
  first();
}

/** The wall time as a bar of its parts, where they are known. */
function budget(run) {
  if (!run.budget) return [];
  const bar = Object.assign(document.createElement("div"), { className: "budget" }), words = document.createElement("p");
  for (const part of run.budget) {
    if (!(part.ms > 0)) continue;
    const roomy = (part.ms / run.wall_ms) * width() > 7 * part.name.length + 10;
    const piece = Object.assign(document.createElement("b"), { textContent: roomy ? part.name : "" });
    piece.title = `${part.name}: ${part.ms.toFixed(1)} ms. ${part.words}`;
    piece.style.cssText = `flex: ${part.ms} 0 0; background: ${part.fill}; color: ${part.text}; padding: ${roomy ? "0 5px" : "0"}`;
    bar.append(piece);
  }
  words.className = "parts";
  words.textContent = `wall ${run.wall_ms.toFixed(1)} ms = ` + run.budget.map((part) =>
    part.ms === null ? `${part.name} (hidden)` : `${part.name} ${part.ms.toFixed(1)}`).join(" + ");
  return [bar, words];
}

function key() {
  const add = (css, text, symbol = "") => {
    const entry = document.createElement("span"), mark = document.createElement("i");
    mark.style.cssText = css;
    mark.textContent = symbol;
    entry.append(mark, text);
    $("key").append(entry);
  };
  for (const kind of data.kinds) add(`background: ${data.style.fill[kind]}`, data.words[kind]);
  const { stale_fill, stale_edge, idle, commit, rejection } = data.style;
  add(`background: repeating-linear-gradient(135deg, ${stale_fill} 0 4px, ${stale_edge} 4px 5px)`, "stale: result not used");
  add(`background: ${data.style.fill.draft}; border: 2px solid ${rejection}`, "draft that turned out wrong");
  add(`background: ${idle}; border: 1px solid #dde1e6`, "idle");
  add(`background: ${commit}; width: 2px`, "tokens settled");
  add(`color: ${rejection}; width: auto; height: auto; font-style: normal; font-weight: bold`, "rejection: the target corrected a draft", "✕");
}

data.groups.forEach((one, index) => $("group").append(new Option(one.name, index)));
$("choice").hidden = data.groups.length < 2;
$("group").value = data.shown;
listenToStrip();
key();
open(data.shown);
