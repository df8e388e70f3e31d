// The page that compares recorded runs: which there are, their curves over each other, their settings and figures.

import { get, takeToken } from "./api.js";
import { Chart, join } from "./chart.js";
import { lock, wireTheme } from "./controls.js";
import { byId, fill, h, say, scroller } from "./dom.js";
import { clock, count, figure, many, moment, percent } from "./format.js";
import { metrics, rates, told } from "./series.js";

const AT_FIRST = 6; // runs that are ticked
const COLOURS = 8; // so many runs at most are compared
const POINTS = 600;
const REDRAW_MS = 200;
const LEVELS = { done: "ok", failed: "bad" };
const FORMATS = { steps: count, seconds: clock, records_per_second: (value) => count(Math.round(value)), goodput: percent, rounds: count };
const HEADS = { steps: "Steps", seconds: "Took", records_per_second: "Records/s", goodput: "Goodput", rounds: "Rounds" };
const everything = [-Infinity, Infinity];

class Comparison {
  constructor(runs) {
    this.runs = runs;
    this.trainings = runs.filter((run) => run.kind === "train" && !run.problem);
    this.chosen = new Map(); // id → colour
    for (const run of this.trainings.slice(0, AT_FIRST)) this.chosen.set(run.id, this.free());
    this.found = new Map(); // id → {points, figures}
    this.by = "step";
    this.range = null; // all of it
    this.log = false;
    this.charts = new Map();
    this.labels = labels(runs);
    wireTheme(() => this.charts.forEach((chart) => chart.repaint()));
    byId("by").addEventListener("change", (event) => {
      this.by = event.target.value;
      this.zoom(null);
    });
    byId("log").addEventListener("change", (event) => {
      this.log = event.target.checked;
      this.discard("loss");
      this.plan();
    });
  }

  free() {
    const taken = new Set(this.chosen.values());
    for (let index = 1; index <= COLOURS; index += 1) if (!taken.has(`r${index}`)) return `r${index}`;
    return null;
  }

  get compared() {
    return this.trainings.filter((run) => this.chosen.has(run.id));
  }

  show() {
    const sources = [...new Set(this.runs.map((run) => run.source))];
    say(byId("word"), many(this.runs.length, "run"));
    say(byId("text"), sources.length === 1 ? `recorded in ${sources[0]}` : `recorded in ${count(sources.length)} places`);
    document.title = `${many(this.runs.length, "run")} · edl`;
    const problems = this.runs.filter((run) => run.problem).map((run) => h("li", { "data-level": "warn" }, `${run.name}: ${run.problem}`));
    fill(byId("notes"), problems);
    byId("notes").hidden = problems.length === 0;
    byId("content").hidden = false;
    this.list(sources.length > 1);
    this.settings();
    this.load();
  }

  list(several) {
    const names = columns(this.trainings.length ? this.trainings : this.runs);
    const best = lowest(this.trainings, names);
    const heads = ["", "Run", ...(several ? ["Recorded in"] : []), "Began", "Ended", ...names.map((name) => HEADS[name] ?? name.replaceAll("_", " "))];
    const numbers = heads.length - names.length;
    const rows = this.runs.map((run) => h("tr", { "data-run": run.id }, this.tick(run), h("th", { scope: "row", class: "run" }, h("a", { href: `runs/${run.id}/`, title: run.name }, run.name)), several ? h("td", { class: "source", title: run.source }, run.source) : null, h("td", { class: "nowrap" }, run.began ? moment(run.began) : "–"), h("td", {}, h("span", { class: "pill", "data-level": LEVELS[run.phase] ?? "idle", title: run.message }, run.phase || "unreadable")), names.map((name) => h("td", { class: best.get(name) === run.figures[name] && run.figures[name] != null ? "number best" : "number" }, run.figures[name] == null ? "–" : (FORMATS[name] ?? figure)(run.figures[name])))));
    const head = h("tr", {}, heads.map((text, index) => h("th", { scope: "col", class: index >= numbers ? "number" : "" }, text || h("span", { class: "unseen" }, "Compared"))));
    fill(byId("runs-list"), scroller("Runs", h("table", { class: "runs" }, h("caption", { class: "unseen" }, "Runs, the newest first, and their last figures"), h("thead", {}, head), h("tbody", {}, rows))));
  }

