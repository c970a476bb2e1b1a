// Brush, polygon and eraser. A stroke is drawn here while the pointer is down, and painted by the server.
const $ = (id) => document.getElementById(id);
const NEAR = 1.5; // screen pixels between points that are kept

export class Tools {
  constructor(page) {
    Object.assign(this, page);
    this.tool = "pan";
    this.points = [];
    this.sent = []; // strokes that the picture does not show yet
    this.pointer = null;
    this.colors = {};
    this.known = "";
    document.querySelectorAll("[data-tool]").forEach((button) => (button.onclick = () => this.choose(button.dataset.tool)));
    $("undo").onclick = () => this.undo();
    $("save").onclick = () => this.openSave();
    $("brush-size").oninput = () => this.said();
    $("brush-label").onchange = () => this.redraw();
    $("save-go").onclick = (event) => this.save(event);
    const { viewer } = this;
    viewer.addHandler("canvas-press", (event) => this.tool !== "pan" && this.press(event));
    viewer.addHandler("canvas-drag", (event) => { if (this.tool === "brush" || this.tool === "eraser") { event.preventDefaultAction = true; this.move(event.position); } });
    viewer.addHandler("canvas-drag-end", (event) => { if (this.tool === "brush" || this.tool === "eraser") event.preventDefaultAction = true; });
    viewer.addHandler("canvas-release", () => this.release());
    viewer.addHandler("canvas-click", (event) => { if (this.tool === "polygon" && event.quick) { event.preventDefaultAction = true; this.corner(event.position); } });
    viewer.addHandler("canvas-double-click", (event) => { if (this.tool !== "pan") { event.preventDefaultAction = true; if (this.tool === "polygon") this.close(); } });
    this.said();
  }

  get width() { return Math.round(4 * 250 ** ($("brush-size").value / 100)); } // 4 to 1000 pixels of the mask
  said() { $("brush-size-said").textContent = this.lengthText(this.width); }

  labels(list) {
    const key = list.map((one) => [one.value, one.name]).join();
    this.colors = Object.fromEntries(list.map((one) => [one.value, `rgb(${one.color})`]));
    if (key === this.known) return;
    const chosen = $("brush-label").value;
    $("brush-label").replaceChildren(...list.map((one) => new Option(one.name, one.value)));
    $("brush-label").value = chosen || list.at(-1)?.value;
    this.known = key;
  }

  choose(tool) {
    this.tool = tool;
    this.points = [];
    this.byKey = false;
    this.cross = tool !== "pan"; // the pointer of those who have none: the middle of the view
    document.querySelectorAll("[data-tool]").forEach((button) => { button.classList.toggle("on", button.dataset.tool === tool); button.ariaPressed = button.dataset.tool === tool; });
    document.body.classList.toggle("painting", tool !== "pan");
    $("brush-options").hidden = tool === "pan";
    $("brush-label").parentElement.hidden = tool === "eraser";
    $("brush-size-row").hidden = tool === "polygon";
    $("polygon-hint").hidden = tool !== "polygon";
    if (tool !== "pan") { this.showOverlay(true); this.viewer.canvas.focus({ preventScroll: true }); }
    this.redraw();
  }

  redraw() { this.viewer.forceRedraw(); }
  hover(position) { this.pointer = position; this.cross &&= this.byKey; if (this.tool !== "pan") this.redraw(); }

  press(event) { if (this.tool !== "polygon") { this.points = [this.toImage(event.position)]; this.down = true; this.redraw(); } }
  move(position) {
    if (!this.down) return;
    this.pointer = position;
    const point = this.toImage(position), last = this.points.at(-1);
    if (Math.hypot(point.x - last.x, point.y - last.y) * this.zoomNow() >= Math.max(NEAR, (this.width * this.zoomNow()) / 16)) this.points.push(point);
    this.redraw();
  }
  release() {
    if (!this.down) return;
    this.down = false;
    this.send(this.tool, this.points);
  }
  corner(position) { this.points.push(this.toImage(position)); this.redraw(); }
  close() { if (this.tool === "polygon" && this.points.length >= 3) this.send("polygon", this.points); else this.points = []; }

