// The page: layers, legend, scale, grids and what the server says about the render. Painting is in tools.js.
import { Tools } from "./tools.js";

const OSD = window.OpenSeadragon;
const TILE = 256;
const $ = (id) => document.getElementById(id);
const BLANK = new Image(1, 1);
BLANK.src = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

// What the server answers: JSON, or an error with its one line.
async function ask(path, body) {
  const how = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, how);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

let noteTimer;
export function note(text, { bad = false, seconds = 5 } = {}) {
  $("note").textContent = text;
  $("note").classList.toggle("bad", bad);
  $("note").hidden = false;
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => ($("note").hidden = true), seconds * 1000);
}
const tell = (error) => note(error.message, { bad: true, seconds: 9 });

$("status").textContent = "opening";
const info = await ask("info").catch((error) => { $("status").textContent = ""; note(error.message, { bad: true, seconds: 1e5 }); throw error; });
const TOP = Math.max(0, Math.ceil(Math.log2(Math.max(info.width, info.height) / TILE)));
document.title = `${info.name} - SAFRON view`;
document.body.classList.toggle("no-labels", !info.has_labels);
document.body.classList.toggle("no-patches", !info.patches);
document.body.classList.toggle("no-blocks", !info.patches?.block);
document.body.classList.toggle("no-mask", info.kind !== "mask");
$("name").textContent = info.name;
$("name").title = info.name;
const number = (value, digits = 0) => value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });
$("facts").textContent = [`${number(info.width)} \u00d7 ${number(info.height)} px`, info.mpp && `${+info.mpp.toPrecision(4)} \u00b5m/px`, info.generator].filter(Boolean).join("  \u00b7  ");
for (const text of info.notes ?? []) console.info(text);

const viewer = OSD({
  element: $("viewer"), drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorPosition: "BOTTOM_RIGHT",
  navigatorSizeRatio: 0.14, navigatorAutoFade: false, navigatorBackground: "#fff", navigatorOpacity: 1, navigatorBorderColor: "#c6ccd2", navigatorDisplayRegionColor: "#6b3a6e", visibilityRatio: 0.35, minZoomImageRatio: 0.7, maxZoomPixelRatio: 8, minPixelRatio: 0.7,
  animationTime: 0.45, blendTime: 0, imageLoaderLimit: 8, maxImageCacheCount: 600, timeout: 120000, preserveImageSizeOnResize: true,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, gestureSettingsTouch: { clickToZoom: false }, opacity: 1,
});
viewer.innerTracker.keyHandler = viewer.innerTracker.keyDownHandler = null; // ours, below

// Layers. Each shows tiles of the server; when they change, the layer is loaded again unseen and takes the old one's place.
const state = { version: 0, epoch: 0, labels: 0, hidden: new Set(info.fills ?? []), outline: false, opacity: 0.45, overlay: false, tissue: true, last: null };
const complete = new Set();
const layers = { under: null, tissue: null, over: null };
let before = null; // tissue from before a stroke, shown until the new one is there
const ORDER = ["under", "tissue", "over"];
const busy = new Set();
const stale = new Set();

function source(url, opaque) {
  const made = new OSD.TileSource({ width: info.width, height: info.height, tileSize: TILE, tileOverlap: 0, minLevel: 0, maxLevel: TOP });
  made.getTileUrl = (level, x, y) => url(`${TOP - level}/${x}/${y}`);
  made.hasTransparency = () => !opaque;
  made.downloadTileStart = (context) => {
    const stop = (context.userData.stop = new AbortController());
    fetch(context.src, { signal: stop.signal })
      .then(async (answer) => {
        if (answer.status === 204) return BLANK;
        if (!answer.ok) throw new Error(await answer.text());
        if (answer.headers.get("X-Complete")) complete.add(context.src.split("&v=")[0]);
        const image = new Image();
        image.src = URL.createObjectURL(await answer.blob());
        await image.decode();
        URL.revokeObjectURL(image.src);
        return image;
      })
      .then((image) => context.finish(image, null, null), (error) => context.finish(null, null, error.message));
  };
  made.downloadTileAbort = (context) => context.userData.stop?.abort();
  return made;
}
const sources = {
  tissue: () => {
    const { epoch, version } = state;
    return source((place) => { const base = `tissue/${place}?e=${epoch}`; return complete.has(base) ? base : `${base}&v=${version}`; }, info.kind === "slide");
  },
  under: () => { const { labels } = state; return source((place) => `labels/${place}?n=${labels}&hide=${info.fills ?? ""}`, false); },
  over: () => {
    const { labels, outline } = state, hide = [...state.hidden].join(",");
    return source((place) => `labels/${place}?n=${labels}&hide=${hide}${outline ? "&style=outline" : ""}`, false);
  },
};
const opacityOf = (slot) => ({ under: state.tissue ? 0.4 : 1, tissue: state.tissue ? 1 : 0, over: state.overlay ? Math.min(1, state.opacity * (state.outline ? 2 : 1)) : 0 })[slot];

