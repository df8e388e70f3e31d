"""Opens a job's dashboard where its page will find it again, and says where that is."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from edl_allreduce.cluster import DASHBOARD_PORT, service_name
from edl_allreduce.errors import EdlError
from edl_allreduce.job_folder import JobFolder, write_whole
from rendezvous.dashboard import serve

if TYPE_CHECKING:
    from rendezvous.coordinator import Coordinator
    from rendezvous.dashboard.server import Dashboard
    from rendezvous.place import Place

log = logging.getLogger(__name__)


async def open_dashboard(coordinator: Coordinator, place: Place, token: str) -> Dashboard | None:
    """Serves the dashboard in a pod on the port of the job's Service, else on the port it had before; None: it cannot.

    A job does not end over that.
    """
    try:
        await asyncio.to_thread(__import__, "rendezvous.dashboard.site")  # a web framework takes its time
        if place.tls:
            return await _in_pod(coordinator, place, token)
        dashboard = await _here(coordinator, place, token)
        write_whole(place.folder.dashboard, url_of(place.address, dashboard.port, token), mode=0o600)
    except (EdlError, ImportError, OSError) as error:
        log.warning("there is no dashboard: %s", error)
        return None
    return dashboard


async def _in_pod(coordinator: Coordinator, place: Place, token: str) -> Dashboard:
    job = coordinator.site.name
    service = service_name(job, os.environ.get("POD_NAMESPACE", ""))
    return await serve(
        coordinator,
        place.logs,
        token=token,
        address=place.address,
        port=DASHBOARD_PORT,
        tls=place.tls,
        hosts=(job, service, service.removesuffix(".svc"), f"{service}.cluster.local"),
        open_to_readers=place.open_to_readers,
    )


async def _here(coordinator: Coordinator, place: Place, token: str) -> Dashboard:
    serve_on = functools.partial(
        serve, coordinator, place.logs, token=token, address=place.address, open_to_readers=place.open_to_readers
    )
    port = port_before(place.folder)
    try:
        return await serve_on(port=port)
    except EdlError:
        if not port:
            raise
    return await serve_on()  # somebody else has taken it


def port_before(folder: JobFolder) -> int:
    """The port on which pages of an earlier coordinator look; 0: any."""
    try:
        return urlsplit(folder.dashboard.read_text(encoding="utf-8")).port or 0
    except (OSError, ValueError):
        return 0


def url_of(address: str, port: int, token: str) -> str:
    """What a browser of this machine is given."""
    return f"http://{address}:{port}/#token={quote(token, safe='')}"
