"""Where workers run: a provisioner starts and ends them when told, and tells when one has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Recovered:
    """What earlier coordinators of the same job have left.

    Attributes:
        next_id: larger than the id of every worker there has ever been.
        alive: ids of the workers that still run, or will.
    """

    next_id: int
    alive: tuple[int, ...]


class Listener(Protocol):
    """Who is told what happens to workers, on the event loop; never from within a call of the provisioner."""

    def process_ended(self, worker_id: int, why: str, excused: bool) -> None:
        """A worker has ended.

        Args:
            why: such as "was ended by SIGKILL".
            excused: it says nothing about the job: it was told to go, or others have ended it.
        """

    def process_waits(self, worker_id: int, why: str) -> None:
        """A worker cannot be started yet, such as for want of room; told again when the reason changes."""

    def process_started(self, worker_id: int) -> None:
        """A worker that had to wait has been started."""


class Provisioner(Protocol):
    """Starts and ends workers. Which and how many is not its decision (see `rendezvous.rounds`).

    Attributes:
        explain_seconds: how long after a worker has fallen silent it may take to learn how it ended.
    """

    explain_seconds: float

    async def recover(self) -> Recovered:
        """Takes over the workers of earlier coordinators; called once, before anything is started."""

    def start(self, worker_id: int) -> None:
        """Starts a worker; the id is one that has never been used."""

    def kill(self, worker_id: int) -> None:
        """Ends a worker by force; does nothing when it has ended already."""

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker has ended; those that have not by themselves within the grace are killed."""