function load(slot) {
  if (busy.has(slot)) return void stale.add(slot);
  busy.add(slot);
  const old = layers[slot];
  viewer.addTiledImage({
    tileSource: sources[slot](), opacity: old ? 0 : opacityOf(slot), preload: true, x: 0, y: 0, width: 1,
    error: () => busy.delete(slot),
    success: ({ item }) => {
      const after = old ?? ORDER.slice(0, ORDER.indexOf(slot)).map((name) => layers[name]).filter(Boolean).pop();
      viewer.world.setItemIndex(item, after ? viewer.world.getIndexOfItem(after) + (viewer.world.getIndexOfItem(after) < viewer.world.getIndexOfItem(item) ? 1 : 0) : 0);
      layers[slot] = item;
      const show = () => {
        clearTimeout(timer);
        item.setOpacity(opacityOf(slot));
        item.setPreload(slot !== "over" || state.overlay);
        if (old && old !== before) viewer.world.removeItem(old);
        busy.delete(slot);
        if (stale.delete(slot)) load(slot);
        else if (slot === "over") tools?.settle();
      };
      const timer = setTimeout(show, old ? 2500 : 0);
      if (old) item.addOnceHandler("fully-loaded-change", ({ fullyLoaded }) => fullyLoaded && show());
    },
  });
}
function fade() {
  for (const slot of ORDER) if (layers[slot] && !(busy.has(slot) && layers[slot].getOpacity() === 0)) layers[slot].setOpacity(opacityOf(slot));
  $("tissue-on").checked = state.tissue;
  $("labels-on").checked = state.overlay;
  $("opacity").value = Math.round(100 * state.opacity);
}
function showOverlay(on) {
  state.overlay = on && info.has_labels;
  if (state.overlay && !layers.over) load("over");
  layers.over?.setPreload(state.overlay);
  fade();
}

// What is on screen, and what the server knows of it.
// All layers are one unit wide and lie on each other.
const whole = (x, y) => new OSD.Point(x / info.width, y / info.width);
export const toImage = (point) => viewer.viewport.pointFromPixel(point, true).times(info.width);
export const toScreen = (x, y) => viewer.viewport.pixelFromPoint(whole(x, y), true);
const zoomOf = (imageZoom) => (imageZoom * info.width) / viewer.viewport.getContainerSize().x;
export const zoomNow = () => (viewer.viewport.getZoom(true) * viewer.viewport.getContainerSize().x) / info.width; // screen pixels an image pixel
function view() {
  const bounds = viewer.viewport.getBounds(true).times(info.width);
  const level = Math.max(0, Math.min(TOP, Math.floor(Math.log2(1 / (zoomNow() * (window.devicePixelRatio || 1))))));
  const clip = (value, most) => Math.max(0, Math.min(most, Math.round(value)));
  return new URLSearchParams({ level, x0: clip(bounds.x, info.width), y0: clip(bounds.y, info.height), x1: clip(bounds.x + bounds.width, info.width), y1: clip(bounds.y + bounds.height, info.height) });
}

let pollTimer, lost = false;
export async function poll() {
  clearTimeout(pollTimer);
  let pause = 1500;
  try {
    if (!document.hidden && viewer.world.getItemCount()) {
      const now = await ask(`state?${view()}`);
      lost = false;
      if (apply(now)) pause = 300;
    }
  } catch (error) {
    if (error instanceof TypeError) { if (!lost) note("The server has stopped. Start safron-view again, and reload.", { bad: true, seconds: 1e5 }); lost = true; pause = 4000; } else tell(error);
  }
  clearTimeout(pollTimer);
  pollTimer = setTimeout(poll, pause);
}

