// Panes of canvas: tiles of the level that fits the zoom, over coarser ones until they are there.
let infos = [], shown = -1;
const tiles = new Map();
const MOST_TILES = 800;
let waiting = 0, drawing = false, ahead = true;
const levelShown = [];
const panes = [];

function reference() { return infos.find((info) => !info.error); }
function fitted() { return state.zoom === 0; }
function paneSize() {
  const pane = panes[0]?.box;
  return pane ? [pane.clientWidth, pane.clientHeight] : [1, 1];
}
function fitZoom() {
  const first = reference(), [w, h] = paneSize();
  return first ? Math.min(w / first.width, h / first.height) : 1;
}
// Zoom is in pixels of the screen's layout a pixel of the first version; 0 means that all is seen.
function camera() {
  const first = reference();
  return fitted() ? { zoom: fitZoom(), x: first.width / 2, y: first.height / 2 } : state;
}

async function show(m) {
  shown = state.m = m;
  announce();
  $("busy").hidden = false;
  let found;
  try { found = await ask(`info/${m}.json`); } catch (error) { found = labels.map(() => ({ error: String(error.message || error) })); }
  if (shown !== m) return;
  const before = reference();
  infos = found;
  const first = reference();
  if (before && first && (before.width !== first.width || before.height !== first.height)) state.zoom = 0;
  const bad = infos.filter((info) => info.error);
  $("trouble").hidden = !bad.length;
  $("trouble").textContent = bad.map((info) => info.error).join("\n");
  build();
  if (state.fft) showSpectrum();
  ahead = false;
}

// Lets the server make the neighbours' pictures while this micrograph is looked at.
async function readAhead() {
  ahead = true;
  const m = shown, look = lookName();
  for (const next of [m + 1, m - 1]) {
    if (names[next] === undefined || shown !== m) continue;
    try {
      const found = await ask(`info/${next}.json`);
      for (const version of versionsShown()) {
        if (found[version].error || shown !== m) continue;
        const coarsest = found[version].levels - 1;
        for (const level of new Set([coarsest, Math.min(coarsest, levelShown[version] ?? coarsest)]))
          await fetch(`tile/${next}/${version}/${look}/${level}/0_0.png?${found[version].stamp}`);
      }
    } catch { return; }
  }
}
function lookName() { return `${state.even ? 1 : 0}-${state.lowpass}`; }

function versionsShown() {
  if (state.mode === "one") return [state.a];
  if (state.mode === "slider") return [state.a, state.b];
  if (labels.length <= MOST_PANES) return labels.map((_, version) => version);
  return state.a === state.b ? [state.a] : [state.a, state.b];
}

function tag(version, side) {
  const label = document.createElement("span"), dot = document.createElement("i");
  label.className = `tag ${side}`;
  dot.className = `dot k${version}`;
  label.append(dot, labels[version]);
  return label;
}

