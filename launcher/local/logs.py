"""Reads the logs of a job of this machine, also while they are written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
from collections.abc import Callable, Iterator
from pathlib import Path

from edl_allreduce.errors import UsageError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import Process, open_process

LOOK_SECONDS = 0.1  # between two looks whether a log has grown


def log_of(folder: JobFolder, worker: int | None) -> Path:
    """The log of a worker, or the coordinator's.

    Raises:
        UsageError: there is none; names those that there are.
    """
    path = folder.coordinator_log if worker is None else folder.worker_log(worker)
    if path.is_file():
        return path
    whose = "the coordinator" if worker is None else f"worker {worker}"
    names = [each.name for each in folder.logs.glob("worker-*.log")]
    workers = sorted(int(found[1]) for each in names if (found := re.fullmatch(r"worker-(\d+)\.log", each)))
    there = ["the coordinator"] if folder.coordinator_log.is_file() else []
    there += [f"worker{'s' if workers[1:] else ''} {', '.join(map(str, workers))}"] if workers else []
    logs = f"there are logs of {' and '.join(there)}" if there else "there are no logs yet"
    raise UsageError(f"job {folder.name} has no log of {whose}; {logs}")


def read(folder: JobFolder, worker: int | None, await_end: Callable[[float], bool] | None) -> Iterator[str]:
    """The lines of a process's log, without line ends.

    Args:
        worker: its id; None: the coordinator's.
        await_end: waits for the job's end, at most so many seconds, and says whether it has come; None: what is written
            by now is enough.

    Raises:
        UsageError: there is no such log; names those that there are.
    """
    path = log_of(folder, worker)
    if await_end is None:
        return lines(path, lambda seconds: True)
    return lines(path, await_end) if worker is None else _worker_lines(folder, worker, path)


def _worker_lines(folder: JobFolder, worker: int, path: Path) -> Iterator[str]:
    with worker_process(folder, worker) as await_end:
        yield from lines(path, await_end)


def lines(path: Path, await_end: Callable[[float], bool]) -> Iterator[str]:
    """The lines of a log, without line ends, until whoever writes it has ended.

    Args:
        await_end: waits for that end, at most so many seconds; says whether it has come.
    """
    with path.open("rb") as log:
        rest = b""
        while True:
            ended = await_end(0)
            while data := log.read(1 << 16):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    yield _text(line)
            if ended:
                break
            await_end(LOOK_SECONDS)
        if rest:
            yield _text(rest)


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


@contextlib.contextmanager
def worker_process(folder: JobFolder, worker: int) -> Iterator[Callable[[float], bool]]:
    """Waits for the end of a worker's process, at most so many seconds; says whether it has ended."""
    descriptor = _open(folder, worker)
    if descriptor is None:
        yield lambda seconds: True
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        yield lambda seconds: bool(poll.poll(1000 * seconds))
    finally:
        os.close(descriptor)


def _open(folder: JobFolder, worker: int) -> int | None:
    try:
        process = json.loads(folder.workers.read_text(encoding="utf-8"))["workers"][str(worker)]
        return open_process(Process(**process))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it has ended, or has never begun
