// The workers: one row each, those that need attention first; a map of all when there are many.

import { get } from "./api.js";
import { colour } from "./chart.js";
import { byId, fill, h, say, scroller } from "./dom.js";
import { bytes, clock, count, figure, many } from "./format.js";

const SHOWN = 40;
const MAP_FROM = 13; // workers from which on there is a map
const GONE_MS = 60000; // for so long a worker that is no more has a row
const SILENT_SECONDS = 2;
const LOG_MS = 1500;
const LEVELS = { training: "ok", working: "ok", ready: "ok", exporting: "ok", pending: "warn", leaving: "idle", lost: "bad", left: "idle" };
const HEADS = [
  ["id", "Worker", "number"],
  ["state", "State", ""],
  ["rank", "Rank", "number"],
  ["lanes", "Lanes", "number"],
  ["records_per_second", "Records/s", "number"],
  ["compute_seconds", "Own part of a step", "number"],
  ["memory_bytes", "Memory", "number"],
  ["heartbeat_seconds", "Heard", "number"],
  ["host", "Host", ""],
  [null, "Log", ""],
];

export class Workers {
  constructor() {
    this.rows = new Map();
    this.gone = new Map();
    this.known = new Map();
    this.limit = SHOWN;
    this.order = { by: null, down: false };
    this.told = { workers: [], median_compute_seconds: 0 };
    this.ended = false;
    this.build();
  }

  build() {
    this.heads = HEADS.map(([name, text, kind]) => {
      if (!name) return h("th", { scope: "col" }, text);
      const button = h("button", { type: "button", on: { click: () => this.sort(name) } }, text);
      return h("th", { scope: "col", class: kind, "data-by": name }, button);
    });
    this.body = h("tbody");
    this.more = h("button", { type: "button", class: "more", on: { click: () => { this.limit *= 4; this.show(this.told); } } });
    this.table = h("table", { class: "workers" }, h("caption", { class: "unseen" }, "Workers; the heads sort"), h("thead", {}, h("tr", {}, this.heads)), this.body);
    fill(byId("workers-list"), scroller("Workers", this.table), this.more);
    byId("filter").addEventListener("input", () => this.show(this.told));
    this.map = h("canvas", { role: "img" });
    byId("fleet").append(this.map);
    this.log = new Log();
  }

