"""A part of a fleet: a process that does what lines say and answers by lines."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edl_allreduce.errors import EdlError, UsageError

REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Process:
    """A part of the fleet; talks by lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self, line: str) -> None:
        """A command."""
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """The next thing it says.

        Raises:
            EdlError: it has died.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EdlError(f"{' '.join(map(str, self._process.args))} has ended: {self._process.wait()}")  # type: ignore[arg-type]
        return line.strip()

    def ask(self, command: str) -> Any:
        """What it answers to a command, which is JSON."""
        self.say(command)
        return json.loads(self.line())


@contextmanager
def process(name: str, *arguments: str) -> Iterator[Process]:
    """Runs `python -m benchmarks.fleet.NAME ARGUMENTS`."""
    command = [sys.executable, "-m", f"benchmarks.fleet.{name}", *arguments]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as started:
        try:
            yield Process(started)
        finally:
            started.kill()


def allow_files(workers: int, each: int) -> None:
    """Takes all the open files that this process may have, for itself and those it starts.

    Raises:
        UsageError: that is too few for so many workers with so many files each.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = workers * each + 100
    if hard < needed:
        raise UsageError(f"--workers: {workers} need {needed} open files, {hard} are allowed (ulimit -Hn); take fewer")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