  // With keys: a corner at the cross, or the beginning and the end of a stroke that follows it.
  middle() { return this.viewer.viewport.getCenter(false).times(this.info.width); }
  panned() { if (this.byKey) { this.points.push(this.middle()); this.redraw(); } }
  atCross() {
    this.cross = true;
    if (this.tool === "polygon") this.points.push(this.middle());
    else if ((this.byKey = !this.byKey)) this.points = [this.middle()];
    else this.send(this.tool, this.points);
    this.redraw();
  }

  async send(tool, points) {
    const drawn = { tool, points, width: this.width, color: this.color() };
    this.sent.push(drawn);
    this.points = [];
    const stroke = { tool, label: Number($("brush-label").value), width: this.width, points: points.slice(0, 5000).map(({ x, y }) => [+x.toFixed(2), +y.toFixed(2)]) };
    try { await this.ask("strokes", stroke); await this.poll(); } catch (error) { this.settle(); this.tell(error); }
    if (!this.loading()) this.settle(); // nothing has changed
  }
  settle() { this.sent = []; this.redraw(); }
  undo() { this.ask("undo", {}).then(this.poll, this.tell); }

  openSave() {
    if ($("save").disabled) return;
    $("save-trouble").textContent = "";
    $("save-name").value ||= `${this.info.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]/g, "-")}-edited.zarr`;
    $("save-dialog").showModal();
    $("save-name").select();
  }
  async save(event) {
    event.preventDefault();
    if (!$("save-name").reportValidity()) return;
    $("save-go").disabled = true;
    $("save-trouble").textContent = "";
    try {
      const path = await this.ask("save", { name: $("save-name").value });
      $("save-dialog").close();
      this.note(`Saved as ${path}`, { seconds: 8 });
    } catch (error) { $("save-trouble").textContent = error.message; }
    $("save-go").disabled = false;
  }

  resize(step) { if (this.tool !== "brush" && this.tool !== "eraser") return false; $("brush-size").value = Number($("brush-size").value) + 4 * step; this.said(); this.redraw(); return true; }
  key(key) {
    const tool = { v: "pan", b: "brush", p: "polygon", e: "eraser", Escape: "pan" }[key.length === 1 ? key.toLowerCase() : key];
    if (key === "Escape" && this.points.length) return () => { this.points = []; this.down = this.byKey = false; this.redraw(); };
    if (tool) return () => this.choose(tool);
    if (key === " " && this.tool !== "pan") return () => this.atCross();
    return { z: () => this.undo(), s: () => this.openSave(), Enter: this.tool === "polygon" && this.points.length ? () => this.close() : null }[key];
  }

  color() { return this.tool === "eraser" ? "#fff" : this.colors[$("brush-label").value] ?? "#000"; }
  draw(pen) {
    if (!pen) return;
    for (const one of this.sent) this.line(pen, one);
    const zoom = this.zoomNow(), brush = this.tool === "brush" || this.tool === "eraser", middle = this.middle();
    const at = this.cross ? this.toScreen(middle.x, middle.y) : this.pointer;
    if (this.points.length) this.line(pen, { tool: this.tool, points: this.points, width: this.width, color: this.color() }, this.tool === "polygon" && at);
    if (!at || this.tool === "pan") return;
    for (const [ink, wide] of [["#fff", 3], ["#22262b", 1.2]]) {
      pen.strokeStyle = ink; pen.lineWidth = wide; pen.beginPath();
      if (brush) pen.arc(at.x, at.y, Math.max(2, (this.width * zoom) / 2), 0, 7);
      if (this.cross) { pen.moveTo(at.x - 9, at.y); pen.lineTo(at.x + 9, at.y); pen.moveTo(at.x, at.y - 9); pen.lineTo(at.x, at.y + 9); }
      pen.stroke();
    }
  }
  line(pen, { tool, points, width, color }, end) {
    const fill = tool === "polygon";
    pen.globalAlpha = 0.6;
    pen.strokeStyle = pen.fillStyle = color;
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = fill ? 2 : width * this.zoomNow();
    pen.beginPath();
    points.forEach((point, index) => { const { x, y } = this.toScreen(point.x, point.y); index ? pen.lineTo(x, y) : (pen.moveTo(x, y), pen.lineTo(x + 0.01, y)); });
    if (end) pen.lineTo(end.x, end.y);
    pen.stroke();
    if (fill) { pen.globalAlpha = 0.25; pen.fill(); }
    pen.globalAlpha = 1;
  }
}
