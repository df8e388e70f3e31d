// What those who hold the token can do: scale, checkpoint, stop; and the choice of colours.

import { giveToken, post } from "./api.js";
import { byId, fill, h, say } from "./dom.js";
import { many } from "./format.js";

const TOAST_MS = 6000;

export function toast(text, level = "ok") {
  const box = byId("toasts") ?? document.body.appendChild(h("div", { id: "toasts", role: "status" }));
  const note = h("p", { class: "toast", "data-level": level }, text);
  box.append(note);
  setTimeout(() => note.remove(), TOAST_MS);
}

async function ask(path, body, said) {
  try {
    await post(path, body);
    toast(said);
  } catch (error) {
    toast(error.message, "bad");
  }
}

function dialog(title, children, action, level = "") {
  const box = h("dialog", { "aria-labelledby": "dialog-title" });
  const form = h(
    "form",
    { method: "dialog", on: { submit: (event) => { event.preventDefault(); box.close(); action(); } } },
    h("h2", { id: "dialog-title" }, title),
    children,
    h("div", { class: "buttons" }, h("button", { type: "button", class: "quiet", on: { click: () => box.close() } }, "Cancel"), h("button", { type: "submit", class: level || "main" }, title)),
  );
  fill(box, form);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

/** status(): the newest status. */
export function wireControls(status) {
  byId("scale").addEventListener("click", () => {
    const now = status().target_workers;
    const input = h("input", { id: "num-workers", type: "number", min: 1, max: 100000, step: 1, required: true, value: now, autofocus: true });
    const hint = h("p", {}, `${many(now, "worker")} ${now === 1 ? "is" : "are"} wanted now. New ones join, and surplus ones leave, without losing anything that is done.`);
    dialog("Scale", [hint, h("label", { for: "num-workers" }, "Workers"), input], () => {
      const wanted = input.valueAsNumber;
      ask("scale", { num_workers: wanted }, `${many(wanted, "worker")} wanted from now on`);
    });
  });
  byId("checkpoint").addEventListener("click", () => ask("checkpoint", {}, "A checkpoint is written after the step in progress"));
  byId("stop").addEventListener("click", () => {
    const text = status().job === "train"
      ? "All workers finish their step, one writes a checkpoint, and the job ends. The same command goes on from there."
      : "The job ends; what is done of it so far is not written.";
    dialog("Stop", h("p", {}, text), () => ask("stop", { reason: "stopped from the dashboard" }, "The job is being stopped"), "danger");
  });
}

/** Shows nothing but why, and a field for the token if that is what is missing. */
export function lock(error) {
  const wrong = error.status === 401;
  document.body.dataset.level = wrong ? "idle" : "bad";
  say(byId("word"), wrong ? "Locked" : "Refused");
  say(byId("text"), wrong ? "" : error.message);
  byId("content").hidden = true;
  byId("locked").hidden = !wrong;
  byId("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    giveToken(byId("token").value.trim());
    location.reload();
  });
}

const THEMES = [["", "◐", "as the system has them"], ["light", "☀", "light"], ["dark", "☾", "dark"]];

/** changed(): colours are others now. */
export function wireTheme(changed) {
  const button = byId("theme");
  const show = (name) => {
    const [, sign, words] = THEMES.find(([each]) => each === name) ?? THEMES[0];
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    button.textContent = sign;
    button.setAttribute("aria-label", `Colours: ${words}`);
    button.title = `Colours: ${words}`;
    changed();
  };
  let chosen = localStorage.getItem("edl-theme") ?? "";
  show(chosen);
  button.addEventListener("click", () => {
    chosen = THEMES[(THEMES.findIndex(([each]) => each === chosen) + 1) % THEMES.length][0];
    localStorage.setItem("edl-theme", chosen);
    show(chosen);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