  sort(name) {
    this.order = this.order.by === name ? { by: this.order.down ? null : name, down: !this.order.down } : { by: name, down: false };
    for (const head of this.heads) {
      const mine = head.dataset.by && head.dataset.by === this.order.by;
      if (mine) head.setAttribute("aria-sort", this.order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    this.show(this.told);
  }

  show(told) {
    this.remember(told);
    this.told = told;
    const all = [...this.gone.values(), ...told.workers];
    byId("workers").querySelector(".empty").hidden = all.length > 0;
    byId("workers-list").hidden = all.length === 0;
    const wanted = byId("filter").value.trim().toLowerCase();
    const fitting = wanted ? all.filter((each) => [String(each.id), each.host, each.state].some((text) => text.toLowerCase().includes(wanted))) : all;
    this.sorted(fitting);
    const shown = fitting.slice(0, this.limit);
    const slowest = Math.max(...told.workers.map((each) => each.compute_seconds), 1e-9);
    const rows = shown.map((each) => this.row(each, slowest));
    if (rows.length !== this.body.children.length || rows.some((row, index) => this.body.children[index] !== row)) this.body.replaceChildren(...rows);
    const kept = new Set(shown.map((each) => each.id));
    for (const id of this.rows.keys()) if (!kept.has(id)) this.rows.delete(id);
    this.more.hidden = fitting.length <= shown.length;
    say(this.more, `Show more (${count(fitting.length - shown.length)})`);
    this.hint(all, fitting, wanted);
    this.paint(told.workers);
  }

  /** Who was there a moment ago and is no more stays for a while, so that it is seen. */
  remember(told) {
    const now = performance.now();
    const here = new Map(told.workers.map((each) => [each.id, each]));
    for (const [id, each] of this.known) {
      if (!here.has(id) && !this.ended) this.gone.set(id, { ...each, state: each.state === "leaving" ? "left" : "lost", since: now, rank: -1, lanes: 0, records_per_second: 0, straggler: false, activity: "" });
    }
    for (const [id, each] of this.gone) if (here.has(id) || now - each.since > GONE_MS) this.gone.delete(id);
    this.known = here;
  }

  sorted(workers) {
    const { by, down } = this.order;
    const urgent = (each) => (each.state === "lost" ? 0 : each.state === "pending" || each.straggler ? 1 : 2);
    const value = (each) => each[by] ?? (typeof each[by] === "string" ? "" : -1);
    workers.sort((one, other) => {
      if (!by) return urgent(one) - urgent(other) || one.id - other.id;
      const [a, b] = down ? [value(other), value(one)] : [value(one), value(other)];
      return (a < b ? -1 : a > b ? 1 : 0) || one.id - other.id;
    });
  }

  row(each, slowest) {
    let row = this.rows.get(each.id);
    if (!row) this.rows.set(each.id, (row = this.newRow(each.id)));
    const cells = row.cells;
    const was = each.state === "lost" || each.state === "left";
    row.className = was ? "was" : each.straggler ? "late" : "";
    row.dataset.state = each.state;
    const pill = cells[1].firstChild;
    const level = this.ended ? "idle" : (LEVELS[each.state] ?? "busy");
    if (pill.dataset.level !== level) pill.dataset.level = level;
    say(pill, this.ended ? "ended" : each.state);
    say(cells[1].lastChild, this.ended ? (each.state === "unheard" ? "" : `was ${each.state}`) : each.waits_for || (was ? "" : each.activity));
    say(cells[2], each.rank >= 0 ? String(each.rank) : "–");
    say(cells[3], each.lanes ? count(each.lanes) : "–");
    say(cells[4], each.records_per_second ? figure(each.records_per_second) : "–");
    const [bar, seconds, badge] = cells[5].firstChild.children;
    bar.style.setProperty("--part", String(was ? 0 : each.compute_seconds / slowest));
    say(seconds, each.compute_seconds && !was ? clock(each.compute_seconds) : "–");
    const times = each.straggler ? (each.compute_seconds / this.told.median_compute_seconds).toPrecision(2) : "";
    say(badge, times ? `${times}× median` : "");
    say(cells[6], bytes(was ? null : each.memory_bytes));
    const silent = !was && !this.ended && each.heartbeat_seconds > SILENT_SECONDS && each.rank >= 0;
    cells[7].className = silent ? "number silent" : "number";
    say(cells[7], was ? `gone ${clock((performance.now() - each.since) / 1000)} ago` : each.heartbeat_seconds && !this.ended ? `${clock(each.heartbeat_seconds)} ago` : "–");
    say(cells[8], each.host || "–");
    return row;
  }

  newRow(id) {
    const cell = (kind, ...children) => h("td", { class: kind }, children);
    const own = h("span", { class: "own" }, h("span", { class: "own-bar", "aria-hidden": "true" }), h("span"), h("span", { class: "badge" }));
    const button = h("button", { type: "button", class: "quiet small", "aria-label": `Log of worker ${id}`, on: { click: () => this.log.open(id) } }, "log");
    return h("tr", { "data-worker": id }, h("th", { scope: "row", class: "number" }, String(id)), cell("", h("span", { class: "pill" }), h("span", { class: "doing" })), cell("number"), cell("number"), cell("number"), cell("number", own), cell("number"), cell("number"), cell("host"), cell("", button));
  }

  hint(all, fitting, wanted) {
    const median = this.told.median_compute_seconds;
    const usual = median ? `; the median’s own part of a step takes ${clock(median)}` : "";
    say(byId("workers-hint"), wanted ? `${count(fitting.length)} of ${many(all.length, "worker")}` : `${many(this.told.workers.length, "worker")}, ${count(this.told.target_workers ?? 0)} wanted${usual}`);
  }

  /** A small square for each. */
  paint(workers) {
    const box = byId("fleet");
    box.hidden = workers.length < MAP_FROM;
    if (box.hidden) return;
    const width = box.clientWidth;
    const size = workers.length > 400 ? 9 : 14;
    const gap = 2;
    const columns = Math.max(1, Math.floor((width + gap) / (size + gap)));
    const rows = Math.ceil(workers.length / columns);
    const pixel = devicePixelRatio || 1;
    this.map.width = width * pixel;
    this.map.height = rows * (size + gap) * pixel;
    this.map.style.height = `${rows * (size + gap)}px`;
    const pen = this.map.getContext("2d");
    pen.scale(pixel, pixel);
    const colours = new Map(["ok", "busy", "warn", "bad", "idle"].map((level) => [level, colour(level)]));
    workers.forEach((each, index) => {
      const level = each.straggler ? "warn" : (LEVELS[each.state] ?? "busy");
      pen.fillStyle = colours.get(level);
      pen.fillRect((index % columns) * (size + gap), Math.floor(index / columns) * (size + gap), size, size);
    });
    const states = new Map();
    for (const each of workers) states.set(each.state, (states.get(each.state) ?? 0) + 1);
    this.map.setAttribute("aria-label", `A square for each worker: ${[...states].map(([state, number]) => `${count(number)} ${state}`).join(", ")}`);
  }
}

/** The end of a worker's log, as long as it is open. */
class Log {
  constructor() {
    this.title = h("h2", { id: "log-title" });
    this.text = h("pre", { tabindex: 0, role: "region", "aria-label": "Log" });
    this.hint = h("p", { class: "hint" });
    this.dialog = h(
      "dialog",
      { class: "log", "aria-labelledby": "log-title" },
      h("div", { class: "head" }, this.title, h("button", { type: "button", class: "quiet", on: { click: () => this.dialog.close() } }, "Close")),
      this.hint,
      this.text,
    );
    this.dialog.addEventListener("close", () => clearTimeout(this.timer));
    document.body.append(this.dialog);
  }

  async open(id) {
    say(this.title, `Log of worker ${id}`);
    say(this.text, "");
    say(this.hint, "loading");
    this.dialog.showModal();
    await this.load(id, true);
    this.text.focus();
  }

  async load(id, first = false) {
    clearTimeout(this.timer);
    try {
      const tail = await get(`workers/${id}/log`, { lines: 400 });
      const bottom = first || this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 4;
      this.text.hidden = Boolean(tail.unavailable);
      say(this.text, tail.lines.join("\n"));
      say(this.hint, tail.unavailable || (tail.lines.length ? `${tail.truncated ? `the last ${many(tail.lines.length, "line")}` : many(tail.lines.length, "line")}, kept up to date` : "it has written nothing yet"));
      if (bottom) this.text.scrollTop = this.text.scrollHeight;
    } catch (error) {
      say(this.hint, `cannot be read now: ${error.message}`);
    }
    if (this.dialog.open) this.timer = setTimeout(() => this.load(id), LOG_MS);
  }
}
