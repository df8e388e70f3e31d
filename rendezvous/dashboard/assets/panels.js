// The smaller panels: key figures, data, where the time went, evaluations, events, settings.

import { byId, fill, h, table } from "./dom.js";
import { bytes, clock, count, figure, many, moment, percent } from "./format.js";
import { ENDED, fraction } from "./health.js";

const KINDS = {
  joined: "Workers joined",
  left: "Workers left",
  lost: "Workers were lost",
  hung: "Workers hung",
  network: "The network broke",
  restart: "The coordinator restarted",
  evaluation: "Evaluations and epochs’ ends",
  other: "Other reforms",
};
const EVENTS_SHOWN = 60;

const panel = (id, title, hint = "") => [h("div", { class: "head" }, h("h2", { id: `${id}-title` }, title), hint ? h("p", { class: "hint" }, hint) : null)];
const nothing = (text) => h("p", { class: "empty" }, text);

// Key figures.

export function showFigures(status) {
  const told = status.goodput;
  const trains = status.job === "train";
  const good = told?.wall_seconds ? told.useful_seconds / told.wall_seconds : null;
  const lost = told ? told.lost.filter((each) => each.kind !== "evaluation").reduce((sum, each) => sum + each.seconds, 0) : 0;
  const ended = ENDED.includes(status.phase) || status.phase === "unfinished";
  const rounds = status.round ? `round ${count(status.round)}` : "no round yet";
  const tiles = [
    trains && ["Loss", status.position.step ? figure(status.loss) : "–", status.position.step ? "of the newest step" : "no step yet"],
    ended ? ["Throughput", mean(status), "records / s on average"] : ["Throughput", status.records_per_second ? figure(Math.round(status.records_per_second)) : "–", "records / s"],
    ended
      ? ["Workers", count(status.target_workers), trains ? `wanted at last, ${rounds}` : "wanted"]
      : ["Workers", `${count(trains ? status.workers_in_round : (status.worker_states.working ?? 0))} / ${count(status.target_workers)}`, trains ? status.round ? `in ${rounds} / wanted` : "stepping / wanted" : "at work / wanted"],
    ["Done", percent(fraction(status)), status.seconds_left && !ended ? `${clock(status.seconds_left)} left` : `after ${clock(status.training_seconds || status.seconds)}`],
    trains && ["Goodput", percent(good), lost ? `${clock(lost)} lost to reforms` : "nothing lost to reforms"],
    trains && status.phase === "done" && ["Result", "written", "the model is in the output"],
    trains && status.phase !== "done" && ["Checkpoint", status.checkpoint ? `step ${count(status.checkpoint.step)}` : "none yet", status.checkpoint ? `${many(Math.max(0, status.position.step - status.checkpoint.step), "step")} behind` : "nothing is saved"],
  ];
  fill(byId("figures"), tiles.filter(Boolean).map(([name, value, hint]) => h("div", { class: "tile" }, h("h2", {}, name), h("p", { class: "big" }, value), h("p", { class: "hint" }, hint))));
}

/** Records per second over the whole job. */
function mean(status) {
  const records = status.goodput?.records || status.work?.records_done || 0;
  const seconds = status.training_seconds || status.seconds;
  return records && seconds ? figure(Math.round(records / seconds)) : "–";
}

// Data: epochs and tasks.

export function showData(status, job) {
  const parts = panel("data", status.job === "train" ? "Data" : "Tasks");
  if (status.job === "train") parts.push(...epochs(status, job));
  if (status.work) parts.push(tasks(status));
  fill(byId("data"), parts);
}

function epochs(status, job) {
  const { epoch, offset } = status.position;
  const all = Math.max(1, status.num_epochs);
  const finished = status.phase === "done";
  const now = Math.min(epoch, all - 1);
  const part = (index) => (finished || index < epoch ? 1 : index === epoch && status.records ? Math.min(1, offset / status.records) : 0);
  const bars = all <= 60
    ? h("div", { class: "epochs", "aria-hidden": "true" }, Array.from({ length: all }, (_, index) => bar(part(index))))
    : h("div", { class: "epochs", "aria-hidden": "true" }, bar((Math.min(epoch, all) + part(epoch) * (epoch < all)) / all));
  const read = part(now) * status.records;
  const rows = [
    ["Epoch", `${count(now + 1)} of ${count(all)}`],
    ["Records of this epoch", `${count(Math.round(read))} of ${count(status.records)} (${percent(part(now), 0)})`],
  ];
  if (job.tasks) rows.push(["Cut into", `${many(job.tasks, "task")}, read at ${many(job.lanes, "place")} side by side`]);
  if (status.skipped_records) rows.push(["Left out as bad", many(status.skipped_records, "record")]);
  return [bars, list(rows)];
}

