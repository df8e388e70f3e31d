"""Server-sent events: what has changed, to everybody who looks, at most a few times a second.

Nothing is queued for anybody. Each client knows the serial of the newest history line it has seen and is sent what came
after it; who reads slowly is sent more at once, and steps are merged to what a chart can show. So a client costs the
same memory however slow it is, and one that comes back says where it was (Last-Event-ID).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rendezvous.dashboard.job_view import JobView
from rendezvous.dashboard.record import curves
from rendezvous.dashboard.views import status_view, workers_view

TICK_SECONDS = 0.25
MANY_WORKERS, MANY_TICK_SECONDS = 100, 0.5  # with more workers, and their table at every other tick only
MAX_POINTS = 200  # of steps in one message
MAX_EVENTS = 500  # in one message
MAX_CLIENTS = 64
SEND_SECONDS = 20.0  # a client that takes nothing for so long is gone


class Hub:
    """Makes, while somebody looks, the messages that are the same for all.

    Attributes:
        status, workers: the newest, as JSON.
        clients: how many look.
    """

    def __init__(self, view: JobView) -> None:
        self._view = view
        self.status = self.workers = ""
        self.workers_made = 0  # how often
        self.clients = 0
        self._ticks, self._many = 0, False
        self._beat = asyncio.Event()
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def last(self) -> bool:
        """Whether nothing will change any more."""
        return self._view.ended.is_set() or self._closed.is_set()

    async def close(self) -> None:
        """Ends all streams."""
        self._closed.set()
        if self._task:
            await self._task

    def enter(self) -> None:
        """Somebody looks from now on."""
        self.clients += 1
        if self._task is None or self._task.done():
            self._make()
            self._task = asyncio.get_running_loop().create_task(self._run())

    def leave(self) -> None:
        """Somebody looks no longer."""
        self.clients -= 1

    async def news(self) -> None:
        """Returns at the next tick; at once when there will be none."""
        if not self.last:
            await self._beat.wait()

    async def _run(self) -> None:
        while self.clients and not self.last:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ending(), MANY_TICK_SECONDS if self._many else TICK_SECONDS)
            self._make()
            beat, self._beat = self._beat, asyncio.Event()
            beat.set()

    async def _ending(self) -> None:
        waits = [asyncio.ensure_future(each.wait()) for each in (self._view.ended, self._closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def _make(self) -> None:
        status = self._view.status()
        self.status = json.dumps(status_view(status))
        self._many = len(status.workers) > MANY_WORKERS
        if self._ticks % 2 == 0 or not self._many or self.last:
            self.workers, self.workers_made = json.dumps(workers_view(self._view, status)), self.workers_made + 1
        self._ticks += 1


def message(event: str, data: str, serial: int | None = None) -> bytes:
    """One server-sent event; `data` has no line ends."""
    number = f"id: {serial}\n" if serial is not None else ""
    return f"{number}event: {event}\ndata: {data}\n\n".encode()


async def messages(hub: Hub, view: JobView, serial: int) -> AsyncGenerator[bytes, None]:
    """Everything that a client that has seen the line `serial` is to be told, until the job has ended."""
    await view.loaded.wait()
    workers_made = 0
    yield b"retry: 1000\n\n"
    while True:
        last, record = hub.last, view.record
        yield message("status", hub.status)
        if hub.workers_made != workers_made:
            workers_made = hub.workers_made
            yield message("workers", hub.workers)
        for each in _lines_after(view, serial):
            yield each
        serial = record.serial
        if last:
            yield message("end", "{}")
            return
        await hub.news()


def _lines_after(view: JobView, serial: int) -> Iterator[bytes]:
    record = view.record
    if serial == record.serial:
        return
    found = record.since(serial)
    if serial > record.serial or found is None or len(found) > MAX_EVENTS:
        yield message("reset", "{}", record.serial)
        return
    if found:
        lines = ",".join(f'{{"serial": {number}, "line": {text}}}' for number, text in found)
        yield message("events", f"[{lines}]")
    points, _ = record.steps.points("serial", serial + 1, record.serial, MAX_POINTS)
    yield message("steps", json.dumps(curves(points)), record.serial)


class EventStream(Response):
    """The answer that goes on."""

    def __init__(self, hub: Hub, view: JobView, serial: int) -> None:
        super().__init__(media_type="text/event-stream")
        self.headers["cache-control"] = "no-store, no-transform"
        self.headers["x-accel-buffering"] = "no"
        del self.headers["content-length"]
        self._hub, self._view, self._serial = hub, view, serial

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._hub.enter()
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hub.leave()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with contextlib.aclosing(messages(self._hub, self._view, self._serial)) as found:
            async for data in found:
                body = {"type": "http.response.body", "body": data, "more_body": True}
                await asyncio.wait_for(send(body), SEND_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def serial_of(request: Request) -> int:
    """What a client has seen: Last-Event-ID, or `after` in the query; -1: it wants everything anew."""
    text = request.headers.get("last-event-id") or request.query_params.get("after") or "-1"
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
