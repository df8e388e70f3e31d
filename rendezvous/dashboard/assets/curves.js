// The curves: what is asked of the API of them, and how they grow; `pictures.js` draws them.

import { get } from "./api.js";
import { byId, h, say } from "./dom.js";
import { Pictures, SHARES } from "./pictures.js";

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

const empty = (names) => Object.fromEntries(names.map((name) => [name, []]));

export class Curves {
  constructor(job) {
    this.job = job;
    this.trains = job.kind === "train";
    this.by = this.trains ? "step" : "time"; // leases have no order worth looking at
    this.range = { last: "all" };
    this.log = false;
    this.points = empty(COLUMNS);
    this.activity = empty(["time", ...SHARES]);
    this.activityPoints = 60;
    this.figures = [];
    this.rounds = [];
    this.newest = { step: 0, time: 0 };
    this.pictures = new Pictures(this);
    this.loading = 0;
    this.width = this.fresh = this.loaded = 0; // of the points' buckets; points since; when that was
    this.wire();
  }

  wire() {
    byId("by").hidden = byId("log").parentElement.hidden = !this.trains;
    if (!this.trains) say(byId("curves-empty"), "No task has been done yet. The curve begins with the first one.");
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
      this.pictures.discard("loss"); // an axis does not change its kind
      this.redraw();
    });
    this.offer();
    this.timer = setInterval(() => this.loadActivity(), ACTIVITY_MS);
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
    if (document.hidden || !this.pictures.charts.has("activity")) return;
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
      if (!document.hidden) requestAnimationFrame(() => this.pictures.draw());
    }, wait);
  }

  /** Nothing changes any more. */
  rest() {
    clearInterval(this.timer);
    this.loadActivity();
  }

  repaint() {
    this.pictures.repaint();
  }

  limits(by = this.by) {
    const xs = this.points[by];
    if ("from" in this.range && by === this.by) return [this.range.from, this.range.to];
    if (!xs.length) return [0, 1];
    const low = by === "step" && this.range.last === "all" ? Math.min(xs[0], this.points.step[0]) : xs[0];
    return [low, Math.max(xs.at(-1), low + (by === "step" ? 1 : 0.5))];
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
}
