// Trials as lines across one axis per hyperparameter and as dots. Ranges are brushed on the axes
// by mouse or keyboard; a click on a line or a dot shows the trial.

const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779",
  "#6dcd59", "#b4de2c", "#fde725"];
const HEIGHT = 250;
const TOP = 12;
const SIDE = 64;
// Where lines pass the axis of a hyperparameter that is inactive, below its range.
const INACTIVE = -0.1;
// In place of a colour; drawn first.
const FAILED = VIRIDIS.length;
const LABELS = { seconds: "seconds of the trial", weights: "weights of the network" };

function make(tag, className, parent, attributes = {}) {
  const element = document.createElement(tag);
  element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent?.append(element);
  return element;
}

function makeSvg(tag, parent, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent?.append(element);
  return element;
}

const clamp = (x) => Math.min(1, Math.max(0, x));
const format = (x) => (Number.isFinite(x) ? String(Number(x.toPrecision(4))) : "none");

/** Return columns of the table, ranges of those without an axis, and who is failed or best. */
function readData(model) {
  // A copy: the value's axis gets its ends here.
  const axes = model.get("axes").map((axis) => ({ ...axis }));
  const bytes = model.get("table");
  const all = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const others = model.get("others");
  const n = axes.length ? all.length / (axes.length + others.length) : 0;
  const columns = {};
  [...axes.map((axis) => axis.name), ...others].forEach((name, i) => {
    // The name of a hyperparameter may be that of another column.
    columns[i < axes.length ? i : name] = all.subarray(i * n, (i + 1) * n);
  });

  const values = axes.length ? columns[axes.length - 1] : new Float32Array(0);
  const sorted = values.filter((value) => !Number.isNaN(value)).sort();
  return {
    axes,
    others,
    n,
    columns,
    values,
    low: sorted[0],
    high: sorted[sorted.length - 1],
    tenth: sorted[Math.ceil(sorted.length / 10) - 1],
    incumbent: model.get("incumbent"),
  };
}

/** Return where a value stands between the lowest and the highest, from 0 to 1. */
function position(value, low, high, isLog) {
  if (low === high) return Number.isNaN(value) ? NaN : 0.5;
  if (isLog && low > 0) return Math.log(value / low) / Math.log(high / low);
  return (value - low) / (high - low);
}

/** Return the number that stands at a position. */
function numberAt({ low, high }, height, isLog) {
  return isLog && low > 0 ? low * (high / low) ** height : low + height * (high - low);
}

/** Return what stands at a position, as text. */
function textAt(axis, height, isLog) {
  if (axis.options) return axis.options[Math.round(height * (axis.options.length - 1))];
  const number = numberAt(axis, height, isLog);
  return format(axis.whole ? Math.round(number) : number);
}

