// Buttons, keys, mouse and fingers.
function announce() {
  $("name").textContent = names[shown];
  $("name").title = names[shown];
  $("count").textContent = `${shown + 1} / ${names.length}`;
  document.title = `${names[shown]} – clearice view`;
  $("previous").disabled = shown === 0;
  $("next").disabled = shown === names.length - 1;
  for (const button of document.querySelectorAll("nav ol button")) {
    const here = Number(button.dataset.m) === shown;
    if (here) button.scrollIntoView({ block: "nearest" });
    button.setAttribute("aria-current", here);
  }
  say();
}

function say(text) {
  $("cursor").textContent = text || (inside ? "point at the micrograph for the position" : "point at the micrograph for position and values");
  $("cursor").classList.toggle("soft", !text);
}

function refresh() {
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.setAttribute("aria-pressed", button.dataset.mode === state.mode);
    button.disabled = labels.length === 1 && button.dataset.mode !== "one";
  }
  $("left").value = state.a;
  $("right").value = state.b;
  $("dot-a").className = `dot k${state.a}`;
  $("dot-b").className = `dot k${state.b}`;
  const all = state.mode === "side" && labels.length <= MOST_PANES;
  $("left-label").hidden = labels.length === 1 || all;
  $("right-label").hidden = labels.length === 1 || all || state.mode === "one";
  $("fft").setAttribute("aria-pressed", state.fft);
  $("lowpass").value = state.lowpass;
  $("even").checked = state.even;
  $("brightness").value = state.brightness;
  $("contrast").value = state.contrast;
  $("spectrum").hidden = !state.fft;
}

function change(values) {
  Object.assign(state, values);
  refresh();
  build();
  if (state.fft) showSpectrum();
}
function go(step) {
  const next = clamp(shown + step, 0, names.length - 1);
  if (next !== shown) show(next);
}
function flip() {
  if (labels.length === 1) return;
  if (state.mode !== "one") change({ a: state.b, b: state.a });
  else change(labels.length === 2 ? { a: 1 - state.a, b: state.a } : { a: (state.a + 1) % labels.length });
}
function zoomInPlace(factor) { const [w, h] = paneSize(); zoomBy(factor, w / 2, h / 2); }
function fullSize() { const at = camera(); moveTo(at.x, at.y, 1 / (window.devicePixelRatio || 1)); }
function showAll() { state.zoom = 0; draw(); }
function toggleSlider() { if (labels.length > 1) change({ mode: state.mode === "slider" ? "one" : "slider" }); }
function toggleHelp() { const help = $("help"); if (help.open) help.close(); else help.showModal(); }
function reset() { change({ lowpass: 0, even: true, brightness: 0, contrast: 0 }); }
function toggleList(open = "closed" in $("list").dataset) {
  if (open) delete $("list").dataset.closed; else $("list").dataset.closed = "";
  $("menu").setAttribute("aria-expanded", open);
  document.querySelector("nav ol button[aria-current=true]")?.scrollIntoView({ block: "nearest" });
  draw();
}
const narrow = () => window.innerWidth <= 1000;

const KEYS = {
  ArrowLeft: () => go(-1), ArrowRight: () => go(1), " ": flip, s: toggleSlider, d: () => labels.length > 1 && change({ mode: state.mode === "side" ? "slider" : "side" }),
  f: () => change({ fft: !state.fft }), "+": () => zoomInPlace(1.5), "=": () => zoomInPlace(1.5), "-": () => zoomInPlace(1 / 1.5), 0: showAll, 1: fullSize,
  e: () => !inside && change({ even: !state.even }), r: reset, l: () => toggleList(), "?": toggleHelp,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const here = event.target, typing = here.matches("input, select, textarea");
  if (typing || ($("help").open && event.key !== "?")) return;
  if (here.matches("button, summary") && (event.key === " " || event.key === "Enter")) return;
  if (here === $("bar") && /^(Arrow|Home|End)/.test(event.key)) {
    const step = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, Home: -100, End: 100 }[event.key];
    state.cut = clamp(state.cut + step, 0, 100);
    event.preventDefault();
    draw();
    return;
  }
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// After a click the keys belong to the micrograph again.
document.addEventListener("click", (event) => {
  if (event.detail > 0 && event.target.closest("button") && !$("help").open) $("stage").focus({ preventScroll: true });
});

let pointed = false;
document.addEventListener("pointerdown", () => { pointed = true; }, true);
document.addEventListener("keydown", () => { pointed = false; }, true);
document.addEventListener("change", (event) => { if (pointed && event.target !== $("search")) stage.focus({ preventScroll: true }); });

const held = new Map();
function place(event) {
  const pane = document.elementsFromPoint(event.clientX, event.clientY).find((element) => element.classList.contains("pane")) || panes[0].box;
  const box = pane.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}