  tick(run) {
    if (!this.trainings.includes(run)) return h("td");
    const box = h("input", { type: "checkbox", checked: this.chosen.has(run.id), "aria-label": `Compare ${run.name}` });
    const cell = h("td", { class: "tick" }, h("label", {}, box, h("i", { class: "key", "aria-hidden": "true" })));
    const paint = () => cell.style.setProperty("--kind", this.chosen.has(run.id) ? `var(--${this.chosen.get(run.id)})` : "transparent");
    box.addEventListener("change", () => {
      const colour = box.checked ? this.free() : null;
      if (colour) this.chosen.set(run.id, colour);
      else this.chosen.delete(run.id);
      if (box.checked && !colour) say(byId("announce"), `At most ${COLOURS} runs are compared at a time`);
      box.checked = Boolean(colour);
      paint();
      this.changed();
    });
    paint();
    return cell;
  }

  changed() {
    for (const name of [...this.charts.keys()]) this.discard(name);
    this.settings();
    this.load();
  }

  // Settings that differ.

  settings() {
    const runs = this.compared;
    const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
    const text = (value) => (value == null || value === "" ? "–" : String(value));
    const differing = names.filter((name) => new Set(runs.map((run) => text(run.settings[name]))).size > 1);
    differing.sort((one, other) => other.startsWith("params ") - one.startsWith("params ")); // what people look for
    const same = names.length - differing.length;
    const rows = differing.map((name) => h("tr", {}, h("th", { scope: "row", class: "setting" }, name), runs.map((run) => h("td", { class: "setting" }, text(run.settings[name])))));
    const head = h("tr", {}, h("th", { scope: "col" }, "Setting"), runs.map((run) => h("th", { scope: "col" }, this.key(run), this.labels.get(run.id))));
    const hint = runs.length < 2 ? "tick two runs or more" : `${many(same, "other setting")} ${same === 1 ? "is" : "are"} the same`;
    const title = h("div", { class: "head" }, h("h2", { id: "settings-title" }, "Settings that differ"), h("p", { class: "hint" }, hint));
    const table = scroller("Settings that differ", h("table", { class: "differing" }, h("caption", { class: "unseen" }, "Settings that differ, by run"), h("thead", {}, head), h("tbody", {}, rows)));
    const none = runs.length > 1 ? h("p", { class: "empty" }, "These runs had the very same settings.") : null;
    fill(byId("settings"), title, differing.length ? table : none);
  }

  key(run) {
    const key = h("i", { class: "key", "aria-hidden": "true" });
    key.style.setProperty("--kind", `var(--${this.chosen.get(run.id)})`);
    return key;
  }

  // Curves.

  zoom(range) {
    this.range = range;
    this.load();
  }

  async load() {
    const mine = (this.loading = (this.loading ?? 0) + 1);
    const found = await Promise.all(this.compared.map((run) => this.ask(run).catch((error) => ({ run, error }))));
    if (mine !== this.loading) return; // asked anew in the meantime
    this.found = new Map(found.filter((each) => !each.error).map((each) => [each.run.id, each]));
    const lost = found.find((each) => each.error);
    if (lost) fill(byId("notes"), h("li", { "data-level": "warn" }, `${lost.run.name}: ${lost.error.message}`));
    if (lost) byId("notes").hidden = false;
    this.plan();
  }

  async ask(run) {
    const shift = this.by === "elapsed" ? run.began : 0;
    const span = this.range ? { from: Math.max(0, this.range[0] + shift), to: Math.max(0, this.range[1] + shift) } : {};
    const [history, figures] = await Promise.all([get("history", { by: this.by === "step" ? "step" : "time", points: POINTS, ...span }, undefined, run.id), get("figures", {}, undefined, run.id)]);
    return { run, points: history.points, figures: figures.figures };
  }

  at(run) {
    return this.by === "step" ? (each) => each.step : (each) => Math.max(0, each.time - run.began);
  }

  plan() {
    clearTimeout(this.planned);
    this.planned = setTimeout(() => requestAnimationFrame(() => this.draw()), REDRAW_MS * (this.charts.size > 0));
  }

