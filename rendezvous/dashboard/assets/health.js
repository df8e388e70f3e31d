// Whether all is well, in one word, one sentence and a colour. Pure functions of what the API tells.

import { clock, count, figure, many } from "./format.js";

export const ENDED = ["done", "failed", "stopped"];

const WORDS = {
  starting: "Starting",
  training: "Training",
  reforming: "Reforming",
  exporting: "Exporting",
  working: "Working",
  stopping: "Stopping",
  done: "Done",
  failed: "Failed",
  stopped: "Stopped",
  unfinished: "Not finished",
};
const LEVELS = { training: "ok", working: "ok", done: "ok", failed: "bad", stopped: "idle", unfinished: "idle" };

/** {level: ok | busy | warn | bad | idle, word, text, notes: [{level, text}]} */
export function verdict(status, workers, lost) {
  const notes = ENDED.includes(status.phase) ? [] : attention(status, workers);
  let level = LEVELS[status.phase] ?? "busy";
  if (level === "ok" && notes.some((note) => note.level === "warn")) level = "warn";
  if (lost) {
    return { level: "bad", word: "Connection lost", text: "retrying; what you see is the last that was heard", notes };
  }
  return { level, word: WORDS[status.phase] ?? status.phase, text: sentence(status), notes };
}

function sentence(status) {
  if (ENDED.includes(status.phase)) return status.message || (status.phase === "done" ? "the result is written" : "");
  const states = status.worker_states;
  const ready = (states.ready ?? 0) + (states.training ?? 0);
  const coming = Object.entries(states).filter(([state]) => !["training", "working", "ready"].includes(state));
  const rest = coming.map(([state, number]) => `${count(number)} ${state}`).join(", ");
  switch (status.phase) {
    case "training":
      return [`${count(status.workers_in_round)} of ${many(status.target_workers, "worker")} stepping`, rest].filter(Boolean).join(", ");
    case "working":
      return [`${many(states.working ?? 0, "worker")} at work`, rest].filter(Boolean).join(", ");
    case "starting":
      return status.message || `${count(ready)} of ${many(status.target_workers, "worker")} ready`;
    case "unfinished":
      return status.message;
    case "stopping":
      return "saving a checkpoint";
    case "exporting":
      return status.message || "writing the trained model";
    default:
      return [status.message || "forming the next round", rest].filter(Boolean).join("; ");
  }
}

/** What is not as it should be although the job goes on. */
function attention(status, workers) {
  const notes = [];
  const warn = (text) => notes.push({ level: "warn", text });
  if (status.checkpoint_error) warn(`No checkpoint could be written: ${status.checkpoint_error}`);
  const pending = workers.workers.filter((each) => each.state === "pending");
  if (pending.length) {
    const why = pending[0].waits_for ? `: ${pending[0].waits_for}` : "";
    warn(`${pending.length === 1 ? `Worker ${pending[0].id} is` : `${many(pending.length, "worker")} are`} pending${why}`);
  }
  const slow = workers.workers.filter((each) => each.straggler);
  if (slow.length) {
    const worst = slow.reduce((one, other) => (other.compute_seconds > one.compute_seconds ? other : one));
    const times = figure(Number((worst.compute_seconds / workers.median_compute_seconds).toPrecision(2)));
    const who = slow.length === 1 ? `Worker ${worst.id} takes` : `${many(slow.length, "worker")} are slow; worker ${worst.id} takes`;
    warn(`${who} ${times} times as long as the median for its part of a step (${clock(worst.compute_seconds)})`);
  }
  if (status.skipped_records) warn(`${many(status.skipped_records, "bad record")} left out`);
  if (status.coordinator_restarts) {
    notes.push({ level: "info", text: `The coordinator was restarted ${many(status.coordinator_restarts, "time")}; the workers trained on` });
  }
  return notes;
}

/** How much of the job is done, from 0 to 1. */
export function fraction(status) {
  if (status.phase === "done") return 1;
  if (status.job !== "train") return status.records && status.work ? status.work.records_done / status.records : 0;
  if (status.total_steps) return Math.min(1, status.position.step / status.total_steps);
  const epochs = status.position.epoch + (status.records ? status.position.offset / status.records : 0);
  return Math.min(1, epochs / Math.max(1, status.num_epochs));
}

/** Where the job stands, in one line. */
export function where(status) {
  const parts = [];
  if (status.job === "train") {
    const total = status.total_steps ? ` / ${count(status.total_steps)}` : "";
    parts.push(`epoch ${Math.min(status.position.epoch + 1, Math.max(1, status.num_epochs))} / ${Math.max(1, status.num_epochs)}`);
    parts.push(`step ${count(status.position.step)}${total}`);
  } else if (status.work) {
    parts.push(`${count(status.work.records_done)} / ${many(status.records, "record")}`);
  }
  if (status.seconds_left && !ENDED.includes(status.phase)) parts.push(`${clock(status.seconds_left)} left`);
  return parts.join(" · ");
}
