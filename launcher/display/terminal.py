"""Shows a job's progress to a stream: alive on a terminal, as plain lines in a pipe, or not at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from launcher.display import progress
from launcher.handle import ENDED, RUNNING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from edl_allreduce.control.control_pb2 import Status

PLAIN_SECONDS = 5.0  # between two lines without news
RESULT_SECONDS = 5.0  # between two lines with figures
LAST_PHASES = ENDED | {"exporting", "stopping"}  # nothing follows
PIPE_WIDTH = 160  # of a screen that no terminal shows


class Silent:
    """Shows nothing; the interface of the others."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def introduce(self, name: str) -> None:
        """Learns what the job is called."""

    def link(self, page: str) -> None:
        """Shows the URL of the job's dashboard."""
        self.note(f"dashboard: {page}")

    def join(self, status: Status) -> None:
        """Begins in the middle of a job: what has happened before is not told."""

    def show(self, status: Status) -> None:
        """Shows a newer status."""

    def note(self, line: str) -> None:
        """Shows a line of the launcher's own."""

    def stage(self, line: str) -> None:
        """Shows how far the launcher's own work is, such as building an image; each line replaces the one before."""

    def end(self, status: Status, output: str, logs: str) -> None:
        """Shows how it ended, and where everything is."""


class Results:
    """Figures of epochs or of evaluations: every line where they are rare, the newest every few seconds where not."""

    def __init__(self, lines: Callable[[Status], list[tuple[int, str]]], clock: Callable[[], float]) -> None:
        self._lines, self._clock = lines, clock
        self._told, self._told_at = -1, -RESULT_SECONDS  # up to which step

    def skip(self, status: Status) -> None:
        """Nothing of this is told later."""
        self._told = max((step for step, _ in self._lines(status)), default=-1)

    def fresh(self, status: Status) -> list[str]:
        """What is to be told now."""
        known = self._lines(status)
        newest = known[-1][0] if known else -1
        self._told = min(self._told, newest)  # smaller: steps are done again, from an older checkpoint
        due = self._clock() - self._told_at >= RESULT_SECONDS or status.phase in LAST_PHASES
        if newest == self._told or not due:
            return []
        self._told, self._told_at = newest, self._clock()
        return [known[-1][1]]


class News:
    """What has changed from status to status, in lines."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._before: Status | None = None
        self._results = [Results(lines, clock) for lines in (progress.epoch_lines, progress.evaluation_lines)]

    def skip(self, status: Status) -> None:
        """Nothing of this is told later."""
        self._before = status
        for each in self._results:
            each.skip(status)

    def lines(self, status: Status) -> list[str]:
        """What is new in a status."""
        before, self._before = self._before, status
        return [*progress.changes(before, status), *(line for each in self._results for line in each.fresh(status))]


class Plain(Silent):
    """One line for every change, and one every few seconds."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock, self._news = out, clock, News(clock)
        self._summary, self._said_at, self._staged_at = "", clock(), -PLAIN_SECONDS

    def join(self, status: Status) -> None:
        self._news.skip(status)
        if status.phase in RUNNING:
            self._summary = progress.summary(status)
            self.note(self._summary)

    def show(self, status: Status) -> None:
        for line in self._news.lines(status):
            self.note(line)
        begun = status.position.step or status.work.tasks_done
        if begun and status.phase in RUNNING and self._clock() - self._said_at >= PLAIN_SECONDS:
            summary = progress.summary(status)
            if summary and summary != self._summary:
                self.note(summary)
            self._summary, self._said_at = summary, self._clock()

    def note(self, line: str) -> None:
        print(line, file=self._out, flush=True)

    def stage(self, line: str) -> None:
        if self._clock() - self._staged_at >= PLAIN_SECONDS:
            self._staged_at = self._clock()
            self.note(line)

    def end(self, status: Status, output: str, logs: str) -> None:
        for line in progress.ending(status, output, logs):
            self.note(line)


class Live(Silent):
    """A bar and a line that stay at the bottom of the terminal; changes pass by above them."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live as RichLive
        from rich.spinner import Spinner

        self._console, self._news = console, News(time.monotonic)
        self._spinner = Spinner("dots", "starting")
        self._live = RichLive(self._spinner, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def join(self, status: Status) -> None:
        self._news.skip(status)

    def show(self, status: Status) -> None:
        lines = self._news.lines(status)
        for line in lines if status.phase != "starting" else []:  # while starting, the spinner says it
            self.note(line)
        if status.phase not in ENDED:
            self._live.update(self._picture(status))

    def note(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def stage(self, line: str) -> None:
        from rich.text import Text

        self._spinner.update(text=Text(line, no_wrap=True, overflow="ellipsis"))
        self._live.update(self._spinner)

    def end(self, status: Status, output: str, logs: str) -> None:
        self._live.stop()
        for line in progress.ending(status, output, logs):
            self.note(line)

    def _picture(self, status: Status) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        busy = progress.headline(status)
        if busy:
            self._spinner.update(text=Text(busy))
        rows = Table.grid()
        if status.phase != "starting":
            width = min(60, self._console.width)
            rows.add_row(ProgressBar(total=1.0, completed=progress.fraction(status), width=width))
            rows.add_row(Text(progress.summary(status), no_wrap=True, overflow="ellipsis"))
        if busy or status.phase == "starting":
            rows.add_row(self._spinner)
        for line in progress.waits(status):
            rows.add_row(Text(line, no_wrap=True, overflow="ellipsis", style="yellow"))
        return rows


@contextlib.contextmanager
def screens_on(out: TextIO, name: str, live: bool) -> Iterator[Callable[[Status], None]]:
    """Shows whole screens of the job called `name`, each in the place of the one before if `live` on a terminal.

    In a pipe a live one is printed anew every few seconds.
    """
    from rich.console import Console
    from rich.live import Live as RichLive

    from launcher.display.status_screen import screen

    console = Console(file=out) if out.isatty() else Console(file=out, width=PIPE_WIDTH, color_system=None)
    if live and console.is_terminal and not console.is_dumb_terminal:
        with RichLive(console=console, auto_refresh=False) as picture:
            yield lambda status: picture.update(screen(name, status), refresh=True)
        return
    said_at: list[float] = []

    def show(status: Status) -> None:
        if status.phase in ENDED or not said_at or time.monotonic() - said_at[-1] >= PLAIN_SECONDS:
            said_at[:] = [time.monotonic()]
            with console.capture() as captured:
                console.print(screen(name, status))
            lines = captured.get().splitlines()
            print("\n".join(line.rstrip() for line in lines), file=out, flush=True)

    yield show
