"""Writes a training's history as TensorBoard's event files, in a thread of its own: OUTPUT/tensorboard.

train/…        of each step: loss, records_per_second, step_seconds, and every second learning_rate
epoch/…        of each epoch: loss and metrics on the training data
validation/…   of each evaluation
job/workers    how many there were; job/reforms tells at which step a round began, and why
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edl_allreduce import storage
from edl_allreduce.errors import StorageError
from edl_allreduce.storage_ranges import local_path

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
UPLOAD_SECONDS = 60.0  # between two uploads, where the output is not a local folder

Line = Mapping[str, Any]


class TensorBoard:
    """The event file of one coordinator.

    Args:
        output: the job's, folder or URL.
        spare: a local folder, for an output that is none.
        clock: seconds.
    """

    def __init__(self, output: str, spare: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = storage.join(output, FOLDER), clock
        self._folder = spare / FOLDER if storage.is_remote(output) else Path(local_path(self._url))
        self._remote = storage.is_remote(output)
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tensorboard", daemon=True)
        self._thread.start()

    def note(self, line: Line) -> None:
        """Takes a line of the history; returns at once."""
        self._lines.put(line)

    def close(self, timeout: float = 10.0) -> None:
        """Returns when everything is written, or after so many seconds."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        try:
            self._write()
        except Exception:  # a training does not end over this
            log.exception("%s: no more is written", self._url)

    def _write(self) -> None:
        from tensorboardX import SummaryWriter

        writer, uploaded = None, self._clock()
        while (line := self._lines.get()) is not None:
            if writer is None:
                first = line.get("first_step", line.get("step"))  # a step: of a round that an earlier coordinator began
                if first is None:
                    continue
                writer = SummaryWriter(str(self._folder), purge_step=first, flush_secs=2)
            for tag, value, step in scalars_of(line):
                writer.add_scalar(tag, value, step)
            if text := reform_of(line):
                writer.add_text("job/reforms", *text)
            if self._remote and "epoch_end" in line and self._clock() - uploaded > UPLOAD_SECONDS:
                writer.flush()
                self._upload()
                uploaded = self._clock()
        if writer is not None:
            writer.close()
            if self._remote:
                self._upload()

    def _upload(self) -> None:
        try:
            storage.upload_tree(str(self._folder), self._url)
        except StorageError as error:
            log.warning("%s", error)


def scalars_of(line: Line) -> Iterator[tuple[str, float, int]]:
    """Tag, value and step of everything that a line of the history says in numbers."""
    match line:
        case {"step": step, "loss": loss, "records": records, "seconds": seconds}:
            yield "train/loss", loss, step
            if seconds:
                yield "train/step_seconds", seconds, step
                yield "train/records_per_second", records / seconds, step
            if line.get("learning_rate"):
                yield "train/learning_rate", line["learning_rate"], step
        case {"cause": _, "members": members, "first_step": step}:
            yield "job/workers", len(members), step
        case {"epoch_end": _, "step": step, "figures": figures}:
            for name, value in figures.items():
                group = "validation" if name.startswith("val_") else "epoch"
                yield f"{group}/{name.removeprefix('val_')}", value, step
        case {"evaluation": step, "figures": figures}:
            for name, value in figures.items():
                yield f"validation/{name}", value, step


def reform_of(line: Line) -> tuple[str, int] | None:
    """Why a round began, and its first step."""
    match line:
        case {"cause": cause, "round": number, "members": members, "first_step": step}:
            return f"round {number} with {len(members)} workers: {cause}", step
    return None
