"""Shows recorded runs in the browser: starts what serves them, and sees to it that it ends with us."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edl_allreduce.errors import JobFailed, UsageError
from launcher.handle import ERRORS

CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Served:
    """Recorded runs that are served.

    Attributes:
        url: of the page; its fragment holds the token.
        notes: what is to be said about runs that cannot be shown.
        wait: returns when they are served no longer.
    """

    url: str
    notes: tuple[str, ...]
    wait: Callable[[], object]


@contextlib.contextmanager
def served(places: Sequence[str]) -> Iterator[Served]:
    """Serves recorded runs to this machine, as long as the context is open.

    Args:
        places: outputs, folders of single runs, folders of jobs of this machine.

    Raises:
        EdlError: no run is recorded in one of them, or it cannot be read.
    """
    if not all(places):
        raise UsageError("nothing of this job is recorded: it has no folder of output that is known here")
    command = [sys.executable, "-m", "rendezvous.dashboard", "--", *places]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin and process.stdout
    try:
        said = json.loads(process.stdout.readline() or "{}")
        if "url" not in said:
            error = ERRORS.get(said.get("exit_code", 0), JobFailed)
            raise error(said.get("error", "what shows recorded runs has ended unexpectedly"))
        yield Served(said["url"], tuple(said["notes"]), process.wait)
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_SECONDS)
        process.kill()
        process.wait()
        process.stdout.close()