  draw() {
    const runs = this.compared.filter((run) => this.found.has(run.id));
    const begun = runs.some((run) => this.found.get(run.id).points.step.length);
    byId("curves-empty").hidden = begun;
    byId("charts").hidden = !begun;
    if (!begun) return;
    const figures = runs.flatMap((run) => this.found.get(run.id).figures);
    const limits = this.range ?? this.extent(runs);
    const curve = (of) => (run) => this.curve(run, of(this.found.get(run.id).points));
    const quantity = (name, validation) => (run) => told(this.found.get(run.id).figures, name, validation, this.at(run), limits ?? everything);
    this.chart("loss", { title: "Loss", unit: "while training", log: this.log }, runs, curve((points) => (this.log ? points.loss.map((value) => (value > 0 ? value : null)) : points.loss)), limits);
    this.chart("val_loss", { title: "Loss", unit: "on the validation data" }, runs, quantity("loss", true), limits, true);
    for (const name of metrics(figures)) {
      const title = name.replaceAll("_", " ");
      this.chart(name, { title, unit: "while training" }, runs, quantity(name, false), limits, true);
      this.chart(`val_${name}`, { title, unit: "on the validation data" }, runs, quantity(name, true), limits, true);
    }
    this.chart("rate", { title: "Throughput", unit: "records / s", zero: true, format: (value) => figure(value >= 100 ? Math.round(value) : value) }, runs, curve((points) => rates(points, Math.max(1, Math.ceil(points.step.length / 20)))), limits);
    this.charts.get("loss")?.element.classList.toggle("wide", this.charts.size % 2 === 1);
  }

  curve(run, values) {
    const { points } = this.found.get(run.id);
    const x = points.step.map((step, index) => this.at(run)({ step, time: points.time[index] }));
    const keep = x.map((value, index) => index === 0 || value > x[index - 1]);
    return x.length ? { x: x.filter((_, index) => keep[index]), y: values.filter((_, index) => keep[index]) } : null;
  }

  extent(runs) {
    const ends = runs.flatMap((run) => {
      const { points } = this.found.get(run.id);
      const at = this.at(run);
      const place = (index) => at({ step: points.step.at(index), time: points.time.at(index) });
      return points.step.length ? [place(0), place(-1)] : [];
    });
    const low = this.by === "elapsed" ? 0 : Math.min(...ends);
    return [low, Math.max(...ends, low + 1)];
  }

  /** of(run): {x, y} or null; points: they are few and far between. */
  chart(name, setup, runs, of, limits, points = false) {
    const lines = runs.map((run) => ({ run, line: of(run) })).filter((each) => each.line);
    const kind = lines.map((each) => each.run.id).join(" ");
    if (!lines.length) return this.discard(name);
    if (this.charts.has(name) && this.charts.get(name).kind !== kind) this.discard(name);
    if (!this.charts.has(name)) {
      const series = lines.map(({ run }) => ({ label: this.labels.get(run.id), colour: this.chosen.get(run.id), points, spanGaps: true }));
      const chart = new Chart({ height: 230, series, onZoom: (from, to) => this.zoom([from, to]), onReset: () => this.zoom(null), ...setup });
      chart.kind = kind;
      this.charts.set(name, chart);
      byId("charts").append(chart.element);
    }
    const tables = lines.map(({ line }) => [line.x, line.y]);
    return this.charts.get(name).draw(tables.length > 1 ? join(tables) : tables[0], limits, this.by);
  }

  discard(name) {
    this.charts.get(name)?.remove();
    this.charts.delete(name);
  }
}

/** The names of all figures, those of every training first. */
function columns(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.figures)))];
  const order = [...Object.keys(FORMATS), "loss", "val_loss"];
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return names.sort((one, other) => rank(one) - rank(other) || one.replace("val_", "").localeCompare(other.replace("val_", "")) || one.length - other.length);
}

/** Of every loss the lowest of all runs, where there are several. */
function lowest(runs, names) {
  const losses = names.filter((name) => name.endsWith("loss"));
  const values = (name) => runs.map((run) => run.figures[name]).filter((value) => value != null);
  return new Map(losses.filter((name) => new Set(values(name)).size > 1).map((name) => [name, Math.min(...values(name))]));
}

/** What tells each run from the others: its name without what all names begin with. */
function labels(runs) {
  const names = runs.map((run) => run.id.split("-"));
  let same = 0;
  while (names.every((parts) => parts.length > same + 1 && parts[same] === names[0][same])) same += 1;
  return new Map(runs.map((run, index) => [run.id, names[index].slice(runs.length > 1 ? same : 0).join("-")]));
}

takeToken();
addEventListener("hashchange", () => takeToken() && location.reload());
get("runs")
  .then((answer) => new Comparison(answer.runs.sort((one, other) => other.began - one.began)).show())
  .catch(lock);