let shownError = "";
// Take what the server said; true while something is being made.
function apply(now) {
  state.last = now;
  info.kind = now.kind;
  if (now.epoch !== state.epoch && now.seed === state.seed && now.kind === "mask") before ??= layers.tissue;
  state.seed = now.seed;
  const fresh = now.epoch !== state.epoch || now.version !== state.version;
  [state.version, state.epoch] = [now.version, now.epoch];
  if (fresh) load("tissue");
  if (info.has_labels) {
    if (now.labels_version !== state.labels) { state.labels = now.labels_version; if (layers.under) load("under"); if (layers.over) load("over"); }
    legend(now.legend);
    $("undo").disabled = $("save").disabled = !now.strokes;
  }
  const { total, done, most, paused, error, finished } = now.progress;
  let share = 0, active = false, said = "";
  if (now.kind === "mask") {
    const wanted = Math.min(total, most);
    share = wanted ? done / wanted : 1;
    active = done < wanted && !paused;
    $("mask-section").hidden = false;
    if (document.activeElement !== $("seed")) $("seed").value = now.seed;
    if (document.activeElement !== $("stain")) showStain(now.stain);
    $("pause").textContent = paused ? "go on" : "pause";
    $("view-progress").textContent = done >= wanted && total > most ? "Middle of the view is rendered; zoom in for the rest" : done >= wanted ? "This view is rendered" : `${number(done)} of ${number(wanted)} tiles of this view`;
    said = done >= wanted ? "" : paused ? "paused" : `rendering ${Math.floor(100 * share)} %`;
    if (error && error !== shownError) note(error, { bad: true, seconds: 15 });
    shownError = error;
  } else if (now.kind === "render") {
    const { patches, all_patches, blocks, all_blocks, step, steps, state: how, line } = now.progress;
    share = all_patches ? patches / all_patches : 0;
    active = how === "running";
    $("render-section").hidden = false;
    $("render-line").textContent = line ?? "";
    const turn = steps > 1 ? `pass ${number(step)} of ${number(steps)}, ` : "";
    said = `${how ?? "reading"}: ${turn}block ${number(blocks ?? 0)} of ${number(all_blocks ?? 0)}, ${Math.floor(100 * share)} %`;
  } else if (!$("render-section").hidden) {
    $("render-title").textContent = "Render";
    $("render-line").textContent = "Finished.";
  }
  if (before && !active && !busy.has("tissue") && before !== layers.tissue) { viewer.world.removeItem(before); before = null; }
  $("status").textContent = said;
  $("bar").firstElementChild.style.width = active ? `${100 * share}%` : "0";
  document.body.dataset.done = String(!active && !busy.size);
  return active || !now.legend?.counted;
}

let legendWas = "";
function legend(said) {
  const key = JSON.stringify(said) + [...state.hidden];
  if (!said || key === legendWas) return;
  legendWas = key;
  $("counting").textContent = said.trouble || (said.counted ? "" : "counting");
  const all = said.labels.reduce((sum, one) => sum + (one.pixels ?? 0), 0);
  const body = $("legend").tBodies[0];
  body.replaceChildren(...said.labels.map((one) => {
    const row = document.createElement("tr");
    row.classList.toggle("off", state.hidden.has(one.value));
    const chip = document.createElement("button");
    chip.className = "chip";
    chip.style.background = `rgb(${one.color})`;
    chip.title = chip.ariaLabel = `Show or hide ${one.name}`;
    chip.ariaPressed = !state.hidden.has(one.value);
    chip.onclick = () => { state.hidden.has(one.value) ? state.hidden.delete(one.value) : state.hidden.add(one.value); showOverlay(true); load("over"); legend(said); };
    const cell = (name, text) => { const made = document.createElement("td"); made.className = name; made.textContent = text; return made; };
    const first = document.createElement("td");
    first.append(chip);
    const area = one.pixels == null ? "" : info.mpp ? areaText(one.pixels * info.mpp ** 2) : `${number(one.pixels / 1e6, 2)} Mpx`;
    const name = cell("name", one.name), count = document.createElement("small");
    name.title = `${one.value}: ${one.name}`;
    count.textContent = one.pixels == null ? "" : `${number(one.pixels)} px`;
    name.append(count);
    row.append(first, name, cell("area", area), cell("share", one.pixels == null || !all ? "" : `${number((100 * one.pixels) / all, 1)} %`));
    return row;
  }));
  tools?.labels(said.labels);
}
const areaText = (um2) => (um2 >= 1e4 ? `${number(um2 / 1e6, 2)} mm\u00b2` : `${number(um2)} \u00b5m\u00b2`);
export const lengthText = (px) => { if (!info.mpp) return `${number(px)} px`; const um = px * info.mpp; return um >= 1000 ? `${+(um / 1000).toPrecision(3)} mm` : `${+um.toPrecision(3)} \u00b5m`; };