// Makes the panes anew, for another layout, version or micrograph.
function build() {
  const versions = versionsShown(), groups = state.mode === "side" ? versions.map((v) => [v]) : [versions];
  const stage = $("stage"), upright = stage.clientHeight > stage.clientWidth;
  $("panes").className = groups.length > 2 ? (groups.length === 4 || upright ? "four" : "") : upright && groups.length === 2 ? "stacked" : "";
  panes.length = 0;
  $("panes").replaceChildren(...groups.map((group) => {
    const box = document.createElement("div"), canvas = document.createElement("canvas");
    box.className = "pane";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${names[state.m]}: ${group.map((v) => labels[v]).join(" and ")}`);
    box.append(canvas, tag(group[0], "start"));
    if (group.length > 1) box.append(tag(group[1], "end"));
    panes.push({ box, canvas, versions: group });
    return box;
  }));
  $("bar").hidden = state.mode !== "slider";
  tone();
  draw();
}

function tone() {
  // The pictures hold twice the range that is shown at first.
  const contrast = 2 * 2 ** (state.contrast / 40), brightness = 1 + state.brightness / 200;
  for (const pane of panes) pane.canvas.style.filter = `brightness(${brightness}) contrast(${contrast})`;
}

function tileOf(name, version, wanted) {
  const source = address(name, version);
  let entry = tiles.get(source);
  if (entry) { tiles.delete(source); tiles.set(source, entry); return entry.ready ? entry.image : null; }
  if (!wanted) return null;
  if (!source) return null;
  entry = { image: new Image(), ready: false };
  tiles.set(source, entry);
  while (tiles.size > MOST_TILES) tiles.delete(tiles.keys().next().value);
  waiting += 1;
  const done = (ready) => { entry.ready = ready; waiting -= 1; draw(); };
  entry.image.onload = () => done(true);
  entry.image.onerror = () => done(false);
  entry.image.src = source;
  return null;
}

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; paint(); });
}

function paint() {
  const first = reference();
  if (!first) { $("busy").hidden = infos.length > 0; for (const pane of panes) pane.canvas.width = pane.canvas.width; return; }
  const at = camera();
  for (const { box, canvas, versions } of panes) {
    const w = box.clientWidth, h = box.clientHeight, dense = window.devicePixelRatio || 1;
    canvas.width = Math.round(w * dense);
    canvas.height = Math.round(h * dense);
    const context = canvas.getContext("2d"), cut = Math.round(canvas.width * state.cut / 100);
    versions.forEach((version, place) => {
      context.save();
      context.beginPath();
      if (versions.length > 1) context.rect(place ? cut : 0, 0, place ? canvas.width - cut : cut, canvas.height);
      else context.rect(0, 0, canvas.width, canvas.height);
      context.clip();
      paintVersion(context, version, at, first, dense);
      context.restore();
    });
  }
  $("bar").style.left = `${state.cut}%`;
  $("bar").setAttribute("aria-valuenow", Math.round(state.cut));
  $("bar").setAttribute("aria-valuetext", `${labels[state.a]} ${Math.round(state.cut)} %, ${labels[state.b]} ${Math.round(100 - state.cut)} %`);
  showScale(at, first);
  $("busy").hidden = waiting === 0;
  if (waiting === 0 && !ahead && !inside) readAhead();
  writeHash();
}

function paintVersion(context, version, at, first, dense) {
  const info = infos[version];
  if (!info || info.error) return;
  // Device pixels a pixel of this version, which may be binned.
  const scale = at.zoom * dense * first.width / info.width;
  const left = context.canvas.width / 2 - at.x * at.zoom * dense, top = context.canvas.height / 2 - at.y * at.zoom * dense;
  const coarsest = info.levels - 1;
  const level = clamp(Math.floor(Math.log2(1 / scale) + 1e-6), info.first_level || 0, coarsest);
  levelShown[version] = level;
  context.imageSmoothingEnabled = scale < 2;
  context.imageSmoothingQuality = "high";
  context.beginPath();
  context.rect(left, top, info.width * scale, info.height * scale);
  context.clip();
  if (paintLevel(context, version, info, level, scale, left, top, false)) return;
  for (let coarse = coarsest; coarse > level; coarse -= 1) paintLevel(context, version, info, coarse, scale, left, top, true, coarse === coarsest);
  paintLevel(context, version, info, level, scale, left, top, true, true);
}

// Draws the tiles in sight that are there, if `put`; asks for the others, if `wanted`.
function paintLevel(context, version, info, level, scale, left, top, put, wanted = put) {
  const edge = data.tile * 2 ** level * scale, found = [];
  const columns = Math.ceil(info.width / (data.tile * 2 ** level)), rows = Math.ceil(info.height / (data.tile * 2 ** level));
  const look = lookName();
  let complete = true;
  for (let row = Math.max(0, Math.floor(-top / edge)); row < rows && top + row * edge < context.canvas.height; row += 1)
    for (let column = Math.max(0, Math.floor(-left / edge)); column < columns && left + column * edge < context.canvas.width; column += 1) {
      const image = tileOf(`tile/${shown}/${version}/${look}/${level}/${row}_${column}.png`, version, wanted);
      if (image) found.push([image, row, column]); else complete = false;
    }
  if (!put && !complete) return false;
  for (const [image, row, column] of found) {
    // Whole device pixels, so that no seam shows.
    const x = Math.round(left + column * edge), y = Math.round(top + row * edge);
    const right = Math.round(left + column * edge + image.naturalWidth * 2 ** level * scale), bottom = Math.round(top + row * edge + image.naturalHeight * 2 ** level * scale);
    context.drawImage(image, x, y, right - x, bottom - y);
  }
  return complete;
}

function length(angstrom) {
  return angstrom >= 10000 ? `${angstrom / 10000} µm` : angstrom >= 10 ? `${angstrom} Å = ${angstrom / 10} nm` : `${angstrom} Å`;
}

function showScale(at, first) {
  const most = Math.min(170, paneSize()[0] / 3) / at.zoom * first.pixel_size, power = 10 ** Math.floor(Math.log10(most));
  const size = [5, 2, 1].find((step) => step * power <= most) * power, bar = $("scale").firstElementChild;
  bar.style.width = `${size / first.pixel_size * at.zoom}px`;
  if ($("scale").firstChild.nodeType !== Node.TEXT_NODE) $("scale").prepend("");
  $("scale").firstChild.nodeValue = length(+size.toPrecision(3));
  $("zoom").textContent = `${+(100 * at.zoom * (window.devicePixelRatio || 1)).toPrecision(3)} %`;
  $("size").textContent = `${first.width} × ${first.height} px, ${first.pixel_size} Å/px${first.assumed ? " (assumed)" : ""}`;
}

// Changes the zoom so that the place under (left, top) of a pane stays where it is.
function zoomBy(factor, left, top) {
  if (!reference()) return;
  const at = camera(), [w, h] = paneSize(), least = fitZoom() / 4;
  const zoom = clamp(at.zoom * factor, Math.min(least, 1), 64), x = at.x + (left - w / 2) / at.zoom, y = at.y + (top - h / 2) / at.zoom;
  moveTo(x - (left - w / 2) / zoom, y - (top - h / 2) / zoom, zoom);
}
function moveTo(x, y, zoom) {
  const first = reference();
  if (!first) return;
  Object.assign(state, { x: clamp(x, 0, first.width), y: clamp(y, 0, first.height), zoom });
  draw();
}
