"""Where workers run: a provisioner starts and ends them when told, and tells when one has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Recovered:
    """What earlier coordinators of the same job have left.

    Attributes:
        next_id: larger than the id of every worker there has ever been.
        alive: ids of the workers that still run.
    """

    next_id: int
    alive: tuple[int, ...]


class Provisioner(Protocol):
    """Starts and ends workers. Which and how many is not its decision (see `rendezvous.rounds`)."""

    def recover(self) -> Recovered:
        """Takes over the workers of earlier coordinators; called once, before anything is started."""

    def start(self, worker_id: int) -> None:
        """Starts a worker; the id is one that has never been used."""

    def kill(self, worker_id: int) -> None:
        """Ends a worker by force; does nothing when it has ended already."""

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker has ended; those that have not by themselves within the grace are killed."""
