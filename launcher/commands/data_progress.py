"""How far a data command is: a bar on a terminal, a plain line now and then in a pipe, nothing when it is quick."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_SECONDS = 5.0  # between two lines


class DataProgress(Protocol):
    """What a command tells while it works."""

    def report(self, stage: str, done: int, total: int) -> None:
        """How much of `total` is done; `stage` names what, in the past tense."""

    def note(self, line: str) -> None:
        """A line that stays."""


class _Plain:
    def __init__(self, unit: str, out: TextIO, clock: Callable[[], float]) -> None:
        self._unit, self._out, self._clock = unit, out, clock
        self._said_at = clock()

    def report(self, stage: str, done: int, total: int) -> None:
        if self._clock() - self._said_at >= PLAIN_SECONDS:
            self._said_at = self._clock()
            unit = "files" if stage == "read" else self._unit
            self.note(f"{stage} {done:,} of {total:,} {unit}")

    def note(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, int] = {}

    def report(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._bar.task_ids[list(self._tasks).index(stage)], completed=done, total=total)

    def note(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(
    unit: str, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[DataProgress]:
    """Shows on stderr (or `out`) how far a command is; `unit` is what it counts."""
    out = out or sys.stderr
    if not out.isatty():
        yield _Plain(unit, out, clock)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=out), transient=True) as bar:
        yield _Bar(bar)
