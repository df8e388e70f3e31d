"""A pretended job with its dashboard in a thread of its own, so that tests ask it as any client does."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rendezvous.dashboard.server import Dashboard
from tests.dashboards import BEAT_SECONDS, TOKEN, Pretence, pretended


class Served:
    """A pretended job in a thread of its own, and HTTP with it.

    Attributes:
        beats: whether the workers' heartbeats go on.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.beats = True
        self.job: Pretence
        self.dashboard: Dashboard
        self._ready, self._over = threading.Event(), threading.Event()
        self._settings = settings
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(folder)))
        self._thread.start()
        assert self._ready.wait(20)

    async def _serve(self, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        async with pretended(folder, **self._settings) as (self.job, self.dashboard):
            self._ready.set()
            while not self._over.is_set():
                if self.beats:
                    self.job.beat(time.monotonic())
                await asyncio.sleep(BEAT_SECONDS if self._settings.get("workers", 0) > 100 else BEAT_SECONDS / 5)

    def close(self) -> None:
        self._over.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def do(self, act: Callable[[], Any]) -> Any:
        """Calls something in the coordinator's thread."""

        async def call() -> Any:
            return act()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard.port}"

    def ask(
        self, path: str, method: str = "GET", body: Any = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.dashboard.port, timeout=10)
        given = {"X-EDL-Token": token} if token else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given |= {"Content-Type": "application/json"} if data is not None else {}
        connection.request(method, path, data, given | {name.replace("_", "-"): each for name, each in headers.items()})
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def get(self, path: str, **headers: str) -> Any:
        status, _, data = self.ask(path, **headers)
        assert status == 200, data
        return json.loads(data)

    @contextmanager
    def stream(self, after: int = -1) -> Iterator[Iterator[tuple[str, Any, int | None]]]:
        """Event, data, id."""
        connection = http.client.HTTPConnection("127.0.0.1", self.dashboard.port, timeout=10)
        connection.request("GET", "/api/stream", headers={"X-EDL-Token": TOKEN, "Last-Event-ID": str(after)})
        answer = connection.getresponse()
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")

        def events() -> Iterator[tuple[str, Any, int | None]]:
            fields: dict[str, str] = {}
            while line := answer.readline().decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "event" in fields:
                    yield fields["event"], json.loads(fields["data"]), int(fields["id"]) if "id" in fields else None
                    fields = {}

        try:
            yield events()
        finally:
            connection.close()


def until(done: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end
        time.sleep(0.02)  # the other side is another thread, seen over HTTP
    return found
