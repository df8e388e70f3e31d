"""The one handle behind which every backend's jobs are watched, scaled and stopped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edl_allreduce.errors import DataError, EdlError, JobFailed, ModelError, StorageError, UsageError

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

ENDED = frozenset({"done", "failed", "stopped"})
RUNNING = frozenset({"training", "reforming", "exporting", "working"})

ERRORS: dict[int, type[EdlError]] = {
    error.exit_code: error for error in (EdlError, UsageError, StorageError, DataError, ModelError, JobFailed)
}


class JobHandle(ABC):
    """A job that has been started."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The job's name, such as digits-20261122-153012-a1b2."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The job's own folder."""

    @property
    @abstractmethod
    def logs_folder(self) -> Path:
        """The folder with one log file per process."""

    @property
    @abstractmethod
    def exit_code(self) -> int | None:
        """None while the job runs; 0 when its result is there; else the code of what went wrong."""

    @abstractmethod
    def status(self) -> Status:
        """The newest status of the job (`Status` in edl_allreduce/control/control.proto)."""

    @property
    def figures(self) -> dict[str, float]:
        """The newest loss and metrics: of an evaluation; of a training at its last epoch's end, val_… included."""
        status = self.status()
        newest = status.epochs or status.evaluations
        return dict(newest[-1].values) if newest else {}

    @abstractmethod
    def watch(self) -> Iterator[Status]:
        """The status now, and again whenever it has changed, until the job has ended; the last one is final."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> Status:
        """Waits for the job's end, at most `timeout` seconds, and returns its last status.

        Raises:
            TimeoutError: the job has not ended in that time.
            EdlError: the job ended without its result (JobFailed, ModelError, DataError, StorageError), and it was
                not this handle's `stop` that ended it.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ends the job, if it still runs, and returns when none of its processes is left."""

    @abstractmethod
    def kill(self) -> None:
        """Ends the job's processes at once, without letting them finish anything."""

    @abstractmethod
    def scale(self, num_workers: int) -> int:
        """Keeps `num_workers` workers alive from now on; returns how many it were before.

        Waits for a job that is still indexing its data, and some seconds for a coordinator that is being restarted.

        Raises:
            UsageError: the number is not positive, or too large.
            JobFailed: the job has ended, or its coordinator does not answer.
        """


def error_of(status: Status, name: str, logs: Path) -> EdlError | None:
    """What went wrong with a job that has ended with this status; None when its trained model is in the output."""
    if status.phase == "done":
        return None
    if status.phase == "stopped":
        return JobFailed(f"job {name} was stopped{f': {status.message}' if status.message else ''}; logs in {logs}")
    kind = ERRORS.get(status.exit_code, JobFailed)
    return kind(f"{status.message or f'job {name} failed'}; logs in {logs}")
