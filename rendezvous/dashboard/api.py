"""The JSON API: translates between HTTP and a job; decides nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from edl_allreduce.errors import UsageError
from rendezvous.dashboard import views
from rendezvous.dashboard.access import DOCUMENT
from rendezvous.dashboard.job_view import Controls, JobView
from rendezvous.dashboard.messages import finite, to_plain
from rendezvous.dashboard.metrics import CONTENT_TYPE_LATEST, exposition
from rendezvous.dashboard.openapi import document
from rendezvous.dashboard.problems import body_of, handle, number_of
from rendezvous.dashboard.stream import MAX_CLIENTS, EventStream, Hub, serial_of

ASSETS = Path(__file__).parent / "assets"
MAX_WORKERS = 100_000
FOREVER = 1e15  # more than any step, any time in seconds since 1970, and any serial
POINTS, MAX_POINTS = 800, 5000
LINES, MAX_LINES = 200, 2000
ROUNDS, EVENTS = 500, 500


class Api:
    """The endpoints of one job.

    Args:
        view: the job.
        hub: of its streams.
    """

    def __init__(self, view: JobView, hub: Hub) -> None:
        self._view, self._hub = view, hub

    def routes(self) -> list[Route]:
        """Where everything is."""
        reads = {
            "job": self.job,
            "status": self.status,
            "workers": self.workers,
            "workers/{worker:int}/log": self.log,
            "coordinator/log": self.log,
            "history": self.history,
            "activity": self.activity,
            "rounds": self.rounds,
            "events": self.events,
            "figures": self.figures,
            "goodput": self.goodput,
            "spec": self.spec,
            "stream": self.stream,
        }
        writes = {"scale": self.scale, "checkpoint": self.checkpoint, "stop": self.stop}
        return [
            *(Route(f"/api/{path}", endpoint, methods=["GET"]) for path, endpoint in reads.items()),
            *(Route(f"/api/{path}", endpoint, methods=["POST"]) for path, endpoint in writes.items()),
        ]

    async def job(self, request: Request) -> Response:
        await self._view.loaded.wait()
        return JSONResponse(views.job_view(self._view, request.scope["edl.writes"]))

    async def status(self, request: Request) -> Response:
        return JSONResponse(to_plain(self._view.status()))

    async def workers(self, request: Request) -> Response:
        return JSONResponse(views.workers_view(self._view, self._view.status()))

    async def log(self, request: Request) -> Response:
        lines = int(number_of(request, "lines", LINES, 1, MAX_LINES))
        worker = request.path_params.get("worker")
        if worker is not None and worker > 1 << 31:
            raise HTTPException(404, "there is no such worker")
        tail = await self._view.log(worker, lines)
        return JSONResponse(dataclasses.asdict(tail))

    async def history(self, request: Request) -> Response:
        by = request.query_params.get("by") or "step"
        if by not in ("step", "time"):
            raise HTTPException(400, f"by: expected step or time, got {by[:100]!r}")
        low, high, most = self._range(request)
        await self._view.loaded.wait()
        return JSONResponse(views.history_view(self._view, by, low, high, most))

    async def activity(self, request: Request) -> Response:
        return JSONResponse(views.activity_view(self._view, *self._range(request)))

    async def rounds(self, request: Request) -> Response:
        after = number_of(request, "after", 0, 0, FOREVER)
        limit = int(number_of(request, "limit", ROUNDS, 1, FOREVER))
        await self._view.loaded.wait()
        found = [views.round_view(each) for each in self._view.record.rounds if each.number > after]
        return JSONResponse({"rounds": found[-limit:], "total": len(found)})

    async def events(self, request: Request) -> Response:
        after = int(number_of(request, "after", 0, 0, FOREVER))
        limit = int(number_of(request, "limit", EVENTS, 1, FOREVER))
        await self._view.loaded.wait()
        found = [each for each in self._view.record.events if each[0] > after]
        events = [{"serial": serial, "line": json.loads(text)} for serial, text in found[-limit:]]
        return JSONResponse({"events": events, "total": len(found), "serial": self._view.record.serial})

    async def figures(self, request: Request) -> Response:
        await self._view.loaded.wait()
        found = [dataclasses.asdict(each) for each in self._view.record.figures]
        for each in found:
            each["values"] = {name: finite(value) for name, value in each["values"].items()}
        return JSONResponse({"figures": found})

    async def goodput(self, request: Request) -> Response:
        return JSONResponse(views.goodput_view(self._view.status()))

    async def spec(self, request: Request) -> Response:
        return JSONResponse(views.spec_view(self._view.spec))

    async def stream(self, request: Request) -> Response:
        if self._hub.clients >= MAX_CLIENTS:
            raise HTTPException(503, f"{MAX_CLIENTS} pages look at this job already", {"retry-after": "10"})
        return EventStream(self._hub, self._view, serial_of(request))

    async def scale(self, request: Request) -> Response:
        wanted = (await body_of(request, ("num_workers",))).get("num_workers")
        if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= MAX_WORKERS:
            raise HTTPException(422, f"num_workers: expected a whole number from 1 to {MAX_WORKERS}")
        self._controls().scale(wanted)
        return JSONResponse({"num_workers": wanted}, 202)

    async def checkpoint(self, request: Request) -> Response:
        await body_of(request, ())
        try:
            self._controls().checkpoint()
        except UsageError as error:
            raise HTTPException(409, str(error)) from None
        return JSONResponse({}, 202)

    async def stop(self, request: Request) -> Response:
        reason = (await body_of(request, ("reason",))).get("reason", "")
        if not isinstance(reason, str) or len(reason) > 500:
            raise HTTPException(422, "reason: expected a text of at most 500 characters")
        self._controls().stop(" ".join(reason.split()) or "stopped by request")
        return JSONResponse({}, 202)

    def _controls(self) -> Controls:
        if self._view.controls is None or self._view.ended.is_set():
            raise HTTPException(409, "the job has ended")
        return self._view.controls

    def _range(self, request: Request) -> tuple[float, float, int]:
        low = number_of(request, "from", 0, 0, FOREVER)
        high = number_of(request, "to", FOREVER, 0, FOREVER)
        return low, high, int(number_of(request, "points", POINTS, 2, MAX_POINTS))


def make_app(view: JobView, hub: Hub) -> Starlette:
    """Page, API and metrics of one job; who may ask is the business of `access.Guard`."""

    async def page(request: Request) -> Response:
        return FileResponse(ASSETS / "index.html", headers={"cache-control": "no-cache"})

    async def openapi(request: Request) -> Response:
        return JSONResponse(document())

    async def metrics(request: Request) -> Response:
        return Response(exposition(view), media_type=CONTENT_TYPE_LATEST)

    handlers: Any = {HTTPException: handle}
    return Starlette(
        routes=[
            Route("/", page),
            Route(DOCUMENT, openapi),
            Route("/metrics", metrics),
            *Api(view, hub).routes(),
            Mount("/assets", StaticFiles(directory=ASSETS)),
        ],
        exception_handlers=handlers,
    )