function bar(part) {
  const filled = h("i");
  filled.style.width = `${100 * part}%`;
  return h("span", {}, filled);
}

function tasks(status) {
  const { work } = status;
  const todo = work.tasks - work.tasks_done - work.tasks_leased;
  const shares = [["done", work.tasks_done], ["doing", work.tasks_leased], ["todo", Math.max(0, todo)]];
  const stack = h("div", { class: "stack", "aria-hidden": "true" }, shares.map(([kind, number]) => part(kind, number / (work.tasks || 1))));
  const title = status.job === "train" ? h("h3", {}, `Evaluation after step ${count(work.work)}`) : null;
  return h("div", {}, title, stack, list([["Tasks done", `${count(work.tasks_done)} of ${count(work.tasks)}`], ["being done", count(work.tasks_leased)], ["to do", count(Math.max(0, todo))], ["Records", `${count(work.records_done)} of ${count(work.records)}`]]));
}

function part(kind, share) {
  const element = h("span", { class: kind });
  element.style.width = `${100 * share}%`;
  return element;
}

const list = (rows) => h("dl", {}, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// Where the time went.

export function showGoodput(status) {
  const told = status.goodput;
  const box = byId("goodput");
  const parts = panel("goodput", "Where the time went", "since the first round began");
  if (!told?.wall_seconds) return fill(box, parts, nothing("No round has begun yet."));
  const lost = told.lost.filter((each) => each.seconds || each.rounds);
  const rest = Math.max(0, told.wall_seconds - told.useful_seconds - lost.reduce((sum, each) => sum + each.seconds, 0));
  const share = (seconds) => seconds / told.wall_seconds;
  const rows = [
    ["useful", "Steps that count", "", told.useful_seconds],
    ...lost.map((each) => [`kind-${each.kind}`, KINDS[each.kind] ?? each.kind, `${count(each.rounds)} ×`, each.seconds]),
    ["rest", "Between steps, and since the newest one", "", rest],
  ];
  const stack = h("div", { class: "stack tall", "aria-hidden": "true" }, rows.map(([kind, , , seconds]) => part(kind, share(seconds))));
  const cells = rows.map(([kind, name, times, seconds]) => h("tr", {}, h("th", { scope: "row" }, h("span", { class: `key ${kind}`, "aria-hidden": "true" }), name), h("td", { class: "number" }, times), h("td", { class: "number" }, clock(seconds)), h("td", { class: "number" }, percent(share(seconds)))));
  const again = told.repeated_records ? h("p", { class: "hint" }, `${many(told.repeated_records, "record")} of ${count(told.records)} computed once more, because a step was interrupted or had not been saved.`) : null;
  return fill(box, parts, stack, table("Time by cause", [["Cause", ""], ["Times", "number"], ["Time", "number"], ["Share", "number"]], cells), again);
}

// Evaluations and ends of epochs.

export function showEvaluations(figures, job) {
  byId("evaluations").hidden = job.kind === "predict";
  const trains = job.kind === "train";
  const parts = trains ? panel("evaluations", "Evaluations", "and ends of epochs") : panel("evaluations", "Result");
  const none = trains ? "None yet. Metrics come with the end of an epoch, or with --validation_data." : "It comes when all tasks are done.";
  if (!figures.length) return fill(byId("evaluations"), parts, nothing(none));
  if (!trains) return fill(byId("evaluations"), parts, list(Object.entries(figures.at(-1).values).map(([name, value]) => [name, figure(value)])));
  const names = [...new Set(figures.flatMap((each) => Object.keys(each.values)))].sort((one, other) => key(one).localeCompare(key(other)));
  const rows = figures.slice(-12).reverse().map((each) => h("tr", {}, h("th", { scope: "row" }, each.at_end ? `epoch ${each.epoch + 1}` : "between"), h("td", { class: "number" }, count(each.step)), names.map((name) => h("td", { class: "number" }, figure(each.values[name])))));
  const stopped = figures.findLast((each) => each.stopped)?.stopped;
  const heads = [["At the end of", ""], ["Step", "number"], ...names.map((name) => [name.replaceAll("_", " "), "number"])];
  return fill(byId("evaluations"), parts, table("Evaluations, the newest first", heads, rows), stopped ? h("p", { class: "hint" }, stopped) : null);
}

const key = (name) => `${name.startsWith("val_") ? 1 : 0}${name.endsWith("loss") ? 0 : 1}${name}`;

// Events.

export class Events {
  constructor() {
    this.events = [];
    this.shown = EVENTS_SHOWN;
  }

  add(events) {
    const known = this.events.at(-1)?.serial ?? 0;
    this.events.push(...events.filter((each) => each.serial > known));
    this.events.splice(0, Math.max(0, this.events.length - 5000));
    this.show();
  }

  clear() {
    this.events = [];
  }

  show() {
    const box = byId("events");
    const parts = panel("events", "Events", `${count(this.events.length)}, the newest first`);
    if (!this.events.length) return fill(box, parts, nothing("No events so far."));
    const newest = this.events.slice(-this.shown).reverse();
    const rows = newest.map(({ line }) => h("li", {}, line.time ? h("time", { datetime: new Date(1000 * line.time).toISOString() }, moment(line.time)) : h("time", {}, "–"), h("span", {}, words(line))));
    const more = this.events.length > this.shown ? h("button", { type: "button", class: "more", on: { click: () => { this.shown *= 5; this.show(); } } }, "Show earlier events") : null;
    return fill(box, parts, h("div", { class: "events", tabindex: 0, role: "region", "aria-labelledby": "events-title" }, h("ol", {}, rows)), more);
  }
}

/** What a line of the history says. */
export function words(line) {
  if ("cause" in line) return `round ${line.round} begins at step ${count(line.first_step)}: ${line.cause}`;
  if ("paused_seconds" in line) return `round ${line.round} steps, after ${clock(line.paused_seconds)}`;
  if ("repeated" in line) return `${many(line.repeated, "record")} must be computed once more in round ${line.round}`;
  if ("checkpoint" in line) return line.error ? `no checkpoint at step ${count(line.checkpoint)}: ${line.error}` : `checkpoint at step ${count(line.checkpoint)}, ${bytes(line.bytes)} in ${clock(line.seconds)}`;
  if ("notice" in line) return line.notice;
  if ("skipped" in line) return `${many(line.skipped, "record")} left out: ${line.file}, record ${count(line.first)}: ${line.error}`;
  if ("epoch_end" in line) return `epoch ${line.epoch_end + 1} ends at step ${count(line.step)}${named(line.figures)}${line.stopped ? `; ${line.stopped}` : ""}`;
  if ("evaluation" in line) return `evaluated${line.evaluation ? ` at step ${count(line.evaluation)}` : ""}${named(line.figures)}`;
  if ("tasks" in line) return `${many(line.tasks.length, "task")} done, ${many(line.records, "record")}`;
  if ("target" in line) return `${many(line.target, "worker")} wanted from now on`;
  if ("restart" in line) return `coordinator ${line.restart + 1} takes over`;
  const { time, ...rest } = line;
  return JSON.stringify(rest);
}

const named = (figures) => {
  const told = Object.entries(figures ?? {}).sort(([one], [other]) => key(one).localeCompare(key(other)));
  const parts = told.map(([name, value]) => `${name} ${figure(value)}`);
  return parts.length ? `: ${parts.join(", ")}` : "";
};

// Settings.

export function showSpec(spec) {
  const groups = spec.groups.map((group) => {
    const given = group.settings.filter((each) => each.given);
    const usual = group.settings.filter((each) => !each.given);
    return h(
      "div",
      { class: "group" },
      h("h3", {}, group.title),
      given.length ? settings(given) : h("p", { class: "empty" }, "as usual"),
      usual.length ? h("details", {}, h("summary", {}, `${many(usual.length, "setting")} as usual`), settings(usual)) : null,
    );
  });
  fill(byId("spec"), panel("spec", "Settings", "those that were given; point at one for what it means"), h("div", { class: "groups" }, groups));
}

const settings = (fields) => h("dl", { class: "settings" }, fields.map((each) => h("div", { title: each.help }, h("dt", {}, each.name), h("dd", {}, each.value === null || each.value === "" ? "–" : String(each.value)))));
