"""Where workers run: a provisioner starts and ends them when told, and tells when one has ended."""

from __future__ import annotations

from typing import Protocol


class Provisioner(Protocol):
    """Starts and ends workers. Which and how many is not its decision (see `rendezvous.rounds`)."""

    def start(self, worker_id: int) -> None:
        """Starts a worker."""

    def kill(self, worker_id: int) -> None:
        """Ends a worker by force; does nothing when it has ended already."""

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker has ended; those that have not by themselves within the grace are killed."""
