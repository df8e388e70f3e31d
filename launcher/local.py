"""Runs jobs on this machine: starts the coordinator, follows it, and sees to it that no process is left behind."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edl_allreduce.errors import EdlError, JobFailed, StorageError, UsageError
from edl_allreduce.job_folder import JobFolder
from launcher.handle import ENDED, JobHandle, error_of
from launcher.plan import Plan
from launcher.process import describe_exit, spawn, tail

if TYPE_CHECKING:
    import grpc

    from edl_allreduce.control.control_pb2 import Status

STOP_SECONDS = 20.0  # for everything to end after SIGTERM
CALL_SECONDS = 10.0  # for the answer to a single call
WATCH_SECONDS = 0.2  # between two statuses, at least
POLL_SECONDS = 0.02  # between two looks at the address file


def start(plan: Plan, detach: bool = False) -> LocalJob:
    """Starts a planned job; it is over when this process ends, unless `detach`.

    Raises:
        UsageError: a job of that name has been there before.
        StorageError: the job's folder cannot be written.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else its core tells the terminal that the coordinator has ended
    folder = plan.folder
    try:
        folder.create(plan.job.to_json(), secrets.token_urlsafe(32))
    except FileExistsError:
        raise UsageError(f"--job_name: {folder.name!r} is taken by the job in {folder.path}; choose another") from None
    except OSError as error:
        raise StorageError(f"{folder.path}: {error.strerror}; EDL_HOME may name another folder for jobs") from error
    job = LocalJob(folder, spawn(plan, detach))
    threading.Thread(target=job.reap, name="reap", daemon=True).start()
    threading.Thread(target=job.follow, name="follow", daemon=True).start()
    if not detach:
        atexit.register(job.stop)
    return job


class LocalJob(JobHandle):
    """A job on this machine, made by `start`."""

    def __init__(self, folder: JobFolder, process: subprocess.Popen[bytes]) -> None:
        self._files = folder
        self._process = process
        self._changed = threading.Condition()
        self._statuses = 0  # how many there have been; guarded by _changed, as is what follows
        self._status: Status | None = None
        self._call: grpc.Call | None = None
        self._ended = threading.Event()
        self._stop_wanted = False
        self._crash: JobFailed | None = None

    @property
    def name(self) -> str:
        return self._files.name

    @property
    def folder(self) -> Path:
        return self._files.path

    @property
    def logs_folder(self) -> Path:
        return self._files.logs

    @property
    def pid(self) -> int:
        """The coordinator's process id; SIGTERM to it stops the job."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        if not self._ended.is_set():
            return None
        error = self._error()
        return error.exit_code if error else 0

    def status(self) -> Status:
        from edl_allreduce.control.control_pb2 import Status

        with self._changed:
            return self._status or Status(phase="starting")

    def watch(self) -> Iterator[Status]:
        seen = 0
        while True:
            with self._changed:
                while self._statuses == seen and not self._ended.is_set():
                    self._changed.wait()
                fresh, seen = self._statuses > seen, self._statuses
            if fresh:
                yield self.status()
            elif self._ended.is_set():
                return

    def wait(self, timeout: float | None = None) -> Status:
        if not self._ended.wait(timeout):
            raise TimeoutError(f"job {self.name} has not ended within {timeout} seconds")
        error = self._error()
        if error and not self._stop_wanted:
            raise error
        return self.status()

    def stop(self) -> None:
        self._stop_wanted = True
        if not self._ended.is_set():
            self._process.send_signal(signal.SIGTERM)
        if not self._ended.wait(STOP_SECONDS):
            self.kill()

    def kill(self) -> None:
        self._stop_wanted = True
        if not self._ended.is_set():
            self._kill_group()
        self._ended.wait()

    def scale(self, num_workers: int) -> None:
        if num_workers < 1:
            raise UsageError(f"num_workers: expected a whole number, greater than 0, got {num_workers}")
        import grpc

        from edl_allreduce.control.control_pb2 import ScaleRequest
        from edl_allreduce.control.control_pb2_grpc import CoordinatorStub

        address = self._await_address()
        if address is None:
            raise JobFailed(f"job {self.name} has ended and cannot be scaled")
        with _channel(address) as channel:
            try:
                CoordinatorStub(channel).Scale(
                    ScaleRequest(num_workers=num_workers), timeout=CALL_SECONDS, metadata=self._metadata()
                )
            except grpc.RpcError as error:
                raise JobFailed(f"job {self.name} could not be scaled: {error.details()}") from error

    def reap(self) -> None:
        """Waits for the coordinator's end, ends what it may have left behind, and tells everyone."""
        self._process.wait()
        self._kill_group()
        atexit.unregister(self.stop)
        final = self._final()
        with self._changed:
            self._status = final
            self._statuses += 1
            self._ended.set()
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()
        if self._process.stdin:
            self._process.stdin.close()

    def follow(self) -> None:
        """Passes on the coordinator's statuses until it ends."""
        from edl_allreduce.control.control_pb2 import Status

        self._publish(Status(phase="starting", message="indexing the data"))
        address = self._await_address()
        if address is None:
            return
        import grpc

        from edl_allreduce.control.control_pb2 import WatchRequest
        from edl_allreduce.control.control_pb2_grpc import CoordinatorStub

        with _channel(address) as channel:
            stub = CoordinatorStub(channel)
            request = WatchRequest(interval_seconds=WATCH_SECONDS)
            while True:
                with self._changed:
                    if self._ended.is_set():
                        return
                    call = stub.Watch(request, wait_for_ready=True, metadata=self._metadata())
                    self._call = call
                with contextlib.suppress(grpc.RpcError):  # it has ended, or is about to, or will answer again
                    for status in call:
                        self._publish(status)
                self._ended.wait(WATCH_SECONDS)

    def _publish(self, status: Status) -> None:
        with self._changed:
            if not self._ended.is_set():  # the final one has the last word
                self._status = status
                self._statuses += 1
                self._changed.notify_all()

    def _await_address(self) -> str | None:
        """Where the coordinator serves, as soon as it has indexed the data; None when it has ended."""
        while not self._ended.is_set():
            with contextlib.suppress(FileNotFoundError):
                return self._files.address.read_text(encoding="utf-8").strip()
            self._ended.wait(POLL_SECONDS)
        return None

    def _metadata(self) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self._files.token.read_text(encoding='utf-8').strip()}"),)

    def _kill_group(self) -> None:
        """Kills every process of the job; the coordinator leads their group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _final(self) -> Status:
        """The last status: the coordinator's own; where it left none, what we know."""
        from google.protobuf import json_format

        from edl_allreduce.control.control_pb2 import Status

        code = self._process.returncode
        with contextlib.suppress(OSError, ValueError, json_format.ParseError):
            text = self._files.status.read_text(encoding="utf-8")
            written = json_format.Parse(text, Status(), ignore_unknown_fields=True)
            if written.phase in ENDED and (written.phase != "done" or code == 0):
                return written
        status = Status()
        status.CopyFrom(self.status())
        if self._stop_wanted:
            status.phase, status.message = "stopped", "all its processes were killed"
        else:
            how = f"ended unexpectedly ({describe_exit(code)})"
            status.phase, status.message = "failed", f"the coordinator of job {self.name} {how}"
            log = self._files.coordinator_log
            self._crash = JobFailed(f"{status.message}; the end of {log}:\n{tail(log)}")
        return status

    def _error(self) -> EdlError | None:
        return self._crash or error_of(self.status(), self.name, self.logs_folder)


def _channel(address: str) -> grpc.Channel:
    import grpc

    # gRPC would take http_proxy for this machine's own addresses, too.
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
