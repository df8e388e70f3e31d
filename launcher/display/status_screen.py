"""Shows all that is known of a job on one screen: `edl status`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from launcher.display import progress
from launcher.handle import ENDED

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from edl_allreduce.control.control_pb2 import Status, WorkerStatus

WORKERS, NEWEST = 16, 5  # at most so many workers, and rounds, evaluations and epochs
STYLES = {"done": "green", "failed": "red", "stopped": "yellow", "pending": "yellow", "leaving": "yellow"}
SLOW = 1.5  # times the median of all workers' compute times


def screen(name: str, status: Status) -> RenderableType:
    """The screen of a job."""
    from rich.console import Group
    from rich.text import Text

    phase = (f"{status.phase}", STYLES.get(status.phase, "bold"))
    parts: list[RenderableType] = [Text.assemble((name, "bold"), f"  {status.job} · " if status.job else "  ", phase)]
    parts += _progress(status)
    if status.workers and status.phase not in ENDED:
        parts += [Text(), _workers(status)]
    if status.rounds and len(status.rounds) + status.rounds[0].number > 2:
        parts += [Text(), _rounds(status)]
    facts = list(_facts(status))
    if facts:
        parts += [Text(), _grid(facts)]
    return Group(*parts)


def _progress(status: Status) -> Iterator[RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if status.phase != "starting":
        part = progress.fraction(status)
        bar = Table.grid(padding=(0, 1, 0, 0))
        bar.add_row(ProgressBar(total=1.0, completed=part, width=50), f"{100 * part:.0f} %")
        yield bar
        yield Text(progress.summary(status))
    said = status.message if status.phase in ENDED else progress.headline(status)
    if said:
        yield Text(said, style="red" if status.phase == "failed" else "")


def _workers(status: Status) -> Table:
    """The workers by rank, those without one after them."""
    from rich.text import Text

    waits = any(each.waits_for for each in status.workers)
    table = _table(
        "worker", "state", "host", "rank", "lanes", "compute", "heartbeat", *(["waits for"] if waits else [])
    )
    ordered = sorted(status.workers, key=lambda each: (each.rank < 0, each.rank, each.id))
    usual = statistics.median([each.compute_seconds for each in ordered if each.compute_seconds] or [0.0])
    for each in ordered[:WORKERS]:
        table.add_row(*_worker(each, usual), *([Text(each.waits_for)] if waits else []))
    if len(ordered) > WORKERS:
        table.add_row("…", f"{len(ordered) - WORKERS:,} more")
    return table


def _worker(worker: WorkerStatus, usual: float) -> Iterator[RenderableType]:
    from rich.text import Text

    in_round = worker.rank >= 0
    slow = worker.compute_seconds > SLOW * usual
    yield Text(str(worker.id))
    yield Text(worker.state, style=STYLES.get(worker.state, ""))
    yield Text(worker.host)
    yield Text(str(worker.rank) if in_round else "–")
    yield Text(str(worker.lanes) if in_round else "–")
    yield Text(milliseconds(worker.compute_seconds) if worker.compute_seconds else "–", style="yellow" if slow else "")
    yield Text(f"{worker.heartbeat_seconds:.1f} s ago" if worker.pid else "–")


def _rounds(status: Status) -> Table:
    table = _table("round", "workers", "from step", "paused", "began because")
    for each in list(status.rounds)[-NEWEST:]:
        again = f"; {each.repeated_records:,} records computed twice" if each.repeated_records else ""
        paused = f"{each.paused_seconds:.2f} s" if each.paused_seconds else "–"
        table.add_row(str(each.number), str(each.size), f"{each.first_step:,}", paused, f"{each.cause}{again}")
    return table


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    work = status.work
    if status.phase not in ENDED and work.tasks_done < work.tasks:
        yield "tasks", f"{work.tasks_done:,} of {work.tasks:,} done, {work.tasks_leased:,} in progress"
    yield from _goodput(status)
    for each in list(status.epochs)[-NEWEST:]:
        yield f"epoch {each.epoch + 1}", f"{progress.figures(each.values)}{f'; {each.stopped}' if each.stopped else ''}"
    ends = {each.step for each in status.epochs}
    for figures in [each for each in status.evaluations if each.step not in ends][-NEWEST:]:
        yield "evaluation", f"{f'step {figures.step:,}: ' if figures.step else ''}{progress.figures(figures.values)}"
    if status.HasField("checkpoint"):
        yield "checkpoint", f"step {status.checkpoint.step:,}"
    if status.checkpoint_error:
        yield "checkpoint", f"the last one could not be written: {status.checkpoint_error}"
    if status.skipped_records:
        yield "left out", progress.count(status.skipped_records, "bad record")
    for text in status.notices:
        yield "note", text
    if status.coordinator_restarts:
        yield "coordinator", f"restarted {progress.count(status.coordinator_restarts, 'time')}"


def _goodput(status: Status) -> Iterator[tuple[str, str]]:
    told = status.goodput
    if not told.wall_seconds:
        return
    share = f"{100 * told.useful_seconds / told.wall_seconds:.1f} % of {progress.clock(told.wall_seconds)}"
    yield "goodput", f"{share} in steps that count"
    lost = [f"{each.kind} {each.rounds} × {short(each.seconds / each.rounds)}" for each in told.lost if each.rounds]
    again = [f"{told.repeated_records:,} records computed twice"] if told.repeated_records else []
    if lost or again:
        yield "lost", ", ".join(lost + again)


def short(seconds: float) -> str:
    """A length of time that may be short or long."""
    return milliseconds(seconds) if seconds < 1 else progress.clock(seconds)


def milliseconds(seconds: float) -> str:
    """A length of time that is usually short: 0.8 ms, 12 ms, 1.3 s."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for each in columns[:-1]:
        table.add_column(each, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    return table


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(name, Text(text))
    return grid
