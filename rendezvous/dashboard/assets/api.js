// The dashboard's only source: the JSON API next to this page, by relative URLs (the page may stand behind a proxy).

const KEY = `edl-token:${location.pathname.replace(/runs\/[^/]+\/$/, "")}`; // the pages of several runs share it

/** Takes the token out of the address bar, where it would be copied and kept in the history; says whether one was there. */
export function takeToken() {
  const found = /(?:^#|&)token=([^&]+)/.exec(location.hash);
  if (found) {
    sessionStorage.setItem(KEY, decodeURIComponent(found[1]));
    history.replaceState(null, "", location.pathname + location.search);
  }
  return Boolean(found);
}

/** Keeps a token that somebody has typed. */
export function giveToken(token) {
  sessionStorage.setItem(KEY, token);
}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { "X-EDL-Token": token, ...more } : more;
}

async function checked(answer) {
  if (answer.ok) return answer;
  let detail = `${answer.status} ${answer.statusText}`;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch {
    // a proxy's answer, not ours
  }
  throw new Refused(answer.status, detail);
}

/** GET api/PATH; of a run: that of the run below this page. */
export async function get(path, query = {}, signal = undefined, run = "") {
  const search = new URLSearchParams(query).toString();
  const url = `${run ? `runs/${run}/` : ""}api/${path}${search ? `?${search}` : ""}`;
  return (await checked(await fetch(url, { headers: headers(), cache: "no-store", signal }))).json();
}

/** POST api/PATH. */
export async function post(path, body = {}) {
  const request = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body) };
  return (await checked(await fetch(`api/${path}`, request))).json();
}

const SILENCE_MS = 5000; // the server says something several times a second
const RETRY_MS = [300, 3000];

const HIDDEN_MS = 60000;

/** Lets go of the connection when nobody has looked for a while: browsers hold few to one server. */
function whenHidden(act) {
  let timer = null;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(act, HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}

function seen() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

/**
 * The server's events, for ever: connects anew when the connection breaks, and says where it was.
 * EventSource could do all this but send the token's header.
 *
 * on.message(event, data), on.up(), on.down(error, milliseconds until the next try)
 */
export async function stream(serial, on) {
  let wait = RETRY_MS[0];
  for (;;) {
    const abort = new AbortController();
    let watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    let [problem, rests] = [null, false];
    const look = whenHidden(() => {
      rests = true;
      abort.abort();
    });
    try {
      const answer = await checked(
        await fetch("api/stream", {
          headers: headers({ "Last-Event-ID": String(serial), Accept: "text/event-stream" }),
          cache: "no-store",
          signal: abort.signal,
        }),
      );
      on.up();
      wait = RETRY_MS[0];
      for await (const { event, data, id } of events(answer.body)) {
        clearTimeout(watchdog);
        watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
        if (event === "end") return;
        await on.message(event, JSON.parse(data));
        if (id) serial = Number(id);
      }
    } catch (error) {
      problem = error;
    } finally {
      clearTimeout(watchdog);
      look();
      abort.abort();
    }
    if (rests) {
      await seen();
      continue;
    }
    if (problem instanceof Refused && problem.status < 500) throw problem;
    on.down(problem, wait);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(2 * wait, RETRY_MS[1]);
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]);
      const fields = Object.fromEntries(lines);
      if (fields.event) yield fields;
    }
  }
}
