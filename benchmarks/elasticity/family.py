"""Starts commands of others so that none of their processes is left behind, whatever sessions and groups they make.

A guardian, `python -m benchmarks.elasticity.family MARK`, waits for the end of its standard input, which comes however
the benchmark ends, and then kills every process that has inherited the mark.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edl_allreduce.processes import environment, kinship_of, pids

MARK = "EDL_BENCHMARK_FAMILY"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
LOOK_SECONDS = 0.05
END_SECONDS = 10.0


class Family:
    """Processes that inherit a mark in their environment from the command that was started.

    Args:
        log: file for what they print.
    """

    def __init__(self, log: Path) -> None:
        self._mark, self._log = secrets.token_hex(8), log
        self._started: list[subprocess.Popen[bytes]] = []
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.elasticity.family", self._mark],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def start(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Starts a command in the repository's folder, with these variables besides our own."""
        with open(self._log, "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | dict(environ) | {MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours
            )
        self._started.append(process)
        return process

    def alive(self) -> bool:
        """Whether every command that was started still runs."""
        return all(process.poll() is None for process in self._started)

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """This command is meant to end."""
        self._started.remove(process)

    def end(self) -> None:
        """Returns when none of the processes is left."""
        self._guardian.communicate()
        for process in self._started:
            process.wait()


def kill_all(mark: str) -> None:
    """Kills every process with a mark; returns when there is none any more, or after some seconds."""
    deadline = time.monotonic() + END_SECONDS
    while (left := _marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)  # they are not our children: there is no event to await


def _marked(mark: str) -> list[int]:
    found = [pid for pid in pids() if environment(pid).get(MARK) == mark]
    return [pid for pid in found if (kinship := kinship_of(pid)) and not kinship.zombie]


if __name__ == "__main__":
    sys.stdin.read()
    kill_all(sys.argv[1])