class View {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    el.classList.add("hpo-trials");
    this.state = { ranges: {}, log: false, best: false, x: "trial number", ...model.get("state") };
    this.makeControls();
    this.makeFigures();
    this.onData();
  }

  makeControls() {
    const bar = make("div", "hpo-bar", this.el);
    const makeSwitch = (key, text) => {
      const label = make("label", "", bar);
      const box = make("input", "", label, { type: "checkbox" });
      label.append(` ${text}`);
      box.addEventListener("change", () => this.change({ [key]: box.checked }));
      return box;
    };
    this.log = makeSwitch("log", "log axis");
    this.best = makeSwitch("best", "best 10 %");

    const across = make("label", "", bar);
    across.append("dots across ");
    this.across = make("select", "", across);
    this.across.addEventListener("change", () => this.change({ x: this.across.value }));

    const number = make("label", "", bar);
    number.append("trial ");
    this.number = make("input", "", number, { type: "number", min: 0 });
    this.number.addEventListener("change", () => this.select(Number(this.number.value)));

    const clear = make("button", "jupyter-button", bar);
    clear.textContent = "Show all";
    clear.addEventListener("click", () => this.change({ ranges: {}, best: false }));
    this.status = make("div", "hpo-status", this.el, { role: "status" });
  }

  makeFigures() {
    this.coordinates = make("div", "hpo-coordinates", this.el);
    // The faint lines are drawn once, those within the ranges with every move of the mouse.
    this.faint = make("canvas", "", this.coordinates, { "aria-hidden": "true" });
    this.bright = make("canvas", "", this.coordinates, { role: "img" });
    this.overlay = make("div", "", this.coordinates);
    this.coordinates.addEventListener("click", (event) => this.pickLine(event));

    const lower = make("div", "hpo-lower", this.el);
    this.scatter = make("canvas", "hpo-scatter", lower, { role: "img" });
    this.scatter.addEventListener("click", (event) => this.pickDot(event));
    this.details = make("div", "hpo-details", lower, {
      tabindex: 0, role: "region", "aria-label": "the chosen trial", "aria-live": "polite",
    });
  }

  /** Take over new trials. */
  onData() {
    const before = this.data;
    this.data = readData(this.model);
    const { axes, low, high } = this.data;
    this.el.style.display = axes.length ? "" : "none";
    if (!axes.length) return;

    Object.assign(axes[axes.length - 1], { low, high });
    if (before?.axes.length === axes.length) this.keepValues(before, this.state.log);

    // New trials of a study leave the axes as they are, with the focus and the mouse on them.
    const described = JSON.stringify([this.model.get("axes"), this.data.others]);
    if (described !== this.described) {
      this.described = described;
      this.offerAxes();
      this.makeAxes();
    }
    this.layOut();
  }

  offerAxes() {
    const { axes, others } = this.data;
    this.across.replaceChildren();
    [...others, ...axes.slice(0, -1).map((axis) => axis.name)].forEach((name, i) => {
      const key = i < others.length ? name : i - others.length;
      make("option", "", this.across, { value: key }).textContent = name;
    });
  }

  /** Let the range of the value have the same ends in values where the axis has changed. */
  keepValues(before, wasLog) {
    const last = this.data.axes.length - 1;
    const range = this.state.ranges[last];
    if (!range || !(before.low < before.high)) return;
    const move = (height) => {
      // An open end stays open.
      if (height === 0 || height === 1) return height;
      const value = numberAt(before, height, wasLog);
      return clamp(position(value, this.data.low, this.data.high, this.state.log));
    };
    this.state.ranges = { ...this.state.ranges, [last]: range.map(move) };
  }

  makeAxes() {
    this.overlay.replaceChildren();
    this.axes = this.data.axes.map((axis, i) => {
      const box = make("div", "hpo-axis", this.overlay, { role: "group", "aria-label": axis.name });
      make("div", "hpo-axis-name", box, { title: axis.name }).textContent = axis.name;
      const range = make("div", "hpo-range", box);
      const ticks = make("div", "", box, { "aria-hidden": "true" });
      const handles = ["lowest", "highest"].map((end, side) => {
        const handle = make("div", `hpo-handle hpo-${end}`, box, {
          role: "slider", tabindex: 0, "aria-label": `${axis.name}, ${end}`,
          "aria-valuemin": 0, "aria-valuemax": 100, "aria-orientation": "vertical",
        });
        handle.addEventListener("keydown", (event) => this.onKey(event, i, side));
        return handle;
      });
      box.addEventListener("pointerdown", (event) => this.onDrag(event, i, handles));
      box.addEventListener("dblclick", () => this.setRange(i, [0, 1], true));
      return { box, range, ticks, handles };
    });
  }

  // Sizes and positions

  x(i) {
    return SIDE + (i * (this.width - 2 * SIDE)) / Math.max(this.data.axes.length - 1, 1);
  }

  y(height) {
    return TOP + (1 - height) * (HEIGHT - 2 * TOP - 14);
  }

  fit(canvas, width, height) {
    const ratio = window.devicePixelRatio;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.getContext("2d").scale(ratio, ratio);
  }

  layOut() {
    if (!this.data.axes.length) return;
    // Before it is seen, and in another tab, it has no width.
    this.width = this.coordinates.clientWidth || this.width || 900;
    this.isStale = false;

    for (const canvas of [this.faint, this.bright]) this.fit(canvas, this.width, HEIGHT);
    this.scatterWidth = Math.round(this.width * 0.55);
    this.fit(this.scatter, this.scatterWidth, HEIGHT - 20);

    // Heights of the lines at each axis.
    const { axes, columns, low, high, n, values } = this.data;
    const last = axes.length - 1;
    this.heights = axes.map((_, i) => columns[i]);
    this.heights[last] = values.map((value) => position(value, low, high, this.state.log));
    this.ys = this.heights.map((column) =>
      column.map((height) => this.y(Number.isNaN(height) ? INACTIVE : height)));
    // A trial without a value has no place on the last axis.
    this.ends = Array.from({ length: n }, (_, i) => (Number.isNaN(values[i]) ? last : last + 1));

    axes.forEach((axis, i) => this.layOutAxis(axis, i));
    this.drawFaint();
    this.draw();
  }

  layOutAxis(axis, i) {
    const { box, ticks } = this.axes[i];
    Object.assign(box.style, {
      left: `${this.x(i)}px`, top: `${this.y(1)}px`, height: `${this.y(0) - this.y(1)}px`,
    });
    const isValue = i === this.data.axes.length - 1;
    const shown = isValue
      ? [0, 0.25, 0.5, 0.75, 1].map((height) => [height, textAt(axis, height, this.state.log)])
      : axis.ticks;
    ticks.replaceChildren();
    for (const [height, text] of shown) {
      const tick = make("span", "hpo-tick", ticks);
      tick.style.bottom = `${100 * height}%`;
      tick.textContent = text;
    }
  }

  // Drawing

  colours() {
    const style = getComputedStyle(this.el);
    const isDark = document.body.dataset.jpThemeLight === "false";
    return {
      text: style.getPropertyValue("--jp-ui-font-color1").trim() || "black",
      faint: isDark ? "#2c2c2c" : "#ebebeb",
      failed: isDark ? "#606060" : "#c0c0c0",
      ground: style.getPropertyValue("--jp-layout-color0").trim() || "white",
      selected: "#d55e00",
      // The best stand out: dark on white, bright on black.
      scale: isDark ? [...VIRIDIS].reverse() : VIRIDIS,
    };
  }

  trace(path, trial) {
    for (let i = 0; i < this.ends[trial]; i++) {
      const y = this.ys[i][trial];
      if (i === 0) path.moveTo(this.x(0), y);
      else path.lineTo(this.x(i), y);
    }
  }

  drawFaint() {
    const context = this.faint.getContext("2d");
    const path = new Path2D();
    for (let trial = 0; trial < this.data.n; trial++) this.trace(path, trial);
    context.clearRect(0, 0, this.width, HEIGHT);
    context.strokeStyle = this.colours().faint;
    context.stroke(path);
  }

  isShown(trial) {
    if (this.state.best && !(this.data.values[trial] <= this.data.tenth)) return false;
    // Comparisons with NaN are false: what has no position lies outside.
    return this.limits.every(([i, [low, high]]) => {
      const height = this.heights[i][trial];
      return height >= low - 1e-6 && height <= high + 1e-6;
    });
  }

  draw() {
    if (!this.width) return;
    this.limits = Object.entries(this.state.ranges).filter(([i]) => i < this.axes.length);
    this.shown = [];
    for (let trial = 0; trial < this.data.n; trial++) {
      if (this.isShown(trial)) this.shown.push(trial);
    }
    this.showControls();
    this.drawLines();
    this.drawDots();
    this.tell();
  }

  colourOf(trial) {
    const height = this.heights[this.heights.length - 1][trial];
    return Number.isNaN(height) ? FAILED : Math.round(clamp(height) * (VIRIDIS.length - 1));
  }

  drawLines() {
    const colours = this.colours();
    const context = this.bright.getContext("2d");
    context.clearRect(0, 0, this.width, HEIGHT);

    // One path for each colour, the best on top.
    const paths = new Map();
    for (const trial of this.shown) {
      const colour = this.colourOf(trial);
      if (!paths.has(colour)) paths.set(colour, new Path2D());
      this.trace(paths.get(colour), trial);
    }
    for (const colour of [...VIRIDIS.keys(), FAILED].reverse()) {
      if (!paths.has(colour)) continue;
      context.lineWidth = colour === FAILED ? 1 : 1.6;
      context.strokeStyle = colour === FAILED ? colours.failed : colours.scale[colour];
      context.stroke(paths.get(colour));
    }
    for (const [trial, colour] of this.marked(colours)) {
      const path = new Path2D();
      this.trace(path, trial);
      for (const [width, style] of [[6, colours.ground], [2.5, colour]]) {
        context.lineWidth = width;
        context.strokeStyle = style;
        context.stroke(path);
      }
      context.lineWidth = 1;
    }
  }

  /** Return trials that are drawn on top, with their colours. */
  marked(colours) {
    const { incumbent, n } = this.data;
    const selected = this.indexOf(this.model.get("selected"));
    const marks = [[incumbent, colours.text], [selected, colours.selected]];
    return marks.filter(([trial]) => trial >= 0 && trial < n);
  }

  indexOf(number) {
    return this.data.columns["trial number"].indexOf(number);
  }

  /** Return the horizontal position of a dot, and the ticks of that axis. */
  dotsAxis() {
    const { axes, columns, others } = this.data;
    let key = this.state.x;
    if (!others.includes(key)) {
      if (axes[key]) return { column: columns[key], ticks: axes[key].ticks, name: axes[key].name };
      key = "trial number";
    }
    const column = columns[key];
    const known = column.filter((x) => !Number.isNaN(x));
    const isLog = key in LABELS && this.state.log;
    const low = isLog ? Math.min(...known) : 0;
    const high = Math.max(...known, 1e-3);
    const axis = { low, high, whole: key !== "seconds" };
    return {
      column: column.map((x) => position(x, low, high, isLog)),
      ticks: [0, 0.25, 0.5, 0.75, 1].map((x) => [x, textAt(axis, x, isLog)]),
      name: LABELS[key] || key,
    };
  }

  drawDots() {
    const colours = this.colours();
    const context = this.scatter.getContext("2d");
    const [width, height] = [this.scatterWidth, HEIGHT - 20];
    const box = { left: SIDE, right: width - 30, top: 10, bottom: height - 40 };
    const { column, ticks, name } = this.dotsAxis();
    const atX = (x) => box.left + x * (box.right - box.left);
    const atY = (y) => box.bottom - y * (box.bottom - box.top);
    const value = this.data.axes[this.data.axes.length - 1];
    const heights = this.heights[this.heights.length - 1];

    context.clearRect(0, 0, width, height);
    context.font = "11px sans-serif";
    context.fillStyle = colours.text;
    context.strokeStyle = colours.faint;
    context.strokeRect(box.left - 6, box.top - 6, box.right - box.left + 12, box.bottom - box.top + 12);
    context.textAlign = "right";
    for (const y of [0, 0.5, 1]) {
      context.fillText(textAt(value, y, this.state.log), box.left - 10, atY(y) + 4);
    }
    context.textAlign = "center";
    for (const [x, text] of ticks) context.fillText(text.slice(0, 10), atX(x), box.bottom + 20);
    context.fillText(name.slice(0, 40), (box.left + box.right) / 2, height - 5);
    context.save();
    context.rotate(-Math.PI / 2);
    context.fillText(value.name, -(box.top + box.bottom) / 2, 12);
    context.restore();

    this.dots = this.shown
      .map((trial) => [trial, atX(column[trial]), atY(heights[trial])])
      .filter(([, x, y]) => !Number.isNaN(x + y));
    for (const [trial, x, y] of this.dots) {
      context.fillStyle = colours.scale[this.colourOf(trial)];
      context.fillRect(x - 2.5, y - 2.5, 5, 5);
    }
    if (this.state.x in LABELS) this.drawFront(context, colours);
    for (const [trial, colour] of this.marked(colours)) {
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.strokeRect(atX(column[trial]) - 5, atY(heights[trial]) - 5, 10, 10);
      context.lineWidth = 1;
    }
  }

  /** Draw the Pareto front: trials that no other beats in both value and cost. */
  drawFront(context, colours) {
    const byTime = [...this.dots].sort((one, other) => one[1] - other[1] || other[2] - one[2]);
    let lowest = -Infinity;
    context.beginPath();
    for (const [, x, y] of byTime) {
      // Down the page is a lower value.
      if (y <= lowest) continue;
      if (lowest === -Infinity) context.moveTo(x, y);
      else {
        context.lineTo(x, lowest);
        context.lineTo(x, y);
      }
      lowest = y;
    }
    context.strokeStyle = colours.text;
    context.stroke();
  }

  showControls() {
    const { axes } = this.data;
    this.log.checked = this.state.log;
    this.log.disabled = !(this.data.low > 0);
    this.best.checked = this.state.best;
    this.across.value = this.state.x;
    this.axes.forEach(({ range, handles }, i) => {
      const ends = this.state.ranges[i] || [0, 1];
      const isLog = i === axes.length - 1 ? this.state.log : axes[i].log;
      range.style.bottom = `${100 * ends[0]}%`;
      range.style.height = `${100 * (ends[1] - ends[0])}%`;
      range.hidden = !this.state.ranges[i];
      handles.forEach((handle, side) => {
        handle.style.bottom = `${100 * ends[side]}%`;
        handle.setAttribute("aria-valuenow", Math.round(100 * ends[side]));
        handle.setAttribute("aria-valuetext", textAt(axes[i], ends[side], isLog));
      });
    });
  }

  tell() {
    const { n, values, columns, incumbent } = this.data;
    let best = -1;
    for (const trial of this.shown) {
      if (values[trial] < (best < 0 ? Infinity : values[best])) best = trial;
    }
    let text = `${this.shown.length} of ${n} ended trials within the ranges`;
    if (best >= 0) text += `; the best of them: ${format(values[best])}, trial ${columns["trial number"][best]}`;
    this.status.textContent = text;
    const names = this.data.axes.map((axis) => axis.name).join(", ");
    this.bright.setAttribute("aria-label", `a line per trial across ${names}: ${text}`);
    this.scatter.setAttribute("aria-label", `a dot per trial, value against ${this.dotsAxis().name}`);
  }

  // Answers to the mouse and the keyboard

  change(changes, isDone = true) {
    const wasLog = this.state.log;
    Object.assign(this.state, changes);
    const needsHeights = wasLog !== this.state.log;
    this.isStale ||= needsHeights;
    // What comes from the model has been moved already.
    if (needsHeights && isDone) this.keepValues(this.data, wasLog);
    // Messages of the mouse come faster than frames.
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => (this.isStale ? this.layOut() : this.draw()));
    if (isDone) {
      this.model.set("state", { ...this.state });
      this.model.save_changes();
    }
  }

  setRange(i, [low, high], isDone) {
    const ranges = { ...this.state.ranges };
    delete ranges[i];
    if (low > 0 || high < 1) ranges[i] = [low, high];
    this.change({ ranges }, isDone);
  }

  onDrag(event, i, handles) {
    const { box } = this.axes[i];
    const at = (e) => {
      const { bottom, height } = box.getBoundingClientRect();
      return clamp((bottom - e.clientY) / height);
    };
    const begin = at(event);
    const before = this.state.ranges[i] || [0, 1];
    const side = handles.indexOf(event.target);
    const isInside = this.state.ranges[i] && begin > before[0] && begin < before[1];
    const follow = (e) => {
      let ends = [begin, at(e)];
      if (side >= 0) ends = [before[1 - side], at(e)];
      else if (isInside) {
        const by = Math.min(Math.max(at(e) - begin, -before[0]), 1 - before[1]);
        ends = [before[0] + by, before[1] + by];
      }
      return ends.sort((one, other) => one - other);
    };
    const move = (e) => {
      this.hasDragged = this.hasDragged || Math.abs(at(e) - begin) > 0.01;
      if (this.hasDragged) this.setRange(i, follow(e), false);
    };
    this.hasDragged = false;
    box.setPointerCapture(event.pointerId);
    box.addEventListener("pointermove", move);
    box.addEventListener("lostpointercapture", () => {
      box.removeEventListener("pointermove", move);
      this.change({});
    }, { once: true });
  }

  onKey(event, i, side) {
    const axis = this.data.axes[i];
    const step = 1 / Math.max((axis.options?.length || axis.count || 101) - 1, 1);
    const moves = {
      ArrowUp: step, ArrowRight: step, ArrowDown: -step, ArrowLeft: -step,
      PageUp: 0.1, PageDown: -0.1, Home: -1, End: 1,
    };
    const ends = [...(this.state.ranges[i] || [0, 1])];
    if (event.key === "Escape") this.setRange(i, [0, 1], true);
    else if (event.key in moves) {
      const bounds = side === 0 ? [0, ends[1]] : [ends[0], 1];
      ends[side] = Math.min(Math.max(ends[side] + moves[event.key], bounds[0]), bounds[1]);
      this.setRange(i, ends, true);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  pickLine(event) {
    if (this.hasDragged) {
      this.hasDragged = false;
      return;
    }
    const { left, top } = this.bright.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    const i = this.axes.findIndex((_, k) => x < this.x(k)) - 1;
    if (i < 0) return;
    const share = (x - this.x(i)) / (this.x(i + 1) - this.x(i));
    const distance = (trial) => {
      if (i + 1 >= this.ends[trial]) return Infinity;
      return Math.abs((1 - share) * this.ys[i][trial] + share * this.ys[i + 1][trial] - y);
    };
    this.pick(this.shown.map((trial) => [trial, distance(trial)]));
  }

  pickDot(event) {
    const { left, top } = this.scatter.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    this.pick(this.dots.map(([trial, dx, dy]) => [trial, Math.hypot(dx - x, dy - y)]));
  }

  /** Select the nearest of some trials with their distances in pixels. */
  pick(distances) {
    let [nearest, least] = [-1, 8];
    for (const [trial, distance] of distances) {
      if (distance < least) [nearest, least] = [trial, distance];
    }
    if (nearest >= 0) this.select(this.data.columns["trial number"][nearest]);
  }

  select(number) {
    this.number.value = number;
    this.model.set("selected", number);
    this.model.save_changes();
  }

  showDetails() {
    const { title, rows, reason, log, curve, value_name: name } = this.model.get("details");
    this.details.replaceChildren();
    if (!title) {
      this.details.textContent = "Drag along an axis to choose a range. "
        + "Click a line or a dot to see its trial.";
      return;
    }
    make("b", "", this.details).textContent = title;
    if (reason) make("div", "hpo-reason", this.details).textContent = reason;
    const table = make("table", "", this.details);
    for (const [parameter, value] of rows) {
      const row = make("tr", "", table);
      make("th", "", row, { scope: "row" }).textContent = parameter;
      make("td", "", row).textContent = value;
    }
    if (curve.length) this.drawCurve(curve, name);
    if (log) {
      const box = make("details", "", this.details);
      make("summary", "", box).textContent = "log";
      make("div", "hpo-reason", box).textContent = log;
    }
  }

  drawCurve(curve, name) {
    const known = curve.filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const text = `${name}: ${format(known[0])} in epoch 1, ${format(known[known.length - 1])} in epoch ${curve.length}`;
    const points = curve
      .map((value, i) => [value, 4 + (i * 232) / Math.max(curve.length - 1, 1)])
      .filter(([value]) => value !== null)
      .map(([value, x]) => `${x},${56 - 50 * position(value, low, high, false)}`);
    const svg = makeSvg("svg", this.details, { width: 240, height: 60, role: "img", "aria-label": text });
    makeSvg("polyline", svg, { points: points.join(" "), fill: "none", stroke: "currentColor", "stroke-width": 2 });
    for (const point of curve.length < 30 ? points : []) {
      const [cx, cy] = point.split(",");
      makeSvg("circle", svg, { cx, cy, r: 3, fill: "currentColor" });
    }
    make("div", "", this.details).textContent = text;
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    const handlers = {
      "change:table": () => view.onData(),
      "change:selected": () => view.draw(),
      "change:details": () => view.showDetails(),
      "change:state": () => view.change(model.get("state"), false),
    };
    for (const [name, handler] of Object.entries(handlers)) model.on(name, handler);
    view.showDetails();

    const sizes = new ResizeObserver(() => view.layOut());
    sizes.observe(view.coordinates);
    const theme = new MutationObserver(() => requestAnimationFrame(() => view.layOut()));
    theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
    return () => {
      for (const [name, handler] of Object.entries(handlers)) model.off(name, handler);
      sizes.disconnect();
      theme.disconnect();
    };
  },
};
