"""The outermost process of a job: starts it so that it cannot outlive its launcher unnoticed, or finds it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import IO, Protocol

from edl_allreduce.processes import Process, open_process
from launcher.local.plan import Plan

SECRET = ("EDL_DATABASE",)  # variables with passwords, which no process of a job needs
LOG_LINES, TAIL_BYTES = 15, 1 << 16  # of a log, in an error


class Leader(Protocol):
    """A job's supervisor: it leads the job's process group, and the job runs as long as it does.

    Attributes:
        stdin: what it takes for our life, if it is ours.
        returncode: how it ended; None while it runs, or if it is not ours.
    """

    pid: int
    stdin: IO[bytes] | None
    returncode: int | None

    def wait(self) -> int | None:
        """Returns when it has ended."""

    def send_signal(self, sig: int, /) -> None:
        """Does nothing when it has ended."""


class Attached:
    """The leader of a job that somebody else has started."""

    stdin: IO[bytes] | None = None
    returncode: int | None = None

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self._descriptor = open_process(process)

    def wait(self) -> int | None:
        if self._descriptor is not None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            poll.poll()
        return None

    def send_signal(self, sig: int, /) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, sig)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def spawn(plan: Plan, detach: bool) -> subprocess.Popen[bytes]:
    """Starts a job's supervisor, in a session of its own (Ctrl-C reaches only us), its output in the coordinator's log.

    The job takes the end of its standard input for our death. A detached one makes its own input.
    """
    with plan.folder.coordinator_log.open("ab") as log:
        return subprocess.Popen(
            [*plan.command, "--detached"] if detach else plan.command,
            stdin=subprocess.DEVNULL if detach else subprocess.PIPE,  # kept open as long as the process object lives
            stdout=log,
            stderr=log,
            env={name: value for name, value in os.environ.items() if name not in SECRET} | dict(plan.environ),
            start_new_session=True,
        )


def tail(path: Path) -> str:
    """The last lines of a log, indented."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError as error:
        lines = [f"({error.strerror})"]
    return "\n".join(f"    {line}" for line in lines[-LOG_LINES:]) or "    (it is empty)"
