// What is shown, kept in the address so that it can be kept and passed on.
const data = JSON.parse(document.getElementById("data").textContent);
const labels = data.labels, names = data.names, inside = data.inside;
const $ = (id) => document.getElementById(id);
const state = { m: 0, a: 0, b: Math.min(1, labels.length - 1), mode: labels.length > 1 ? "slider" : "one", zoom: 0, x: 0, y: 0, cut: 50, fft: false, lowpass: 0, even: true, brightness: 0, contrast: 0 };
const MODES = ["one", "slider", "side"];
const MOST_PANES = 4;

function clamp(value, low, high) { return Math.min(high, Math.max(low, value)); }
function number(text, low, high, otherwise) {
  const value = Number(text);
  return text !== null && text !== "" && Number.isFinite(value) ? clamp(value, low, high) : otherwise;
}

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  const whole = (key, most, otherwise) => Math.round(number(given.get(key), 1, most, otherwise + 1)) - 1;
  state.m = whole("m", names.length, state.m);
  state.a = whole("a", labels.length, state.a);
  state.b = whole("b", labels.length, state.b);
  if (MODES.includes(given.get("mode"))) state.mode = given.get("mode");
  if (labels.length === 1) state.mode = "one";
  state.zoom = number(given.get("zoom"), 0, 64, state.zoom);
  state.x = number(given.get("x"), -1e6, 1e6, state.x);
  state.y = number(given.get("y"), -1e6, 1e6, state.y);
  state.cut = number(given.get("cut"), 0, 100, state.cut);
  if (given.has("fft")) state.fft = given.get("fft") === "1";
  if (given.has("even")) state.even = given.get("even") === "1";
  const lowpass = Number(given.get("lp"));
  if (given.has("lp") && data.lowpasses.includes(lowpass)) state.lowpass = lowpass;
  state.brightness = number(given.get("br"), -100, 100, state.brightness);
  state.contrast = number(given.get("c"), -100, 100, state.contrast);
  const theme = given.get("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}

let hashTimer = 0;
function writeHash() {
  clearTimeout(hashTimer);
  hashTimer = setTimeout(() => {
    const kept = { m: state.m + 1, mode: state.mode, a: state.a + 1, b: state.b + 1 };
    if (!fitted()) Object.assign(kept, { zoom: +state.zoom.toPrecision(5), x: +state.x.toFixed(1), y: +state.y.toFixed(1) });
    if (state.cut !== 50) kept.cut = +state.cut.toFixed(1);
    if (state.fft) kept.fft = 1;
    if (!state.even) kept.even = 0;
    if (state.lowpass) kept.lp = state.lowpass;
    if (state.brightness) kept.br = state.brightness;
    if (state.contrast) kept.c = state.contrast;
    if (document.documentElement.dataset.theme) kept.theme = document.documentElement.dataset.theme;
    history.replaceState(null, "", "#" + new URLSearchParams(kept));
  }, 200);
}

// Answers of the server, or what the page holds in their place.
async function ask(name) {
  if (inside) return inside[name];
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
function address(name, version) { return inside ? inside[name] : `${name}?${infos[version].stamp}`; }