const stage = $("stage");
stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || event.target === $("bar") || !reference()) return;
  held.set(event.pointerId, [event.clientX, event.clientY]);
  stage.setPointerCapture(event.pointerId);
  stage.classList.add("held");
  locate(event);
});
stage.addEventListener("pointermove", (event) => {
  if (!held.has(event.pointerId)) { locate(event); return; }
  const before = [...held.values()], old = held.get(event.pointerId);
  held.set(event.pointerId, [event.clientX, event.clientY]);
  const after = [...held.values()], at = camera();
  if (before.length === 1) {
    moveTo(at.x - (event.clientX - old[0]) / at.zoom, at.y - (event.clientY - old[1]) / at.zoom, at.zoom);
    return;
  }
  const apart = (points) => Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]) || 1;
  const middle = (points, axis) => (points[0][axis] + points[1][axis]) / 2;
  moveTo(at.x - (middle(after, 0) - middle(before, 0)) / at.zoom, at.y - (middle(after, 1) - middle(before, 1)) / at.zoom, at.zoom);
  zoomBy(apart(after) / apart(before), ...place({ clientX: middle(after, 0), clientY: middle(after, 1) }));
});
for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, (event) => { held.delete(event.pointerId); if (!held.size) stage.classList.remove("held"); });
stage.addEventListener("pointerleave", () => { if (!held.size) say(); });
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomBy(2 ** (-clamp(event.deltaY * (event.deltaMode ? 30 : 1), -300, 300) / 300), ...place(event));
}, { passive: false });
stage.addEventListener("dblclick", (event) => { if (event.target !== $("bar")) zoomBy(2, ...place(event)); });

const bar = $("bar");
bar.addEventListener("pointerdown", (event) => { bar.setPointerCapture(event.pointerId); event.preventDefault(); bar.focus(); });
bar.addEventListener("pointermove", (event) => {
  if (!bar.hasPointerCapture(event.pointerId)) return;
  const box = stage.getBoundingClientRect();
  state.cut = clamp(100 * (event.clientX - box.left) / box.width, 0, 100);
  draw();
});

// Position and values under the pointer; one question at a time, the latest place last.
let asking = false, latest = null;
function locate(event) {
  const first = reference();
  if (!first || event.target === $("bar")) return;
  const at = camera(), [w, h] = paneSize(), [left, top] = place(event);
  const x = at.x + (left - w / 2) / at.zoom, y = at.y + (top - h / 2) / at.zoom;
  if (x < 0 || y < 0 || x >= first.width || y >= first.height) { latest = null; say(); return; }
  const column = Math.floor(x), row = first.height - 1 - Math.floor(y), size = first.pixel_size;
  latest = { m: shown, text: `x ${(column * size).toFixed(1)} Å, y ${(row * size).toFixed(1)} Å (px ${column}, ${row})`, across: x / first.width, down: y / first.height };
  if (!latest.values) say(latest.text);
  askValues();
}
async function askValues() {
  if (asking || inside || !latest) return;
  asking = true;
  const place = latest;
  try {
    const values = await ask(`value/${place.m}/${place.across.toFixed(9)}/${place.down.toFixed(9)}.json`);
    if (latest === place) say(place.text + versionsShown().map((version) => values[version] === null ? "" : ` · ${labels[version]} ${+values[version].toPrecision(5)}`).join(""));
  } catch { /* the server has been stopped: the position stays */ }
  asking = false;
  if (latest !== place) askValues();
}

function options(select, values, text) {
  select.replaceChildren(...values.map((value, k) => new Option(text(value, k), typeof value === "number" ? value : k)));
}
options($("left"), labels, (label) => label);
options($("right"), labels, (label) => label);
options($("lowpass"), data.lowpasses, (value) => value ? `${value} Å` : "off");
$("lowpass").disabled = $("even").disabled = inside !== null;
$("lowpass").parentElement.hidden = $("even-label").hidden = inside !== null;
$("list").querySelector("ol").replaceChildren(...names.map((name, m) => {
  const item = document.createElement("li"), button = document.createElement("button");
  button.textContent = name;
  button.dataset.m = m;
  item.append(button);
  return item;
}));
$("list").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  show(Number(button.dataset.m));
  if (narrow()) toggleList(false);
});
$("search").hidden = names.length < 12;
$("search").addEventListener("input", () => {
  const wanted = $("search").value.toLowerCase();
  let some = false;
  for (const item of $("list").querySelectorAll("li")) some = !(item.hidden = !item.textContent.toLowerCase().includes(wanted)) || some;
  $("none").hidden = some;
});
const CLICKS = { menu: () => toggleList(), previous: () => go(-1), next: () => go(1), in: () => zoomInPlace(1.5), out: () => zoomInPlace(1 / 1.5), fit: showAll, full: fullSize, fft: KEYS.f, "fft-close": KEYS.f, reset, "help-open": toggleHelp, "help-close": toggleHelp };
for (const [id, act] of Object.entries(CLICKS)) $(id).addEventListener("click", act);
$("adjust").addEventListener("click", () => {
  const open = $("adjustments").toggleAttribute("data-open");
  $("adjust").setAttribute("aria-expanded", open);
});
for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => change({ mode: button.dataset.mode }));
$("left").addEventListener("change", (event) => change({ a: Number(event.target.value) }));
$("right").addEventListener("change", (event) => change({ b: Number(event.target.value) }));
$("lowpass").addEventListener("change", (event) => change({ lowpass: Number(event.target.value) }));
$("even").addEventListener("change", (event) => change({ even: event.target.checked }));
for (const id of ["brightness", "contrast"]) $(id).addEventListener("input", (event) => { state[id] = Number(event.target.value); tone(); writeHash(); });
$("rings").addEventListener("pointermove", resolutionAt);
$("rings").addEventListener("pointerleave", () => { $("at").textContent = ""; });
window.addEventListener("hashchange", () => { readHash(); refresh(); show(state.m); });
new ResizeObserver(() => { if (infos.length) build(); }).observe(stage);

readHash();
refresh();
toggleList(!narrow() && names.length > 1);
show(state.m);
