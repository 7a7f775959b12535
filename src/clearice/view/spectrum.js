// The power spectrum: the halves of two versions, rings of resolution, and radial means.
const SVG = "http://www.w3.org/2000/svg";
const RESOLUTIONS = [100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1.2, 1];

function drawn(kind, attributes, text) {
  const element = document.createElementNS(SVG, kind);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function spectrumVersions() {
  const usable = versionsShown().filter((version) => infos[version] && !infos[version].error);
  return [...new Set(usable)];
}

async function showSpectrum() {
  const versions = spectrumVersions(), [one, two] = $("rings").querySelectorAll("img"), m = shown;
  $("rings").classList.toggle("halved", versions.length > 1);
  [one, two].forEach((image, place) => {
    const version = versions[place];
    if (version === undefined) image.removeAttribute("src");
    else image.src = address(`spectrum/${m}/${version}.png`, version);
    // The same frequency at the same place, whatever the pixel sizes.
    image.style.transform = version === undefined ? "" : `scale(${infos[versions[0]].pixel_size / infos[version].pixel_size})`;
    image.alt = version === undefined ? "" : `power spectrum of ${labels[version]}`;
  });
  $("halves").replaceChildren(...versions.slice(0, 2).map((version) => {
    const line = document.createElement("span"), dot = document.createElement("i");
    dot.className = `dot k${version}`;
    line.append(dot, labels[version]);
    return line;
  }));
  const first = versions.length ? infos[versions[0]] : null;
  $("rings").lastElementChild.replaceChildren(...(first ? rings(first.pixel_size) : []));
  let profiles = [];
  try { profiles = await Promise.all(versions.map((version) => ask(`spectrum/${m}/${version}.json`))); } catch { profiles = []; }
  if (m === shown && state.fft) drawProfile(versions.slice(0, profiles.length), profiles);
}

function rings(pixelSize) {
  const parts = [];
  if ($("rings").classList.contains("halved")) parts.push(drawn("line", { x1: 50, x2: 50, y1: 0, y2: 100 }));
  let last = 5;
  for (const resolution of RESOLUTIONS) {
    const radius = 100 * pixelSize / resolution;
    if (radius < last + 6 || radius > 50) continue;
    last = radius;
    parts.push(drawn("circle", { cx: 50, cy: 50, r: radius }));
    // Where the diagonal goes up to the right: labels never lie on the line between the halves.
    parts.push(drawn("text", { x: 50 + radius * Math.SQRT1_2, y: 50 - radius * Math.SQRT1_2 + 1.2 }, `${resolution} Å`));
  }
  return parts;
}

function drawProfile(versions, profiles) {
  const box = $("profile"), w = 360, h = 190, left = 34, right = 8, top = 8, bottom = 40;
  box.setAttribute("viewBox", `0 0 ${w} ${h}`);
  if (!profiles.length) { box.replaceChildren(); return; }
  const values = profiles.flatMap((profile) => profile.log_power.slice(1));
  const low = Math.min(...values), high = Math.max(...values), span = Math.max(high - low, 1e-3);
  const nyquist = Math.max(...versions.map((version) => 0.5 / infos[version].pixel_size));
  const px = (perAngstrom) => left + (w - left - right) * perAngstrom / nyquist, py = (value) => top + (h - top - bottom) * (high - value) / span;
  const parts = [drawn("path", { class: "axis", d: `M${left} ${top}V${h - bottom}H${w - right}` })];
  for (let tick = Math.ceil(low); tick <= high; tick += Math.max(1, Math.round(span / 4)))
    parts.push(drawn("text", { x: left - 4, y: py(tick) + 4, "text-anchor": "end" }, `10${superscript(tick)}`));
  let last = left + 6;
  for (const resolution of RESOLUTIONS) {
    const x = px(1 / resolution);
    if (x > w - right + 1 || x < last + 30) continue;
    last = x;
    parts.push(drawn("path", { class: "axis", d: `M${x} ${h - bottom}v4` }));
    parts.push(drawn("text", { x, y: h - bottom + 16, "text-anchor": "middle" }, resolution));
  }
  parts.push(drawn("text", { x: (w + left) / 2, y: h - 8, "text-anchor": "middle" }, "resolution, Å"));
  parts.push(drawn("text", { x: w - right, y: top + 8, "text-anchor": "end" }, "mean power"));
  profiles.forEach((profile, place) => {
    const size = infos[versions[place]].pixel_size;
    const points = profile.frequency.map((frequency, k) => `${px(frequency / size).toFixed(1)} ${py(clamp(profile.log_power[k], low, high)).toFixed(1)}`);
    parts.push(drawn("path", { class: `c${versions[place]}`, d: `M${points.slice(1).join("L")}` }));
  });
  box.replaceChildren(...parts);
}

function superscript(value) {
  return String(value).replace(/[-0-9]/g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
}

function resolutionAt(event) {
  const box = $("rings").getBoundingClientRect(), version = spectrumVersions()[0];
  const distance = Math.hypot((event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5);
  if (version !== undefined && distance > 0.005) $("at").textContent = `${(infos[version].pixel_size / distance).toPrecision(3)} Å`;
}
