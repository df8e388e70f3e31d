"""Runs jobs on this machine: starts their processes, follows them, and sees to it that none is left behind."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import secrets
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edl_allreduce.errors import EdlError, JobFailed, StorageError, UsageError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import describe_exit
from edl_allreduce.task_spec import to_json
from launcher import history
from launcher.followed import AWAY, FollowedJob
from launcher.handle import with_message
from launcher.local import logs
from launcher.local.folder import JobWithFolder
from launcher.local.plan import Plan
from launcher.local.process import Leader, spawn, tail
from launcher.local.way import LocalWay, final_status, how_it_ended

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

STOP_SECONDS = 40.0  # for everything to end after SIGTERM; longer than the supervisor's own patience


def start(plan: Plan, detach: bool = False) -> LocalJob:
    """Starts a planned job; it is over when this process ends, unless `detach`.

    Raises:
        UsageError: a job of that name has been there before.
        StorageError: the job's folder cannot be written.
    """
    folder = plan.folder
    try:
        folder.create(to_json(plan.job), secrets.token_urlsafe(32))
    except FileExistsError:
        raise UsageError(f"--job_name: {folder.name!r} is taken by the job in {folder.path}; choose another") from None
    except OSError as error:
        raise StorageError(f"{folder.path}: {error.strerror}; EDL_HOME may name another folder for jobs") from error
    job = LocalJob(folder, spawn(plan, detach))
    job.begin()
    if not detach:
        atexit.register(job.stop)
    return job


class LocalJob(JobWithFolder, FollowedJob):
    """A job on this machine. It is followed from `begin` on.

    Args:
        folder: the job's.
        leader: its outermost process.
    """

    def __init__(self, folder: JobFolder, leader: Leader) -> None:
        super().__init__(LocalWay(folder))
        self._files, self._leader = folder, leader
        self._crash: JobFailed | None = None

    def begin(self) -> None:
        """Follows the job, in threads of its own."""
        if not self._files.address.exists():
            self._publish(with_message(self.status(), "indexing the data"))
        self._start_following(self._reap)

    @property
    def page(self) -> str:
        try:
            url = self._files.dashboard.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""
        return url if "#" in url else f"{url}#token={self._files.token.read_text(encoding='utf-8').strip()}"

    @property
    def pid(self) -> int:
        """The process id of the job's supervisor; SIGTERM to it stops the job."""
        return self._leader.pid

    def stop(self) -> None:
        self._stop_wanted = True
        if not self._ended.is_set():
            self._leader.send_signal(signal.SIGTERM)
        if not self._ended.wait(STOP_SECONDS):
            self.kill()

    def kill(self) -> None:
        self._stop_wanted = True
        if not self._ended.is_set():
            self._kill_group()
        self._ended.wait()

    def scale(self, num_workers: int) -> int:
        return self._client.scale(num_workers)

    def events(self, follow: bool = False, steps: bool = False) -> Iterator[dict[str, Any]]:
        told = 0
        if follow:
            for line in history.told(self._client, self._ended.wait, follow, steps):
                told += 1
                yield line
            self._ended.wait()
        yield from itertools.islice(history.written(self._files.history, steps), told, None)

    def logs(self, worker: int | None = None, follow: bool = False) -> Iterator[str]:
        return logs.read(self._files, worker, self._ended.wait if follow else None)

    @contextlib.contextmanager
    def dashboard(self) -> Iterator[str]:
        if self._client.await_address() is None:
            raise JobFailed(f"job {self.name} has ended: {how_it_ended(self._files)}")
        if not self.page:
            silent = f"its coordinator serves no dashboard; see {self._files.coordinator_log}"
            raise JobFailed(f"job {self.name}: {silent}")
        yield self.page

    def _reap(self) -> None:
        """Waits for the job's end, kills what it may have left behind, and tells everyone."""
        self._leader.wait()
        self._kill_group()
        self._files.remove_tmp()
        atexit.unregister(self.stop)
        self._conclude(self._final())
        if self._leader.stdin:
            self._leader.stdin.close()

    def _hear(self, status: Status) -> None:
        self._publish(status)

    def _lose(self) -> None:
        if not self._stop_wanted:
            self._publish(with_message(self.status(), AWAY))

    def _kill_group(self) -> None:
        """Kills every process of the job's process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader.pid, signal.SIGKILL)

    def _final(self) -> Status:
        """The last status: what the job has left; where it has left nothing, what we know."""
        log, newest = self._files.coordinator_log, self.status()
        status = final_status(self._files)
        if status is None and self._stop_wanted:
            status = with_message(newest, "all its processes were killed")
            status.phase = "stopped"
        elif status is None:
            code = self._leader.returncode
            how = "" if code is None else f" ({describe_exit(code)})"
            status = with_message(newest, f"the supervisor of job {self.name} ended unexpectedly{how}; see {log}")
            status.phase = "failed"
        elif not status.HasField("position"):  # not the coordinator's: it could not write one
            written, status = status, with_message(newest, status.message)
            status.phase, status.exit_code = written.phase, written.exit_code
        if status.phase == "failed" and status.message.endswith(f"; see {log}"):
            self._crash = JobFailed(f"{status.message.removesuffix(f'; see {log}')}; the end of {log}:\n{tail(log)}")
        return status

    def _error(self) -> EdlError | None:
        return self._crash or super()._error()
