"""A job's dashboard, served by its coordinator: a page, a JSON API, Prometheus metrics. And that of recorded runs.

Importing this loads no web framework; `serve` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rendezvous.coordinator import Coordinator
    from rendezvous.dashboard.server import Dashboard
    from rendezvous.logs import Logs
    from rendezvous.tls import Tls


async def serve(
    coordinator: Coordinator,
    logs: Logs,
    *,
    token: str,
    address: str,
    port: int = 0,
    tls: Tls | None = None,
    hosts: Iterable[str] = (),
    open_to_readers: bool = False,
) -> Dashboard:
    """Serves the dashboard of a job until it is closed.

    Args:
        logs: of the job.
        token: who holds it may read and steer the job.
        address, port: where to listen; port 0: any that is free.
        tls: None: plain HTTP, for this machine only.
        hosts: names by which this server is called, besides localhost and IP addresses.
        open_to_readers: whether the job may be read without the token.

    Raises:
        EdlError: the port is taken, or the address is not of this machine.
    """
    from rendezvous.dashboard.access import Rules
    from rendezvous.dashboard.live import LiveJob
    from rendezvous.dashboard.server import start
    from rendezvous.dashboard.site import JobSite

    names = frozenset(name.lower().rstrip(".") for name in hosts)
    rules = Rules(token, names, proxied=tls is not None, open_to_readers=open_to_readers)
    return await start(JobSite(LiveJob(coordinator, logs)), rules, address, port, tls)
