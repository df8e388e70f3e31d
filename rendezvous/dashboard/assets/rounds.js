// The timeline of rounds: who trained together when, and why that changed.

import { byId, fill, h, table } from "./dom.js";
import { clock, count, many, moment } from "./format.js";

const LANES = 24; // workers of which each has a row of its own
const NAMES = 4; // of those who came or went
const SHOWN = 12; // rounds, until more are asked for

export class Rounds {
  constructor() {
    this.rounds = [];
    this.shown = SHOWN;
    this.now = 0;
  }

  /** newest: seconds since 1970 of the newest step; alive: whether the last round still goes on. */
  show(rounds, newest, alive) {
    this.rounds = rounds;
    this.end = Math.max(newest, rounds.at(-1)?.time ?? 0);
    this.alive = alive;
    const section = byId("rounds");
    section.querySelector(".empty").hidden = rounds.length > 0;
    this.list();
    this.lanes();
  }

  list() {
    const newest = this.rounds.slice(-this.shown).reverse();
    const longest = Math.max(...this.rounds.map((each) => each.paused_seconds), 0.001);
    const rows = newest.map((each) => this.row(each, longest));
    const more = this.rounds.length > this.shown
      ? h("button", { type: "button", class: "more", on: { click: () => { this.shown *= 4; this.list(); } } }, `Show earlier rounds (${count(this.rounds.length - this.shown)})`)
      : null;
    const heads = [["Round", "number"], ["Began", ""], ["Why", ""], ["Nobody stepped for", "number"], ["Workers", "number"], ["Came and went", ""], ["From step", "number"], ["Steps", "number"]];
    fill(byId("rounds-list"), newest.length ? table("Rounds, the newest first", heads, rows) : null, more);
  }

  row(each, longest) {
    const bar = h("span", { class: "pause-bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * each.paused_seconds) / longest}%`;
    const again = each.repeated_records ? `; ${many(each.repeated_records, "record")} computed once more` : "";
    return h(
      "tr",
      {},
      h("th", { scope: "row", class: "number" }, String(each.number)),
      h("td", { class: "nowrap" }, h("time", { datetime: new Date(1000 * each.time).toISOString() }, moment(each.time))),
      h("td", { class: "why" }, h("span", { class: `kind-dot kind-${each.kind}` }, each.kind), ` ${each.kind === "start" ? "the first workers were ready" : each.cause}${again}`),
      h("td", { class: "number pause" }, each.paused_seconds ? [bar, clock(each.paused_seconds)] : "–"),
      h("td", { class: "number" }, count(each.size)),
      h("td", { class: "nowrap" }, changes(each)),
      h("td", { class: "number" }, count(each.first_step)),
      h("td", { class: "number" }, count(each.steps)),
    );
  }

  /** A row for each worker, a bar for each time that it trained without a break. */
  lanes() {
    const box = byId("lanes");
    const spans = membership(this.rounds, this.end);
    const ids = [...spans.keys()].sort((one, other) => one - other);
    box.hidden = !ids.length || ids.length > LANES || this.rounds.length < 2;
    if (box.hidden) return;
    const begin = this.rounds[0].time;
    const length = Math.max(this.end - begin, 0.001);
    const place = (element, from, to) => {
      element.style.left = `${(100 * (from - begin)) / length}%`;
      element.style.width = `${Math.max(0, (100 * (to - from)) / length)}%`;
      return element;
    };
    const rows = ids.map((id) => {
      const words = spans.get(id).map(([from, to]) => `${moment(from)} to ${moment(to)}`).join(", ");
      const bars = spans.get(id).map(([from, to, open]) => place(h("span", { class: open && this.alive ? "span open" : "span", title: `worker ${id}: ${moment(from)} to ${moment(to)}` }), from, to));
      return h("div", { class: "lane" }, h("span", { class: "lane-name" }, `worker ${id}`), h("div", { class: "track", role: "img", "aria-label": `Worker ${id} trained ${words}` }, bars));
    });
    const reforms = this.rounds.slice(1).map((each) => {
      const mark = h("span", { class: `reform kind-${each.kind}`, title: `round ${each.number}: ${each.cause}` });
      mark.style.left = `${(100 * (each.time - begin)) / length}%`;
      return mark;
    });
    const axis = h("div", { class: "lane axis", "aria-hidden": "true" }, h("span", { class: "lane-name" }), h("div", { class: "track" }, reforms, h("span", { class: "from" }, moment(begin)), h("span", { class: "to" }, this.alive ? "now" : moment(this.end))));
    fill(box, rows, axis);
  }
}

function changes(each) {
  const some = (ids, total, sign, kind) => {
    if (!total) return null;
    const names = ids.slice(0, NAMES).map((id) => `${sign}${id}`).join(" ");
    const rest = total > NAMES ? ` and ${count(total - NAMES)} more` : "";
    return h("span", { class: kind }, names + rest, h("span", { class: "unseen" }, kind === "came" ? " came" : " went"));
  };
  const came = some(each.came, each.came_count, "+", "came");
  const gone = some(each.gone, each.gone_count, "−", "gone");
  return came || gone ? [came, came && gone ? " " : null, gone] : h("span", { class: "faint" }, "the same");
}

/** id → [[from, to, still there]] */
function membership(rounds, end) {
  const spans = new Map();
  const inside = new Map();
  for (const each of rounds) {
    for (const id of each.gone) {
      if (inside.has(id)) spans.get(id).push([inside.get(id), each.time, false]);
      inside.delete(id);
    }
    for (const id of each.came) {
      inside.set(id, each.time);
      if (!spans.has(id)) spans.set(id, []);
    }
  }
  for (const [id, since] of inside) spans.get(id).push([since, end, true]);
  return spans;
}
