// Which charts there are, and what each shows of the curves.

import { Chart, join } from "./chart.js";
import { byId } from "./dom.js";
import { clock, count, figure, percent } from "./format.js";
import { metrics, rates, told } from "./series.js";

export const SHARES = ["input", "compute", "allreduce", "other"]; // of workers' time, from the bottom to the top

const LEASES = 8; // of a job of tasks: so many are looked at together, since several are done at a time

export class Pictures {
  constructor(curves) {
    this.curves = curves;
    this.charts = new Map();
  }

  repaint() {
    for (const chart of this.charts.values()) chart.repaint();
  }

  x(each) {
    return this.curves.by === "step" ? each.step : each.time;
  }

  marks() {
    return this.curves.rounds
      .filter((each) => each.kind !== "start")
      .map((each) => ({
        x: this.curves.by === "step" ? each.first_step : each.time,
        colour: `kind-${each.kind}`,
        text: `round ${each.number}: ${each.cause}${each.paused_seconds ? `, paused ${clock(each.paused_seconds)}` : ""}`,
      }));
  }

  draw() {
    const { points } = this.curves;
    const begun = points.step.length > 0;
    byId("curves-empty").hidden = begun;
    byId("charts").hidden = !begun;
    if (!begun) return;
    const { trains } = this.curves;
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
    this.charts.get(trains ? "loss" : "rate")?.element.classList.toggle("wide", this.charts.size % 2 === 1);
  }

  drawLoss() {
    const { points } = this.curves;
    const validated = this.series("loss", true);
    const positive = (values) => (this.curves.log ? values.map((value) => (value > 0 ? value : null)) : values);
    const lines = [[points[this.curves.by], positive(points.loss), positive(points.loss_max), positive(points.loss_min)]];
    const series = [
      { label: "train", colour: "c1", width: 1.75 },
      { label: "max", hidden: true },
      { label: "min", hidden: true },
    ];
    if (validated) {
      lines.push([validated.x, positive(validated.y)]);
      series.push({ label: "validation", colour: "c3", points: true });
    }
    const setup = { title: "Loss", log: this.curves.log, series, bands: [{ series: [2, 3], colour: "c1-fill" }] };
    this.chart("loss", setup, lines.length > 1 ? join(lines) : lines[0], String(Boolean(validated)));
  }

  /** Single steps differ widely: the line is the mean over a hundredth of what is seen, the shade the points themselves. */
  drawRate() {
    const { points } = this.curves;
    const window = Math.max(this.curves.trains ? 1 : LEASES, Math.ceil(points.step.length / 100));
    const smooth = rates(points, window);
    const series = [
      { label: "points", hidden: true, fill: this.curves.trains ? "c2-fill" : null },
      { label: "all workers", colour: "c2", width: 1.75, points: !this.curves.trains },
    ];
    const setup = { title: "Throughput", unit: "records / s", zero: true, format: (value) => figure(value >= 100 ? Math.round(value) : value), series };
    this.chart("rate", setup, [points[this.curves.by], points.records_per_second, smooth]);
  }

  drawMetrics() {
    for (const name of metrics(this.curves.figures)) {
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

  series(name, validation) {
    return told(this.curves.figures, name, validation, (each) => this.x(each), this.curves.limits());
  }

  drawWorkers() {
    const [low, high] = this.curves.limits();
    const x = [];
    const y = [];
    let before = null;
    for (const each of this.curves.rounds) {
      const at = this.curves.by === "step" ? each.first_step : each.time;
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
    const { activity } = this.curves;
    const { time } = activity;
    const xs = this.curves.by === "time" ? time : time.map((each) => this.curves.stepAt(each));
    const keep = xs.map((x, index) => index === 0 || x > xs[index - 1]);
    const sums = time.map((_, index) => SHARES.reduce((sum, name) => sum + activity[name][index], 0) || 1);
    let under = time.map(() => 0);
    const layers = SHARES.map((name) => (under = under.map((sum, index) => sum + activity[name][index] / sums[index])));
    const pick = (values) => values.filter((_, index) => keep[index]);
    const [low] = this.curves.limits();
    const apart = time.length > 1 ? time[1] - time[0] : 0;
    // The first point stands for the heartbeats just before it.
    const since = xs.length && xs[0] > low && time[0] - this.curves.limits("time")[0] < 2 * apart;
    const begun = (values, first) => (since ? [first, ...pick(values)] : pick(values));
    // Drawn from the whole down to the first part, each over the one before.
    const series = SHARES.map((name, index) => ({
      label: name,
      colour: `a${index + 1}`,
      fill: `a${index + 1}`,
      width: 0,
      reading: (data, at) => data[SHARES.length - index][at] - (index ? data[SHARES.length - index + 1][at] : 0),
    })).reverse();
    const setup = { title: "Where workers’ time goes", unit: "sampled", most: 1, turned: true, format: (value) => percent(value, 0), series };
    this.chart("activity", setup, [begun(xs, low), ...layers.map((layer) => begun(layer, layer[0])).reverse()]);
  }

  drawStepTime() {
    const { points } = this.curves;
    const series = [
      { label: "step to step", colour: "c5" },
      { label: "the step itself", colour: "c6" },
    ];
    this.chart("seconds", { title: "Step time", zero: true, format: clock, series }, [points[this.curves.by], points.step_seconds, points.useful_seconds]);
  }

  drawLearningRate() {
    const learning = this.curves.points.learning_rate.map((rate) => rate || null);
    const first = learning.find(Boolean);
    if (!first || learning.every((rate) => !rate || rate === first)) return this.discard("rate of learning");
    const setup = { title: "Learning rate", zero: true, series: [{ label: "rate", colour: "c1", steps: true }] };
    return this.chart("rate of learning", setup, [this.curves.points[this.curves.by], learning]);
  }

  chart(name, setup, data, kind = "") {
    let chart = this.charts.get(name);
    if (chart && chart.kind !== kind) {
      this.discard(name);
      chart = null;
    }
    if (!chart) {
      chart = new Chart({
        height: 210,
        marks: () => this.marks(),
        onZoom: (from, to) => this.curves.zoom(from, to),
        onReset: () => this.curves.reset(),
        ...setup,
      });
      chart.kind = kind;
      this.charts.set(name, chart);
      this.place(name, chart);
      if (name === "activity") this.curves.loadActivity();
    }
    chart.draw(data, this.curves.limits(), this.curves.by);
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
