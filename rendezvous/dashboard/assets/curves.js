// The curves: what is asked of the API, how it grows, and which charts show it.

import { get } from "./api.js";
import { Chart, join } from "./chart.js";
import { byId, h } from "./dom.js";
import { clock, count, figure, percent } from "./format.js";

const POINTS = 800; // asked for at a time
const TOO_MANY = 2000; // points that have grown to so many are asked for anew
const FRESH = 40; // and so many single steps behind merged ones, which look wilder than they are
const RELOAD_MS = 3000;
const REDRAW_MS = 400;
const ACTIVITY_MS = 2000;
const SAMPLE = 60; // heartbeats in a point
const RANGES = {
  step: [["all", "all steps"], [10000, "last 10,000"], [1000, "last 1,000"], [100, "last 100"]],
  time: [["all", "all the time"], [3600, "last hour"], [600, "last 10 minutes"], [60, "last minute"]],
};
const COLUMNS = ["step", "epoch", "count", "time", "loss", "loss_min", "loss_max", "records_per_second", "step_seconds", "useful_seconds", "learning_rate"];
const SHARES = ["input", "compute", "allreduce", "other"];

const empty = (names) => Object.fromEntries(names.map((name) => [name, []]));

export class Curves {
  constructor(job) {
    this.job = job;
    this.by = "step";
    this.range = { last: "all" };
    this.log = false;
    this.points = empty(COLUMNS);
    this.activity = empty(["time", ...SHARES]);
    this.activityPoints = 60;
    this.figures = [];
    this.rounds = [];
    this.newest = { step: 0, time: 0 };
    this.charts = new Map();
    this.loading = 0;
    this.width = this.fresh = this.loaded = 0; // of the points' buckets; points since; when that was
    this.wire();
  }

  wire() {
    byId("by").addEventListener("change", (event) => {
      this.by = event.target.value;
      this.reset();
    });
    byId("range").addEventListener("change", (event) => {
      const value = event.target.value;
      if (value === "zoom") return;
      this.range = { last: value === "all" ? value : Number(value) };
      this.load();
    });
    byId("log").addEventListener("change", (event) => {
      this.log = event.target.checked;
      this.discard("loss");
      this.redraw();
    });
    this.offer();
    setInterval(() => this.loadActivity(), ACTIVITY_MS);
  }

  offer() {
    const zoomed = "from" in this.range;
    const options = RANGES[this.by].map(([value, text]) => h("option", { value, selected: !zoomed && String(value) === String(this.range.last) }, text));
    byId("range").replaceChildren(...options, ...(zoomed ? [h("option", { value: "zoom", selected: true }, "zoomed")] : []));
  }

  reset() {
    this.range = { last: "all" };
    this.load();
  }

  zoom(from, to) {
    this.range = { from, to };
    this.load();
  }

  /** [from, to] as the API is asked; null: open. */
  asked() {
    if ("from" in this.range) return [this.range.from, this.range.to];
    if (this.range.last === "all") return [null, null];
    return [Math.max(0, this.newest[this.by] - this.range.last), null];
  }

  async load() {
    this.offer();
    const [from, to] = this.asked();
    const mine = (this.loading += 1);
    const query = { by: this.by, points: POINTS, ...(from == null ? {} : { from }), ...(to == null ? {} : { to }) };
    const found = await get("history", query);
    if (mine !== this.loading) return; // asked anew in the meantime
    [this.points, this.width, this.fresh, this.loaded] = [found.points, found.width, 0, performance.now()];
    this.see(found.points);
    await this.loadActivity();
    this.redraw();
  }

  async loadActivity() {
    if (document.hidden || !this.charts.has("activity")) return;
    const [from, to] = this.limits("time");
    const found = await get("activity", { points: this.activityPoints, from: Math.max(0, from), to: to + 1 }).catch(() => null);
    if (found) {
      this.activity = found.points;
      // So many points that each stands for a sample of some size.
      const samples = SHARES.reduce((sum, name) => sum + found.points[name].reduce((one, other) => one + other, 0), 0);
      this.activityPoints = Math.max(6, Math.min(120, Math.floor(samples / SAMPLE)));
      this.redraw();
    }
  }

  /** More steps have been done; those from the first of them on count as they are told now. */
  append(points) {
    if (!points.step.length) return;
    this.see(points);
    if ("from" in this.range) return;
    const mine = this.points;
    this.cut(points.step[0]);
    for (const name of COLUMNS) for (const value of points[name]) mine[name].push(value);
    const [from] = this.asked();
    const old = from == null ? 0 : mine[this.by].findIndex((value) => value >= from);
    if (old > 0) for (const name of COLUMNS) mine[name].splice(0, old);
    this.fresh += points.step.length;
    const stale = this.width && this.fresh > FRESH && performance.now() - this.loaded > RELOAD_MS;
    if (mine.step.length > TOO_MANY || stale) this.load().catch(() => {});
    this.redraw();
  }

  /** Steps from this one on will be done again. */
  cut(step) {
    const { points } = this;
    let end = points.step.length;
    while (end && points.step[end - 1] >= step) end -= 1;
    for (const name of COLUMNS) points[name].length = end;
  }

