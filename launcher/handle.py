"""The one handle behind which every backend's jobs are watched, scaled and stopped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edl_allreduce.errors import DataError, EdlError, JobFailed, ModelError, StorageError, UsageError

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

ENDED = frozenset({"done", "failed", "stopped"})
KILLED = "killed"  # of a summary: ended without saying how
RUNNING = frozenset({"training", "reforming", "exporting", "working"})

ERRORS: dict[int, type[EdlError]] = {
    error.exit_code: error for error in (EdlError, UsageError, StorageError, DataError, ModelError, JobFailed)
}


@dataclass(frozen=True)
class JobSummary:
    """A line of `edl jobs`.

    Attributes:
        backend: local or kubernetes.
        kind: train, evaluate, predict.
        phase: as in Status; "killed" when nothing of an unfinished job is left.
        began: seconds since 1970.
        workers: how many are wanted.
        message: what there is to say besides.
    """

    name: str
    backend: str
    kind: str
    phase: str
    began: float
    workers: int
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more."""
        return self.phase in ENDED or self.phase == KILLED


class JobHandle(ABC):
    """A job that has been started."""

    def __repr__(self) -> str:
        return f"<job {self.name}: {self.status().phase}>"

    @property
    @abstractmethod
    def name(self) -> str:
        """The job's name, such as digits-20261122-153012-a1b2."""

    @property
    @abstractmethod
    def logs_hint(self) -> str:
        """Where its logs are, for people: "logs in FOLDER", "edl logs NAME"."""

    @property
    def words(self) -> str:
        """What commands on it are given to find it: its name, and flags where that is not enough."""
        return self.name

    @property
    def output(self) -> str:
        """The folder or URL of its result; empty when it has none, or when that is not known here."""
        return ""

    @property
    @abstractmethod
    def record(self) -> str:
        """The folder or URL where its history is kept; empty when nowhere that is known here."""

    @property
    def page(self) -> str:
        """The URL of its dashboard, where a browser of this machine needs no `dashboard()` to get there; else empty."""
        return ""

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

    @abstractmethod
    def events(self, follow: bool = False, steps: bool = False) -> Iterator[dict[str, Any]]:
        """What has happened to the job, in order: the lines of its history, see `edl_allreduce.history`.

        Args:
            follow: go on with what happens from now on, until the job has ended.
            steps: every step, and every task of an evaluation or a prediction, as well.
        """

    @abstractmethod
    def logs(self, worker: int | None = None, follow: bool = False) -> Iterator[str]:
        """The lines of a process's log, without line ends.

        Args:
            worker: its id; None: the coordinator's.
            follow: go on with what is written from now on, until the process has ended.

        Raises:
            UsageError: there is no such log, or no longer; names those that there are.
        """

    @abstractmethod
    def dashboard(self) -> AbstractContextManager[str]:
        """The URL of the job's dashboard, as long as the context is open; the token is in its fragment.

        That of a job that has ended shows what is recorded of it.

        Raises:
            JobFailed: its coordinator does not answer.
            UsageError: it has ended, and nothing of it is recorded that could be read here.
        """


def how(status: Status) -> str:
    """How a job has ended, in few words."""
    return f"{status.phase}, {status.message}" if status.message else status.phase


def error_of(status: Status, name: str, logs: str) -> EdlError | None:
    """What went wrong with a job that has ended with this status; None when its trained model is in the output."""
    if status.phase == "done":
        return None
    if status.phase == "stopped":
        return JobFailed(f"job {name} was stopped{f': {status.message}' if status.message else ''}; {logs}")
    kind = ERRORS.get(status.exit_code, JobFailed)
    return kind(f"{status.message or f'job {name} failed'}; {logs}")


def with_message(status: Status, message: str) -> Status:
    """A copy that says something else."""
    from edl_allreduce.control.control_pb2 import Status

    copy = Status()
    copy.CopyFrom(status)
    copy.message = message
    return copy
