// The page: asks the API for what there is, listens to what changes, and says honestly when it hears nothing.

import { Refused, get, stream, takeToken } from "./api.js";
import { lock, toast, wireControls, wireTheme } from "./controls.js";
import { Curves } from "./curves.js";
import { byId, fill, h, say } from "./dom.js";
import { clock } from "./format.js";
import { ENDED, fraction, verdict, where } from "./health.js";
import { Events, showData, showEvaluations, showFigures, showGoodput, showSpec } from "./panels.js";
import { Rounds } from "./rounds.js";
import { Workers } from "./workers.js";

const ICONS = { ok: "ok", busy: "busy", warn: "warn", bad: "bad", idle: "idle" };

class Page {
  constructor() {
    this.status = null;
    this.workers = { workers: [], median_compute_seconds: 0 };
    this.lost = false;
    this.curves = null;
    wireTheme(() => this.curves?.repaint());
    wireControls(() => this.status);
  }

  async run() {
    for (let wait = 500; ; wait = Math.min(2 * wait, 5000)) {
      try {
        this.job = await get("job");
        break;
      } catch (error) {
        if (error instanceof Refused && error.status < 500) throw error;
        this.disconnected(error, wait);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
    say(byId("name"), this.job.name);
    say(byId("kind"), this.job.kind);
    byId("name").title = this.job.name;
    document.body.dataset.kind = this.job.kind;
    byId("up").hidden = !/\/runs\/[^/]+\/$/.test(location.pathname);
    byId("link").title = this.job.source ? `recorded in ${this.job.source}` : "";
    this.curves = new Curves(this.job);
    this.rounds = new Rounds();
    this.fleet = new Workers();
    this.events = new Events();
    await this.loadAll();
    byId("content").hidden = false;
    await stream(this.serial, {
      up: () => this.connected(),
      down: (error, wait) => this.disconnected(error, wait),
      message: (event, data) => this.hear(event, data),
    });
    this.over();
  }

  async loadAll() {
    const [spec, events, rounds, figures, status, workers] = await Promise.all([get("spec"), get("events"), get("rounds"), get("figures"), get("status"), get("workers"), this.curves.load()]);
    this.serial = this.job.serial;
    showSpec(spec);
    this.events.clear();
    this.events.add(events.events);
    this.workers = workers;
    this.take(rounds.rounds, figures.figures);
    this.fleet.show(workers);
    const stepping = status.workers.filter((each) => each.rank >= 0).length;
    const states = {};
    for (const each of status.workers) states[each.state] = (states[each.state] ?? 0) + 1;
    this.hear("status", { ...status, worker_states: states, workers_in_round: stepping });
  }

  async hear(event, data) {
    if (event === "status") this.show(data);
    else if (event === "workers") this.fleet.show((this.workers = data));
    else if (event === "steps") this.curves.append(data);
    else if (event === "events") this.happened(data);
    else if (event === "reset") await this.loadAll();
  }

  happened(events) {
    this.events.add(events);
    const lines = events.map((each) => each.line);
    for (const line of lines) if ("first_step" in line) this.curves.cut(line.first_step);
    const rounds = lines.some((line) => "round" in line);
    const figures = lines.some((line) => "figures" in line);
    if (rounds || figures) this.refresh();
  }

  /** At most one request of a kind under way; what comes in the meantime is asked for after it. */
  async refresh() {
    if (this.refreshing) {
      this.again = true;
      return;
    }
    this.refreshing = true;
    try {
      const [rounds, figures] = await Promise.all([get("rounds"), get("figures")]);
      this.take(rounds.rounds, figures.figures);
    } catch {
      // the stream will say that the connection is lost, and the next event asks again
    }
    this.refreshing = false;
    if (this.again) {
      this.again = false;
      setTimeout(() => this.refresh(), 300);
    }
  }

  take(rounds, figures) {
    this.roundsTold = rounds;
    this.curves.setRounds(rounds);
    this.curves.setFigures(figures);
    this.showRounds();
    showEvaluations(figures, this.job);
  }

  showRounds() {
    this.rounds.show(this.roundsTold, this.curves.newest.time, this.status?.phase === "training");
  }

  show(status) {
    const before = this.status;
    this.status = status;
    this.fleet.ended = ENDED.includes(status.phase);
    document.body.toggleAttribute("data-ended", this.fleet.ended || Boolean(this.job.source));
    document.body.toggleAttribute("data-without-logs", !this.job.logs);
    this.say();
    showFigures(status);
    showData(status, this.job);
    showGoodput(status);
    const busy = ENDED.includes(status.phase);
    byId("controls").hidden = !this.job.may_write || busy;
    byId("readonly").hidden = this.job.may_write || busy || Boolean(this.job.source);
    byId("checkpoint").hidden = status.job !== "train";
    const trains = status.job === "train";
    byId("rounds").hidden = byId("goodput").hidden = !trains;
    const newest = this.curves.newest.time;
    if (trains && (before?.phase !== status.phase || newest - (this.lanesAt ?? 0) > 2)) {
      this.lanesAt = newest;
      this.showRounds();
    }
  }

  say() {
    const { status } = this;
    if (!status) return;
    const found = verdict(status, this.workers, this.lost);
    found.notes.push(...this.job.notes.map((text) => ({ level: "warn", text })));
    const changed = document.body.dataset.level !== found.level || byId("word").textContent !== found.word;
    document.body.dataset.level = found.level;
    say(byId("word"), found.word);
    say(byId("text"), found.text);
    say(byId("where"), where(status));
    if (changed) {
      say(byId("announce"), `${found.word}. ${found.text}`);
      byId("icon").href = `assets/icons/${ICONS[found.level]}.svg`;
    }
    const done = 100 * fraction(status);
    document.title = `${ENDED.includes(status.phase) || this.lost ? found.word : `${done.toFixed(0)} %`} · ${this.job.name}`;
    byId("progress").setAttribute("aria-valuenow", done.toFixed(0));
    byId("progress").firstElementChild.style.width = `${done}%`;
    const notes = found.notes.map((note) => h("li", { "data-level": note.level }, note.text));
    byId("notes").hidden = notes.length === 0;
    if (byId("notes").textContent !== found.notes.map((note) => note.text).join("")) fill(byId("notes"), notes);
  }

  connected() {
    const [state, text] = this.job.source ? ["recorded", this.job.ended ? "recorded" : "recorded, followed"] : ["live", "live"];
    byId("link").dataset.state = state;
    say(byId("link"), text);
    if (!this.lost) return;
    this.lost = false;
    get("job").then((job) => {
      if (job.name !== this.job.name) location.reload();
    }).catch(() => {});
    this.say();
  }

  disconnected(error, wait) {
    this.lost = true;
    byId("link").dataset.state = "lost";
    say(byId("link"), `connection lost, retrying in ${clock(wait / 1000)}`);
    if (this.status) this.say();
    else {
      document.body.dataset.level = "bad";
      say(byId("word"), "No connection");
      say(byId("text"), "the coordinator does not answer; retrying");
    }
  }

  over() {
    byId("link").dataset.state = "ended";
    say(byId("link"), this.job.source ? "recorded" : "ended");
    byId("controls").hidden = true;
    this.curves.rest();
    this.showRounds();
    if (!this.job.ended) toast("The job has ended; this page keeps what it was told last.", "idle");
  }
}

takeToken();
addEventListener("hashchange", () => takeToken() && location.reload());
new Page().run().catch((error) => {
  if (!(error instanceof Refused)) throw error;
  lock(error);
  say(byId("link"), "");
});
