"""Starts the coordinator as a process that cannot outlive its launcher unnoticed, and says how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from launcher.plan import Plan

LOG_LINES, TAIL_BYTES = 15, 1 << 16  # of a log, in an error


def spawn(plan: Plan, detach: bool) -> subprocess.Popen[bytes]:
    """Starts the coordinator, in a session of its own (Ctrl-C reaches only us), its output in its log.

    It takes the end of its standard input for our death. Its write end is ours; a detached one gets it itself.
    """
    read_end, write_end = os.pipe()
    try:
        with plan.folder.coordinator_log.open("ab") as log:
            process = subprocess.Popen(
                plan.command,
                stdin=read_end,
                stdout=log,
                stderr=log,
                env=os.environ | dict(plan.environ),
                start_new_session=True,
                pass_fds=[write_end] if detach else [],
            )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    pipe = os.fdopen(write_end, "wb", buffering=0)
    if detach:
        pipe.close()
    process.stdin = pipe  # kept open as long as the process object lives
    return process


def describe_exit(code: int | None) -> str:
    """How a process with this return code ended."""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def tail(path: Path) -> str:
    """The last lines of a log, indented."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError as error:
        lines = [f"({error.strerror})"]
    return "\n".join(f"    {line}" for line in lines[-LOG_LINES:]) or "    (it is empty)"
