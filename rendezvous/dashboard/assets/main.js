import { get, stream, takeToken } from "./api.js";

takeToken();
const page = document.getElementById("page");

function show(text) {
  page.textContent = text;
}

async function start() {
  const job = await get("job");
  document.title = `${job.name} · edl`;
  await stream(job.serial, {
    up: () => {},
    down: (error, wait) => show(`connection lost, retrying in ${wait} ms`),
    message: (event, data) => {
      if (event === "status") {
        show(`${job.name}: ${data.phase} · step ${data.position.step} · loss ${data.loss} · ${data.workers_in_round} workers`);
      }
    },
  });
}

start().catch((error) => show(error.message));
