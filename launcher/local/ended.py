"""A job of this machine that has ended, as the files that it has left tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edl_allreduce import task_spec
from edl_allreduce.errors import EdlError, JobFailed
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.spec import JobSpec
from launcher import history
from launcher.handle import error_of
from launcher.local import logs
from launcher.local.folder import JobWithFolder, spec_of
from launcher.local.way import final_status, how_it_ended
from launcher.recorded import served

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

KEPT = 20  # of the newest rounds, evaluations and epochs


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
    from edl_allreduce.control.control_pb2 import Status

    spec, status = spec_of(folder), Status()
    if spec is not None:
        status.job, status.target_workers = task_spec.kind_of(spec), spec.elastic.num_workers
    if isinstance(spec, JobSpec):
        status.num_epochs = spec.training.num_epochs
    began = 0.0
    for line in history.written(folder.history, steps=True):
        _learn(status, line)
        began = began or (line.get("time", 0.0) if "cause" in line else 0.0)
        status.training_seconds = line["time"] - began if began and "time" in line else status.training_seconds
    for field in (status.rounds, status.evaluations, status.epochs):
        del field[:-KEPT]
    return status


def _learn(status: Status, line: history.Line) -> None:
    """Adds to a status what a line of the history says (see `rendezvous.telemetry`)."""
    match line:
        case {"step": step, "loss": loss, "epoch": epoch}:
            status.position.step, status.position.epoch, status.loss = step, epoch, loss
        case {"round": number, "cause": cause, "kind": kind, "members": members, "first_step": first}:
            status.rounds.add(number=number, cause=cause, kind=kind, size=len(members), first_step=first)
            status.round = number
        case {"round": _, "paused_seconds": seconds} if status.rounds:
            status.rounds[-1].paused_seconds = seconds
        case {"round": _, "repeated": records} if status.rounds:
            status.rounds[-1].repeated_records += records
        case {"checkpoint": _, "error": error}:
            status.checkpoint_error = error
        case {"checkpoint": step}:
            status.checkpoint.step, status.checkpoint_error = step, ""
        case {"skipped": records}:
            status.skipped_records += records
        case {"evaluation": step, "epoch": epoch, "figures": figures}:
            status.evaluations.add(step=step, epoch=epoch, values=figures)
        case {"epoch_end": epoch, "step": step, "figures": figures, "stopped": stopped}:
            status.epochs.add(epoch=epoch, step=step, values=figures, stopped=stopped)
        case {"target": target}:
            status.target_workers = target
        case {"restart": restarts}:
            status.coordinator_restarts = restarts
