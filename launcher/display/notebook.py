"""Shows a job's progress below a notebook's cell, as a card that is drawn anew in its place."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from launcher.display import progress
from launcher.display.card import Card, loss_point
from launcher.display.curves import Curve
from launcher.display.terminal import News, Silent

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

LINES = 6  # of what has happened; `edl events` tells all
Publish = Callable[[dict[str, str]], None]


class Place:
    """A place in the output of the cell that runs: shows a MIME bundle there, instead of the one before."""

    def __init__(self) -> None:
        from IPython.display import DisplayHandle

        self._handle: Any = cast(Any, DisplayHandle)()  # IPython has types, but not here
        self._begun = False

    def __call__(self, bundle: dict[str, str]) -> None:
        show = self._handle.update if self._begun else self._handle.display
        self._begun = True
        show(bundle, raw=True)


class Notebook(Silent):
    """A card with a bar, the loss curve, the workers, and what has happened last.

    Args:
        publish: shows a MIME bundle, such as a `Place` does.
    """

    def __init__(self, publish: Publish, clock: Callable[[], float] = time.monotonic) -> None:
        self._publish, self._news, self._losses = publish, News(clock), Curve()
        self._card, self._lines = Card(), deque[str](maxlen=LINES)
        self._lock = threading.Lock()  # a signal's thread has things to say, too

    def introduce(self, name: str) -> None:
        self._show(name=name)

    def link(self, page: str) -> None:
        self._show(page=page)

    def join(self, status: Status) -> None:
        self._news.skip(status)

    def show(self, status: Status) -> None:
        if point := loss_point(status):
            self._losses.add(*point)
        lines = self._news.lines(status)
        lines = [] if status.phase == "starting" else lines  # while starting, the card says it
        self._show(lines, status=status, losses=tuple(self._losses.points))

    def note(self, line: str) -> None:
        self._show([line])

    def stage(self, line: str) -> None:
        self._show(stage=line)

    def end(self, status: Status, output: str, logs: str) -> None:
        """The dashboard has gone with the job, so its URL, which holds the token, does not stay in the notebook."""
        self._show(progress.ending(status, output, logs), status=status, page="")

    def _show(self, lines: Sequence[str] = (), **changed: Any) -> None:
        with self._lock:
            self._lines.extend(lines)
            self._card = replace(self._card, lines=tuple(self._lines), **changed)
            self._publish({"text/html": self._card.html(), "text/plain": self._card.text()})