  see(points) {
    if (points.step.length) this.newest = { step: points.step.at(-1), time: points.time.at(-1) };
  }

  setRounds(rounds) {
    this.rounds = rounds;
    this.redraw();
  }

  setFigures(figures) {
    this.figures = figures;
    this.redraw();
  }

  /** At most every REDRAW_MS. */
  redraw() {
    if (this.planned) return;
    const wait = Math.max(0, (this.drawn ?? 0) + REDRAW_MS - performance.now());
    this.planned = setTimeout(() => {
      this.planned = null;
      this.drawn = performance.now();
      if (!document.hidden) requestAnimationFrame(() => this.draw());
    }, wait);
  }

  repaint() {
    for (const chart of this.charts.values()) chart.repaint();
  }

  // What is shown.

  limits(by = this.by) {
    const xs = this.points[by];
    if ("from" in this.range && by === this.by) return [this.range.from, this.range.to];
    if (!xs.length) return [0, 1];
    const low = by === "step" && this.range.last === "all" ? Math.min(xs[0], this.points.step[0]) : xs[0];
    return [low, Math.max(xs.at(-1), low + (by === "step" ? 1 : 0.5))];
  }

  x(each) {
    return this.by === "step" ? each.step : each.time;
  }

  /** The step that was being done at a time, or the reverse: between two points, in proportion. */
  stepAt(time) {
    const { time: times, step: steps } = this.points;
    let low = 0;
    let high = times.length - 1;
    if (high < 0 || time <= times[0]) return steps[0] ?? 0;
    if (time >= times[high]) return steps[high];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (times[middle] <= time) low = middle;
      else high = middle;
    }
    const part = (time - times[low]) / (times[high] - times[low] || 1);
    return steps[low] + part * (steps[high] - steps[low]);
  }

  marks() {
    return this.rounds
      .filter((each) => each.kind !== "start")
      .map((each) => ({
        x: this.by === "step" ? each.first_step : each.time,
        colour: `kind-${each.kind}`,
        text: `round ${each.number}: ${each.cause}${each.paused_seconds ? `, paused ${clock(each.paused_seconds)}` : ""}`,
      }));
  }

  draw() {
    const { points } = this;
    const begun = points.step.length > 0;
    byId("curves-empty").hidden = begun;
    byId("charts").hidden = !begun;
    if (!begun) return;
    const trains = this.job.kind === "train";
    if (trains) this.drawLoss();
    if (trains) this.drawMetrics();
    this.drawRate();
    if (trains) {
      this.drawWorkers();
      this.drawActivity();
      this.drawStepTime();
      this.drawLearningRate();
    }
    // The loss stands alone in its row when the others come in pairs.
    this.charts.get("loss")?.element.classList.toggle("wide", this.charts.size % 2 === 1);
  }

  drawLoss() {
    const { points } = this;
    const told = this.series("loss", true);
    const positive = (values) => (this.log ? values.map((value) => (value > 0 ? value : null)) : values);
    const lines = [[points[this.by], positive(points.loss), positive(points.loss_max), positive(points.loss_min)]];
    const series = [
      { label: "train", colour: "c1", width: 1.75 },
      { label: "max", hidden: true },
      { label: "min", hidden: true },
    ];
    if (told) {
      lines.push([told.x, positive(told.y)]);
      series.push({ label: "validation", colour: "c3", points: true });
    }
    const setup = { title: "Loss", log: this.log, series, bands: [{ series: [2, 3], colour: "c1-fill" }] };
    this.chart("loss", setup, lines.length > 1 ? join(lines) : lines[0], String(Boolean(told)));
  }

  /** Single steps differ widely: the line is the mean over a hundredth of what is seen, the shade the points themselves. */
  drawRate() {
    const { points } = this;
    const seconds = points.step_seconds.map((value, index) => (value ?? 0) * points.count[index]);
    const records = seconds.map((value, index) => value * (points.records_per_second[index] ?? 0));
    const window = Math.max(1, Math.ceil(points.step.length / 100));
    let [inSeconds, inRecords] = [0, 0];
    const smooth = seconds.map((value, index) => {
      inSeconds += value - (seconds[index - window] ?? 0);
      inRecords += records[index] - (records[index - window] ?? 0);
      return inSeconds > 1e-9 ? inRecords / inSeconds : null;
    });
    const series = [
      { label: "points", hidden: true, fill: "c2-fill" },
      { label: "all workers", colour: "c2", width: 1.75 },
    ];
    const setup = { title: "Throughput", unit: "records / s", zero: true, format: (value) => figure(value >= 100 ? Math.round(value) : value), series };
    this.chart("rate", setup, [points[this.by], points.records_per_second, smooth]);
  }

  drawMetrics() {
    const names = new Set(this.figures.flatMap((each) => Object.keys(each.values)).map((name) => name.replace(/^val_/, "")));
    names.delete("loss");
    for (const name of [...names].sort().slice(0, 12)) {
      const train = this.series(name, false);
      const validation = this.series(name, true);
      const lines = [train, validation].filter(Boolean);
      if (!lines.length) continue;
      const series = [];
      if (train) series.push({ label: "train", colour: "c1", points: true });
      if (validation) series.push({ label: "validation", colour: "c3", points: true });
      const data = lines.length > 1 ? join(lines.map(({ x, y }) => [x, y])) : [lines[0].x, lines[0].y];
      this.chart(`metric ${name}`, { title: name.replaceAll("_", " "), unit: "at the end of epochs", series }, data, String(series.length + Boolean(train)));
    }
  }

  /** What evaluations and ends of epochs tell under this name, on the training or the validation data. */
  series(name, validation) {
    const [low, high] = this.limits();
    const x = [];
    const y = [];
    for (const each of this.figures) {
      const value = validation ? (each.at_end ? each.values[`val_${name}`] : each.values[name]) : each.at_end ? each.values[name] : undefined;
      const at = this.x(each);
      if (value == null || at < low || at > high || at <= (x.at(-1) ?? -Infinity)) continue;
      x.push(at);
      y.push(value);
    }
    return x.length ? { x, y } : null;
  }

  drawWorkers() {
    const [low, high] = this.limits();
    const x = [];
    const y = [];
    let before = null;
    for (const each of this.rounds) {
      const at = this.by === "step" ? each.first_step : each.time;
      if (at < low) before = each.size;
      else if (at <= high) {
        if (x.at(-1) === at) y[y.length - 1] = each.size;
        else {
          x.push(at);
          y.push(each.size);
        }
      }
    }
    if (before != null && x[0] !== low) {
      x.unshift(low);
      y.unshift(before);
    }
    if (x.length && x.at(-1) < high) {
      x.push(high);
      y.push(y.at(-1));
    }
    const setup = { title: "Workers", unit: "in the round", zero: true, format: (value) => (Number.isInteger(value) ? count(value) : ""), series: [{ label: "stepping", colour: "c4", fill: "c4-fill", steps: true }] };
    this.chart("workers", setup, [x, y]);
  }

  drawActivity() {
    const { time } = this.activity;
    const xs = this.by === "time" ? time : time.map((each) => this.stepAt(each));
    const keep = xs.map((x, index) => index === 0 || x > xs[index - 1]);
    const sums = time.map((_, index) => SHARES.reduce((sum, name) => sum + this.activity[name][index], 0) || 1);
    let under = time.map(() => 0);
    const layers = SHARES.map((name) => (under = under.map((sum, index) => sum + this.activity[name][index] / sums[index])));
    const pick = (values) => values.filter((_, index) => keep[index]);
    // Drawn from the whole down to the first part, each over the one before.
    const series = SHARES.map((name, index) => ({
      label: name,
      colour: `a${index + 1}`,
      fill: `a${index + 1}`,
      width: 0,
      reading: (data, at) => data[SHARES.length - index][at] - (index ? data[SHARES.length - index + 1][at] : 0),
    })).reverse();
    const setup = { title: "Where workers’ time goes", unit: "sampled from heartbeats", most: 1, turned: true, format: (value) => percent(value, 0), series };
    this.chart("activity", setup, [pick(xs), ...layers.map(pick).reverse()]);
  }

  drawStepTime() {
    const { points } = this;
    const series = [
      { label: "step to step", colour: "c5" },
      { label: "the step itself", colour: "c6" },
    ];
    this.chart("seconds", { title: "Step time", zero: true, format: clock, series }, [points[this.by], points.step_seconds, points.useful_seconds]);
  }

  drawLearningRate() {
    const rates = this.points.learning_rate.map((rate) => rate || null);
    const told = rates.filter(Boolean);
    if (!told.length || told.every((rate) => rate === told[0])) return this.discard("rate of learning");
    const setup = { title: "Learning rate", zero: true, series: [{ label: "rate", colour: "c1", steps: true }] };
    return this.chart("rate of learning", setup, [this.points[this.by], rates]);
  }

  chart(name, setup, data, kind = "") {
    let chart = this.charts.get(name);
    if (chart && chart.kind !== kind) {
      this.discard(name, chart);
      chart = null;
    }
    if (!chart) {
      chart = new Chart({
        height: 210,
        marks: () => this.marks(),
        onZoom: (from, to) => this.zoom(from, to),
        onReset: () => this.reset(),
        ...setup,
      });
      chart.kind = kind;
      this.charts.set(name, chart);
      this.place(name, chart);
      if (name === "activity") this.loadActivity();
    }
    chart.draw(data, this.limits(), this.by === "time");
  }

  place(name, chart) {
    const order = ["loss", "metric", "rate", "workers", "activity", "seconds"];
    const rank = (each) => (order.indexOf(each.split(" ")[0]) + order.length + 1) % (order.length + 1);
    const after = [...this.charts.keys()].filter((each) => each !== name && rank(each) > rank(name));
    const next = after.map((each) => this.charts.get(each).element).find((element) => element.isConnected);
    byId("charts").insertBefore(chart.element, next ?? null);
  }

  discard(name) {
    this.charts.get(name)?.remove();
    this.charts.delete(name);
  }
}
