"""A run as its recording tells it, for the dashboard: one that has ended, or one that is followed from elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.told import MALFORMED, Told, recalled
from edl_allreduce.errors import EdlError
from edl_allreduce.history import parsed
from edl_allreduce.job_folder import RUNS
from rendezvous.dashboard.job_view import Controls
from rendezvous.dashboard.record import Record
from rendezvous.dashboard.recording import HistoryReader, Recording
from rendezvous.logs import FolderLogs, LogTail

log = logging.getLogger(__name__)

FOLLOW_SECONDS = (2.0, 60.0)  # between two looks at what a run that has not ended has written
PATIENCE = 0.1  # of the time since it has written something: so long between two looks
UNFINISHED = "unfinished"  # a phase: nothing says how it ended


class RecordedJob:
    """See `job_view.JobView`. Nothing is read until `open` is called.

    Args:
        recording: of the run.
        wall: seconds since 1970.
    """

    def __init__(self, recording: Recording, wall: Callable[[], float] = time.time) -> None:
        self.recording, self._wall = recording, wall
        self.name, self.spec = recording.name, recording.spec
        self.controls: Controls | None = None
        self.source = recording.url.removesuffix(f"/{RUNS}/{self.name}")
        self.has_logs = False
        self.loaded, self.ended = asyncio.Event(), asyncio.Event()
        self.record = Record()
        self._told = Told()
        self._reader = HistoryReader(recording.url)
        self._dataset = pb.Dataset()
        self._final: pb.Status | None = None
        self._status = pb.Status()
        self._damaged: list[int] = []  # serials of lines
        self._opening: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def notes(self) -> list[str]:
        """What of the record is damaged."""
        notes = [f"Of the history {name} is missing; what it told is not shown" for name in self._reader.missing]
        if self._damaged:
            which = f"line {self._damaged[0]:,}" + (
                f" and {len(self._damaged) - 1:,} more" if self._damaged[1:] else ""
            )
            notes.append(f"Damaged lines of the history are left out: {which}")
        return notes

    async def open(self) -> None:
        """Reads what there is, the first time.

        Raises:
            EdlError: it cannot be read.
        """
        if self.loaded.is_set():
            return
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        opening = self._opening
        try:
            await asyncio.shield(opening)
        finally:
            if opening.done() and not self.loaded.is_set():
                self._opening = None  # somebody else may try again

    async def close(self) -> None:
        """Reads nothing any more."""
        tasks = [each for each in (self._opening, self._following) if each]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> pb.Status:
        if self._final is None:
            status = pb.Status()
            status.CopyFrom(self._status)
            status.phase, status.message = UNFINISHED, self._unfinished()
            return status
        return self._status

    def activities(self, status: pb.Status) -> dict[int, str]:
        return {}

    async def log(self, worker: int | None, lines: int) -> LogTail:
        if folder := self.recording.job_folder:
            return await FolderLogs(folder).tail(worker, lines)
        return LogTail(unavailable="logs are not recorded in the output; they stay where the job has run")

    def extra(self) -> dict[str, Any]:
        return {"lanes": self._dataset.lanes, "tasks": len(self._dataset.tasks)}

    async def _open(self) -> None:
        self._dataset = await asyncio.to_thread(self.recording.dataset)
        self.has_logs = self.recording.job_folder is not None
        self._final = await asyncio.to_thread(self.recording.final_status)
        await asyncio.to_thread(lambda: self._take(self._reader.lines()))
        self._conclude()
        self.loaded.set()
        if self._final is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())
        else:
            self.ended.set()

    def _conclude(self) -> None:
        """Makes the status."""
        status = recalled(self.spec, self._dataset, self._told)
        unheard = (pb.WorkerStatus(id=id, state="unheard", rank=-1) for id in sorted(self.record.members))
        status.workers.extend(unheard)
        if self._final and self._final.HasField("position"):
            status = self._final  # the coordinator's own, which knows more
        elif self._final:
            status.MergeFrom(self._final)
        self._status = status

    def _take(self, lines: Iterable[bytes]) -> None:
        """Takes in lines of the history."""
        record, damaged = self.record, self._damaged
        for text in lines:
            line = parsed(text)
            if line and "restart" in line and damaged[-1:] == [record.serial]:
                damaged.pop()  # it was cut off when the coordinator before was killed
            try:
                record.note(line or {})
                self._told.learn(line or {})
            except MALFORMED:
                line = None
            if not line and text:
                damaged.append(record.serial)

    async def _follow(self) -> None:
        while self._final is None:
            least, most = FOLLOW_SECONDS
            await asyncio.sleep(min(most, max(least, PATIENCE * (self._wall() - self.record.time))))
            try:
                final = await asyncio.to_thread(self.recording.final_status)
                self._take(await asyncio.to_thread(lambda: list(self._reader.lines())))
            except EdlError as error:
                log.warning("%s", error)
                continue
            self._final = final
            self._conclude()
        self.ended.set()

    def _unfinished(self) -> str:
        ago = max(0.0, self._wall() - self.record.time) if self.record.time else None
        heard = "nothing was heard of it" if ago is None else f"last heard of {spoken(ago)} ago"
        return f"it runs, or all its processes were killed: {heard}"


def spoken(seconds: float) -> str:
    """12 s, 3 min, 5 h, 2 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