// Scale bar, coordinates, grids.
function scaleBar() {
  const per = info.mpp ? info.mpp / zoomNow() : 1 / zoomNow(); // um, or pixels, a screen pixel
  const most = 150 * per, power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((digit) => digit * power).find((value) => value <= most);
  return { width: length / per, text: info.mpp ? lengthText(length / info.mpp) : `${number(length)} px` };
}
const overlay = $("overlay");
function draw() {
  if (!viewer.world.getItemCount()) return;
  const bar = scaleBar();
  $("scale").firstElementChild.style.width = `${bar.width}px`;
  $("scale").lastElementChild.textContent = bar.text;
  const ratio = window.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = overlay;
  if (overlay.width !== Math.round(width * ratio)) overlay.width = Math.round(width * ratio);
  if (overlay.height !== Math.round(height * ratio)) overlay.height = Math.round(height * ratio);
  const pen = overlay.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (info.kind === "render") { // what is not made yet is empty, so its edge is drawn
    const a = toScreen(0, 0), b = toScreen(info.width, info.height);
    pen.strokeStyle = "rgb(98 106 115 / .8)"; pen.lineWidth = 1; pen.strokeRect(a.x, a.y, b.x - a.x, b.y - a.y);
  }
  if ($("grid-on").checked && info.patches) grid(pen, info.patches.tile - info.patches.overlap, info.patches.overlap, "rgb(20 110 150 / .75)", 1);
  if ($("blocks-on").checked && info.patches?.block) grid(pen, info.patches.block, 0, "rgb(190 70 20 / .9)", 2, 1, 0, 0);
  if (mark) {
    const { x, y } = toScreen(mark.x + 0.5, mark.y + 0.5);
    pen.strokeStyle = "#fff"; pen.lineWidth = 5; pen.beginPath(); pen.arc(x, y, 26, 0, 7); pen.stroke();
    pen.strokeStyle = "#c2185b"; pen.lineWidth = 2.5; pen.beginPath(); pen.arc(x, y, 26, 0, 7); pen.stroke();
  }
  tools?.draw(pen);
}
function grid(pen, stride, overlap, color, width, ratio = info.patches.ratio, top = info.patches.y, left = info.patches.x) {
  const step = stride / ratio, zoom = zoomNow();
  if (step * zoom < 8) return;
  const a = toScreen(0, 0), b = toScreen(info.width, info.height), sides = [overlay.clientWidth, overlay.clientHeight];
  pen.strokeStyle = color;
  pen.fillStyle = color.replace(/[.\d]+\)$/, ".16)");
  pen.lineWidth = width;
  for (const [axis, origin] of [["x", left], ["y", top]]) {
    const from = Math.max(0, a[axis]), to = Math.min(axis === "x" ? sides[0] : sides[1], b[axis]);
    const across = axis === "x" ? [Math.max(0, a.y), Math.min(sides[1], b.y)] : [Math.max(0, a.x), Math.min(sides[0], b.x)];
    const first = Math.floor(((from - a[axis]) / zoom * ratio + origin) / stride);
    for (let index = first; ; index++) {
      const at = a[axis] + ((index * stride - origin) / ratio) * zoom;
      if (at > to) break;
      const wide = (overlap / ratio) * zoom;
      if (index > 0 && wide > 3 && at + wide > from) axis === "x" ? pen.fillRect(Math.max(at, from), across[0], Math.min(wide, at + wide - from), across[1] - across[0]) : pen.fillRect(across[0], Math.max(at, from), across[1] - across[0], Math.min(wide, at + wide - from));
      if (at < from) continue;
      pen.beginPath();
      axis === "x" ? (pen.moveTo(at, across[0]), pen.lineTo(at, across[1])) : (pen.moveTo(across[0], at), pen.lineTo(across[1], at));
      pen.stroke();
    }
  }
}
let mark = null, asked = 0;
new OSD.MouseTracker({
  element: viewer.container, moveHandler: async ({ position }) => {
    const { x, y } = toImage(position), px = Math.floor(x), py = Math.floor(y);
    tools?.hover(position);
    if (px < 0 || py < 0 || px >= info.width || py >= info.height) return void ($("where").textContent = "");
    const place = `x ${number(px)}  y ${number(py)} px` + (info.mpp ? `  \u00b7  ${number((px * info.mpp) / 1000, 3)}, ${number((py * info.mpp) / 1000, 3)} mm` : "");
    $("where").textContent = place;
    if (!info.has_labels || performance.now() - asked < 120) return;
    asked = performance.now();
    const found = await ask(`label?x=${px}&y=${py}`).catch(() => null);
    if (found && $("where").textContent === place) $("where").textContent = `${place}  \u00b7  ${found.name}`;
  },
  leaveHandler: () => ($("where").textContent = ""),
});

