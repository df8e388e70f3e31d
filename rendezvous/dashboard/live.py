"""A running job as the dashboard shows it, from its coordinator and its history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edl_allreduce.control import control_pb2 as pb
from rendezvous import events
from rendezvous.activity import WORDS
from rendezvous.dashboard.job_view import Controls
from rendezvous.dashboard.record import Line, Record
from rendezvous.logs import Logs, LogTail
from rendezvous.status import make_status

if TYPE_CHECKING:
    from rendezvous.coordinator import Coordinator

log = logging.getLogger(__name__)


class LiveJob:
    """See `job_view.JobView`.

    Args:
        coordinator: of the job.
        logs: of the job.
    """

    def __init__(self, coordinator: Coordinator, logs: Logs) -> None:
        self._coordinator, self._logs = coordinator, logs
        self.name, self.spec = coordinator.site.name, coordinator.spec
        self.controls: Controls | None = LiveControls(coordinator)
        self.loaded, self.ended = asyncio.Event(), coordinator.ended
        self.record = Record()
        history = coordinator.telemetry.history
        self._history = Path(history.name) if history else None
        self._backlog: list[Line] = []
        self.source, self.has_logs, self.notes = "", True, list[str]()
        coordinator.telemetry.listeners.append(self._note)
        size = os.fstat(history.fileno()).st_size if history else 0
        self._loading = asyncio.get_running_loop().create_task(self._load(size))

    async def close(self) -> None:
        """Notes nothing any more."""
        with contextlib.suppress(ValueError):
            self._coordinator.telemetry.listeners.remove(self._note)
        self._loading.cancel()
        await asyncio.gather(self._loading, return_exceptions=True)

    def status(self) -> pb.Status:
        return make_status(self._coordinator)

    def activities(self, status: pb.Status) -> dict[int, str]:
        presences = self._coordinator.presences
        return {
            each.id: WORDS[presences[each.id].doing.activity]
            for each in status.workers
            if each.id in presences and each.rank >= 0
        }

    async def log(self, worker: int | None, lines: int) -> LogTail:
        return await self._logs.tail(worker, lines)

    def extra(self) -> dict[str, Any]:
        return {"lanes": self._coordinator.dataset.lanes, "tasks": len(self._coordinator.dataset.tasks)}

    def _note(self, line: Line) -> None:
        if self.loaded.is_set():
            self.record.note(line)
        else:
            self._backlog.append(line)

    async def _load(self, size: int) -> None:
        """Reads what earlier coordinators have written."""
        if self._history and size:
            try:
                self.record = await asyncio.to_thread(read_history, self._history, size)
            except OSError as error:
                log.warning("%s: %s: the dashboard shows nothing of before", self._history, error.strerror)
        for line in self._backlog:
            self.record.note(line)
        self._backlog.clear()
        self.loaded.set()


class LiveControls:
    """See `job_view.Controls`."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def scale(self, num_workers: int) -> None:
        self._coordinator.scale(num_workers)

    def checkpoint(self) -> None:
        self._coordinator.checkpoint()

    def stop(self, reason: str) -> None:
        self._coordinator.tell(events.Stopped(reason))


def read_history(path: Path, size: int) -> Record:
    """What the first `size` bytes of a history tell."""
    record, left = Record(), size
    with open(path, encoding="utf-8", errors="replace", newline="\n") as lines:

        def known() -> Any:
            nonlocal left
            for line in lines:
                left -= len(line.encode())
                if left < 0:
                    return
                yield line

        record.read(known())
    return record
