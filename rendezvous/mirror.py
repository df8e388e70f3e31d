"""Keeps a second copy of a job's history where its output is: the record of that run, which `edl dashboard` shows.

A coordinator in a pod has no disk that outlives it; there it is also what the next coordinator learns from.

OUTPUT/_runs/NAME/
├── history-000001.jsonl …       the lines of history.jsonl, in parts: of a long run only the newest is written again
├── dataset.pb, validation.pb    as in the job's folder
├── spec.json                    the JobSpec as the workers are told it
└── status.json                  the last Status, when the job has ended
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edl_allreduce import storage
from edl_allreduce.errors import StorageError
from edl_allreduce.job_folder import RUNS, JobFolder
from edl_allreduce.storage_retry import no_persistence, persist
from edl_allreduce.task_spec import EvaluateSpec, Job

log = logging.getLogger(__name__)

PART_BYTES = 1 << 18
FLUSH_SECONDS = (1.0, 3.0)  # after a line is written: when it is no step, when it is one
RETRY_SECONDS = 10.0
STATUS = "status.json"
PART = re.compile(r"history-([0-9]{6,})\.jsonl")


def url_of(spec: Job, job: str) -> str:
    """Where the record of a job is kept; empty: nowhere, since it has no folder of output."""
    return "" if isinstance(spec, EvaluateSpec) else storage.join(spec.output.output, RUNS, job)


def recall(url: str, folder: JobFolder, restarts: int) -> None:
    """Brings back what coordinators before have left; before a job's first one, the record of another job gives way.

    Args:
        url: see `url_of`; empty: nothing is kept.
        folder: the job's; nothing is brought back where the disk still has it.
        restarts: how many coordinators of this job there have been before.

    Raises:
        StorageError: it cannot be read, or not be removed.
    """
    if url and not restarts:
        storage.remove_folder(url)  # of another job that had this name
    elif url and not folder.history.exists():
        persist(lambda: _restore(url, folder))


def _restore(url: str, folder: JobFolder) -> None:
    """Brings back what a job's mirror holds, into a folder that has no history."""
    names = set(storage.names_in(url) or ())
    for path in (folder.dataset, folder.validation):
        if path.name in names:
            storage.write_bytes_atomic(str(path), storage.read_bytes(storage.join(url, path.name)))
    if parts := sorted(name for name in names if PART.fullmatch(name)):
        temporary = folder.history.with_suffix(".part")
        with open(temporary, "wb") as out:
            for name in parts:
                out.write(storage.read_bytes(storage.join(url, name)))
        temporary.replace(folder.history)


class Mirror:
    """Copies the history of a job in progress, in a thread of its own; what fails is tried again.

    Which line is in which part follows from the history alone, so that a new coordinator goes on where the old one was.

    Args:
        url: where.
        folder: of what.
        on_kept: told, in the thread, up to which step the history is there now.
    """

    def __init__(self, url: str, folder: JobFolder, on_kept: Callable[[int], None] = lambda step: None) -> None:
        self._url, self._folder, self._on_kept = url, folder, on_kept
        self._number, self._begin, self._end = 1, 0, 0  # the newest part: of the history's bytes, those in the mirror
        self._there: set[str] = set()  # other files that are in the mirror
        self._wake = threading.Condition()
        self._begun = self._flushed = self._urgent = self._closing = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def note(self, line: Mapping[str, Any]) -> None:
        """A line has been written to the history; returns at once."""
        if not line.keys() & {"loss", "activity"}:
            with self._wake:
                self._urgent = True
                self._wake.notify()

    def close(self, seconds: float) -> bool:
        """Returns when all is in the mirror, or after so many seconds; whether it is."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive() and self._flushed

    def end(self, status: str, seconds: float) -> None:
        """The job has ended, with this Status in JSON; returns when all is in the mirror, or cannot be in that time."""
        done = self.close(seconds)
        try:
            with contextlib.nullcontext() if done else no_persistence():
                persist(lambda: storage.write_bytes_atomic(storage.join(self._url, STATUS), status.encode()))
        except StorageError as error:
            log.warning("the status cannot be kept in the output: %s", error)
        if not done:
            log.warning("%s: the end of the history is missing", self._url)

    def _work(self) -> None:
        while True:
            with self._wake:
                closing = self._closing
                self._urgent = False
            self._flushed = self._try_to_flush()
            if closing and self._flushed:
                return
            soon, later = FLUSH_SECONDS if self._flushed else (RETRY_SECONDS, RETRY_SECONDS)
            if closing:
                time.sleep(FLUSH_SECONDS[0])  # whoever closes waits no longer than it wants to
                continue
            with self._wake:
                self._wake.wait_for(lambda: self._closing, soon)
                self._wake.wait_for(lambda: self._closing or self._urgent, later - soon)

    def _try_to_flush(self) -> bool:
        try:
            with no_persistence():
                self._begun = self._begun or self._begin_at_newest_part()
                self._flush_files()
                self._flush_history()
        except StorageError as error:
            log.warning("history cannot be kept in the output: %s", error)
            return False
        except Exception:  # a training does not end over this
            log.exception("history cannot be kept in %s", self._url)
            return False
        return True

    def _begin_at_newest_part(self) -> bool:
        """Passes over the parts that an earlier coordinator has finished."""
        names = storage.names_in(self._url) or ()
        newest = max((int(found[1]) for name in names if (found := PART.fullmatch(name))), default=1)
        while self._number < newest and (part := _part(self._folder.history, self._begin)):
            self._number, self._begin = self._number + 1, self._begin + len(part)
        return True

    def _flush_files(self) -> None:
        for path in (self._folder.dataset, self._folder.validation, self._folder.spec):
            if path.name not in self._there and path.exists():
                storage.write_bytes_atomic(storage.join(self._url, path.name), path.read_bytes())
                self._there.add(path.name)

    def _flush_history(self) -> None:
        """Writes the newest part again as far as it has grown, and those that follow it."""
        while (part := _part(self._folder.history, self._begin)) and self._begin + len(part) > self._end:
            storage.write_bytes_atomic(storage.join(self._url, f"history-{self._number:06d}.jsonl"), part)
            self._end = self._begin + len(part)
            step = _newest_step(part)
            if len(part) >= PART_BYTES:
                self._number, self._begin = self._number + 1, self._end
            if step is not None:
                self._on_kept(step)


def _part(path: Path, begin: int) -> bytes:
    """The whole lines from `begin` on, until they are a part."""
    with open(path, "rb") as file:
        file.seek(begin)
        data = file.read(PART_BYTES)
        if len(data) == PART_BYTES and not data.endswith(b"\n"):
            data += file.readline()
    return data[: data.rfind(b"\n") + 1]


def _newest_step(part: bytes) -> int | None:
    """The step told last; None: there is none."""
    for text in reversed(part.splitlines()):
        with contextlib.suppress(ValueError):  # a line that a dying coordinator has cut off
            line = json.loads(text)
            if "loss" in line and "step" in line:
                return int(line["step"])
    return None
