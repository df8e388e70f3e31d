"""A job of this machine that has ended, as the files that it has left tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edl_allreduce.errors import EdlError, JobFailed
from edl_allreduce.job_folder import JobFolder
from launcher import history
from launcher.handle import error_of
from launcher.local import logs
from launcher.local.folder import JobWithFolder, spec_of
from launcher.local.way import final_status, how_it_ended
from launcher.recorded import served

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status


class EndedJob(JobWithFolder):
    """A job of which no process is left.

    Args:
        folder: the job's.
    """

    def __init__(self, folder: JobFolder) -> None:
        self._files = folder

    @property
    def exit_code(self) -> int:
        error = self._error()
        return error.exit_code if error else 0

    def status(self) -> Status:
        return last_status(self._files)

    def watch(self) -> Iterator[Status]:
        yield self.status()

    def wait(self, timeout: float | None = None) -> Status:
        if error := self._error():
            raise error
        return self.status()

    def stop(self) -> None:
        """There is nothing left to end."""

    def kill(self) -> None:
        """There is nothing left to end."""

    def scale(self, num_workers: int) -> int:
        raise self._has_ended()

    def events(self, follow: bool = False, steps: bool = False) -> Iterator[dict[str, Any]]:
        return history.written(self._files.history, steps)

    def logs(self, worker: int | None = None, follow: bool = False) -> Iterator[str]:
        return logs.read(self._files, worker, None)

    @contextlib.contextmanager
    def dashboard(self) -> Iterator[str]:
        with served([self.record]) as found:
            yield found.url

    def _has_ended(self) -> JobFailed:
        return JobFailed(f"job {self.name} has ended: {how_it_ended(self._files)}")

    def _error(self) -> EdlError | None:
        return error_of(self.status(), self.name, self.logs_hint)


def last_status(folder: JobFolder) -> Status:
    """How a job was when it ended. Where its coordinator could not write that, its history tells most of it."""
    from edl_allreduce.control.control_pb2 import Status

    status = final_status(folder)
    if status is None:
        status = Status(phase="failed", message="all its processes were killed", exit_code=JobFailed.exit_code)
    if not status.HasField("position"):
        told = recalled(folder)
        told.MergeFrom(status)
        return told
    return status


def recalled(folder: JobFolder) -> Status:
    """What the history of a job tells of its status."""
    from google.protobuf.message import DecodeError

    from edl_allreduce.control import told
    from edl_allreduce.control.control_pb2 import Dataset

    dataset, known = Dataset(), told.Told()
    with contextlib.suppress(OSError, DecodeError):
        dataset.ParseFromString(folder.dataset.read_bytes())
    for line in history.written(folder.history, steps=True):
        with contextlib.suppress(*told.MALFORMED):
            known.learn(line)
    return told.recalled(spec_of(folder), dataset, known)
