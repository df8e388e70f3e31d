"""Serves a dashboard in the event loop of whoever has one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from edl_allreduce.errors import EdlError
from rendezvous.dashboard.access import Guard, Rules

if TYPE_CHECKING:
    from rendezvous.dashboard.site import Site
    from rendezvous.tls import Tls

MAX_CONNECTIONS = 512
CLOSE_SECONDS = 2  # for answers that are under way


class Server(uvicorn.Server):
    """Leaves signals to the program that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Dashboard:
    """A dashboard that is served.

    Attributes:
        port: where.
    """

    def __init__(self, site: Site, server: Server, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._site, self._server = site, server
        self._serving = asyncio.get_running_loop().create_task(server.serve([listener]))

    @property
    def clients(self) -> int:
        """How many pages look."""
        return self._site.clients

    async def close(self) -> None:
        """Tells all pages how the job stands, then ends; returns within seconds whoever is connected."""
        await self._site.end_streams()
        self._server.should_exit = True
        await self._serving
        await self._site.close()


async def start(site: Site, rules: Rules, address: str, port: int = 0, tls: Tls | None = None) -> Dashboard:
    """See `rendezvous.dashboard.serve`."""
    try:
        listener = socket.create_server((address, port), family=_family(address))
    except OSError as error:
        await site.close()
        raise EdlError(f"{address}:{port} cannot be listened on: {error.strerror}") from error
    config = uvicorn.Config(
        Guard(site.app, rules),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    return Dashboard(site, Server(config), listener)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
