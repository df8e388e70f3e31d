"""What a dashboard shows: a job, as it is asked for status, curves, logs, and told what to do.

The page, the API and the metrics know jobs only by this, so that a job that runs and one that is only recorded are
shown in the same way.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.task_spec import Job
from rendezvous.dashboard.record import Record
from rendezvous.logs import LogTail


class Controls(Protocol):
    """What can be done about a job that runs."""

    def scale(self, num_workers: int) -> None:
        """Keeps this many workers alive from now on."""

    def checkpoint(self) -> None:
        """Writes a checkpoint after the step in progress.

        Raises:
            UsageError: there is nothing to write.
        """

    def stop(self, reason: str) -> None:
        """Ends the job."""


class JobView(Protocol):
    """A job that is shown.

    Attributes:
        name: of the job.
        spec: its settings.
        controls: None: it does not run any more, or elsewhere.
        source: where it is recorded; empty: the job itself tells.
        has_logs: whether there may be logs.
        loaded: set as soon as the record has everything that was there before.
        ended: set when nothing changes any more.
    """

    name: str
    spec: Job
    controls: Controls | None
    source: str
    has_logs: bool
    loaded: asyncio.Event
    ended: asyncio.Event

    @property
    def notes(self) -> list[str]:
        """What is damaged of the record, for people."""

    @property
    def record(self) -> Record:
        """The job's history."""

    def status(self) -> pb.Status:
        """The very message that the command line shows."""

    def activities(self, status: pb.Status) -> dict[int, str]:
        """What the training threads of workers in a round do, in words, by worker."""

    async def log(self, worker: int | None, lines: int) -> LogTail:
        """The end of a worker's log; None: the coordinator's."""

    def extra(self) -> dict[str, Any]:
        """What else the page needs to know about the job."""

    async def close(self) -> None:
        """Nothing is learnt any more."""
