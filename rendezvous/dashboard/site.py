"""What a server serves: the page and the API of one job, or of several recorded runs that can be compared."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from edl_allreduce.errors import EdlError
from rendezvous.dashboard.access import DOCUMENT, RUNS_PATH
from rendezvous.dashboard.api import ASSETS, make_app
from rendezvous.dashboard.comparison import run_view
from rendezvous.dashboard.job_view import JobView
from rendezvous.dashboard.openapi import runs_document
from rendezvous.dashboard.problems import problem
from rendezvous.dashboard.recorded import RecordedJob
from rendezvous.dashboard.stream import Hub


class Site(Protocol):
    """What is served."""

    app: ASGIApp

    @property
    def clients(self) -> int:
        """How many pages look."""

    async def end_streams(self) -> None:
        """Tells all pages how it stands for the last time."""

    async def close(self) -> None:
        """Nothing is learnt any more."""


class JobSite:
    """A job."""

    def __init__(self, job: JobView) -> None:
        self._job, self._hub = job, Hub(job)
        self.app: ASGIApp = make_app(job, self._hub)

    @property
    def clients(self) -> int:
        return self._hub.clients

    async def end_streams(self) -> None:
        await self._hub.close()

    async def close(self) -> None:
        await self._job.close()


class RunSite(JobSite):
    """A recorded run, which is read when somebody first asks for it."""

    def __init__(self, job: RecordedJob) -> None:
        super().__init__(job)
        self.job, inner = job, self.app

        async def opened(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await job.open()
            except EdlError as error:
                await problem(502, str(error))(scope, receive, send)
            else:
                await inner(scope, receive, send)

        self.app = opened


class RunsSite:
    """Recorded runs, and a page that compares them. Each has a page of its own, and the API of a job below that."""

    def __init__(self, jobs: Sequence[RecordedJob]) -> None:
        self._runs = dict(zip(identifiers([each.name for each in jobs]), map(RunSite, jobs), strict=True))

        async def page(request: Request) -> Response:
            return FileResponse(ASSETS / "compare.html", headers={"cache-control": "no-cache"})

        async def openapi(request: Request) -> Response:
            return JSONResponse(runs_document())

        self.app: ASGIApp = Starlette(
            routes=[
                Route("/", page),
                Route(DOCUMENT, openapi),
                Route("/api/runs", self._list, methods=["GET"]),
                Mount("/assets", StaticFiles(directory=ASSETS)),
                *(Mount(f"{RUNS_PATH}/{id}", site.app) for id, site in self._runs.items()),
            ]
        )

    @property
    def clients(self) -> int:
        return sum(each.clients for each in self._runs.values())

    async def end_streams(self) -> None:
        await asyncio.gather(*(each.end_streams() for each in self._runs.values()))

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._runs.values()))

    async def _list(self, request: Request) -> Response:
        views = await asyncio.gather(*(run_view(id, each.job) for id, each in self._runs.items()))
        return JSONResponse({"runs": views})


def identifiers(names: Sequence[str]) -> list[str]:
    """For each run what it is called in paths."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "-", name).strip(".") or "run"
        number = 1
        while (id := plain if number == 1 else f"{plain}-{number}") in found:
            number += 1
        found.append(id)
    return found