// Stains that have a name; one that the command line gave is added to them.
const STAINS = ["reference", "pale", "strong", "blue", "pink", "violet", "red", "faded", "frozen", ...Array.from({ length: 6 }, (_, n) => `random:${n + 1}`)];
function showStain(stain) {
  const options = [...$("stain").options].map((option) => option.value);
  for (const name of STAINS.includes(stain) ? STAINS : [...STAINS, stain]) if (!options.includes(name)) $("stain").add(new Option(name, name));
  $("stain").value = stain;
}

// Controls.
const tools = info.has_labels ? new Tools({ viewer, info, ask, tell, note, poll, toImage, toScreen, zoomNow, lengthText, showOverlay, loading: () => busy.has("over") }) : null;
const pan = (x, y) => (viewer.viewport.panBy(viewer.viewport.deltaPointsFromPixels(new OSD.Point(x, y))), tools?.panned());
const zoom = (factor) => (viewer.viewport.zoomBy(factor), viewer.viewport.applyConstraints());
const home = () => viewer.viewport.goHome();
const reseed = (seed) => ask("seed", { seed }).then(poll, tell);
const restain = (stain) => ask("stain", { stain }).then(poll, tell);
const nextSeed = () => info.kind === "mask" && reseed((Number($("seed").value) || 0) + 1);
async function seam() {
  if (!info.patches) return;
  note("Looking along the sides of patches", { seconds: 60 });
  try {
    const found = await ask(`seam?${view()}`);
    if (!found) return note("No side of a patch is rendered in this view.");
    if (!found.step) return note("No step at the sides of the patches that are rendered in this view.");
    mark = found;
    setTimeout(() => { mark = null; draw(); }, 8000);
    viewer.viewport.zoomTo(zoomOf(Math.max(1.5, zoomNow())));
    viewer.viewport.panTo(whole(found.x, found.y));
    note(`Largest of ${number(found.sides)} sides of patches in this view: a step of ${found.step} grey levels; lines beside it have ${found.usual}.`, { seconds: 8 });
  } catch (error) { tell(error); }
}
function download() {
  const from = viewer.drawer.canvas, made = document.createElement("canvas");
  [made.width, made.height] = [from.width, from.height];
  const pen = made.getContext("2d"), ratio = from.width / overlay.clientWidth, bar = scaleBar(), top = made.height / ratio - 22;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, made.width, made.height);
  pen.drawImage(from, 0, 0);
  pen.drawImage(overlay, 0, 0, made.width, made.height);
  pen.scale(ratio, ratio);
  for (const [color, width] of [["#fff", 6], ["#1c2024", 2.5]]) {
    pen.strokeStyle = color; pen.lineWidth = width;
    pen.beginPath(); pen.moveTo(16, top); pen.lineTo(16, top + 6); pen.lineTo(16 + bar.width, top + 6); pen.lineTo(16 + bar.width, top); pen.stroke();
  }
  pen.font = "600 13px system-ui, sans-serif"; pen.textAlign = "center"; pen.lineWidth = 4; pen.strokeStyle = "#fff"; pen.fillStyle = "#1c2024";
  pen.strokeText(bar.text, 16 + bar.width / 2, top - 3); pen.fillText(bar.text, 16 + bar.width / 2, top - 3);
  made.toBlob((blob) => {
    const link = document.createElement("a"), { x, y } = toImage(new OSD.Point(0, 0));
    link.href = URL.createObjectURL(blob);
    link.download = `${info.name.replace(/\.[^.]*$/, "")}-x${Math.max(0, Math.round(x))}-y${Math.max(0, Math.round(y))}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}
const panel = (open = !$("panel").classList.contains("open")) => ($("panel").classList.toggle("open", open), $("panel-button").setAttribute("aria-expanded", open));
const style = (outline) => { state.outline = outline; $("fill").classList.toggle("on", !outline); $("outline").classList.toggle("on", outline); $("fill").ariaPressed = !outline; $("outline").ariaPressed = outline; showOverlay(true); if (layers.over) load("over"); };
const setTissue = (on) => { state.tissue = on; before?.setOpacity(on ? 1 : 0); fade(); };
const setOpacity = (value) => { state.opacity = Math.max(0, Math.min(1, value)); showOverlay(true); };

$("zoom-in").onclick = () => zoom(1.6);
$("zoom-out").onclick = () => zoom(1 / 1.6);
$("home").onclick = home;
$("tissue-on").onchange = (event) => setTissue(event.target.checked);
$("labels-on").onchange = (event) => showOverlay(event.target.checked);
$("opacity").oninput = (event) => setOpacity(event.target.value / 100);
$("fill").onclick = () => style(false);
$("outline").onclick = () => style(true);
$("grid-on").onchange = $("blocks-on").onchange = draw;
const flip = (id) => { $(id).checked = !$(id).checked; draw(); };
$("seed").onchange = (event) => reseed(Math.max(0, Math.floor(Number(event.target.value) || 0)));
$("next-seed").onclick = nextSeed;
$("stain").onchange = (event) => restain(event.target.value);
$("pause").onclick = () => ask("pause", { paused: !state.last.progress.paused }).then(poll, tell);
$("seam").onclick = seam;
$("download").onclick = download;
$("help-button").onclick = () => $("help").showModal();
$("panel-button").onclick = () => panel();

const KEYS = {
  ArrowLeft: () => pan(-80, 0), ArrowRight: () => pan(80, 0), ArrowUp: () => pan(0, -80), ArrowDown: () => pan(0, 80),
  "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: home, 1: () => viewer.viewport.zoomTo(zoomOf(1)),
  t: () => setTissue(!state.tissue), l: () => showOverlay(!state.overlay), w: seam, n: nextSeed, d: download, "?": () => $("help").showModal(),
  g: () => info.patches && flip("grid-on"), k: () => info.patches?.block && flip("blocks-on"), o: () => info.has_labels && style(!state.outline),
  "[": () => tools?.resize(-1) || setOpacity(state.opacity - 0.1), "]": () => tools?.resize(1) || setOpacity(state.opacity + 0.1),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]):not([type=range]), select") || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (event.target.matches("button, input, a") && (event.key === " " || event.key === "Enter")) return;
  const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()] ?? tools?.key(event.key);
  if (!act) return;
  event.preventDefault();
  act();
});

viewer.world.addHandler("add-item", draw);
for (const event of ["update-viewport", "resize", "animation"]) viewer.addHandler(event, draw);
viewer.addHandler("animation-finish", poll);
document.addEventListener("visibilitychange", () => document.hidden || poll());
viewer.addOnceHandler("tile-drawn", () => (document.body.dataset.open = "1"));
const first = await ask(`state?${new URLSearchParams({ level: TOP, x0: 0, y0: 0, x1: info.width, y1: info.height })}`);
[state.version, state.epoch, state.labels, state.seed] = [first.version, first.epoch, first.labels_version ?? 0, first.seed];
if (info.has_labels && info.kind !== "slide") load("under");
load("tissue");
if (info.has_labels && info.kind === "slide") { state.overlay = true; load("over"); }
fade();
apply(first);
setTimeout(poll, 150);
