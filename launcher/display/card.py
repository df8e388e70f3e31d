"""Draws how a job stands as a card of HTML, for notebooks: pure, and readable on a light as on a dark ground."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from launcher.display import progress
from launcher.display.curves import Point, sparkline
from launcher.handle import ENDED

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status, WorkerStatus

WORKERS = 12  # more are counted by state
ACCENT, GOOD, WAITING, BAD, IDLE = "#2f81f7", "#17804a", "#b97209", "#d1352f", "#7d8794"
OF_PHASE = {"done": GOOD, "failed": BAD, "stopped": WAITING, "training": ACCENT, "working": ACCENT}
OF_STATE = {"training": GOOD, "ready": GOOD, "pending": WAITING, "leaving": WAITING, "unheard": WAITING}
FAINT = "opacity:0.7"
FRAME = (
    "box-sizing:border-box;max-width:640px;margin:4px 0;padding:10px 14px;border:1px solid rgba(128,128,128,0.4);"
    "border-radius:8px;font:13px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums"
)


@dataclass(frozen=True)
class Card:
    """What is shown of a job.

    Attributes:
        status: the newest; None: the job is still being started.
        losses: step and loss.
        stage: how far the launcher's own work is, before there is a status.
        lines: what has happened, the newest last.
        page: the dashboard's URL; empty: there is nothing to open.
    """

    name: str = ""
    status: Status | None = None
    losses: Sequence[Point] = ()
    stage: str = ""
    lines: Sequence[str] = ()
    page: str = ""

    def html(self) -> str:
        """The card."""
        return f'<div style="{FRAME}">{"".join(self._parts())}</div>'

    def text(self) -> str:
        """The same in words, for front ends that show no HTML."""
        status = self.status
        if status and status.phase not in ENDED and (status.position.step or status.work.records_done):
            return f"{self.name}: {progress.summary(status)}"
        return "\n".join(self.lines) or next(filter(None, self._busy()), f"{self.name} is starting".strip())

    def _parts(self) -> Iterable[str]:
        status = self.status
        yield _head(self.name, status.phase if status else "starting", self.page)
        if status and status.phase != "starting":
            yield _bar(progress.fraction(status))
            yield f"<div>{escape(progress.summary(status))}</div>"
        if self.losses[1:]:
            yield _loss(self.losses)
        if status and status.phase not in ENDED:
            yield _workers(status.workers)
        yield "".join(f'<div style="{FAINT}">{escape(line)}</div>' for line in self._busy() if line)
        lines = "".join(f'<div style="white-space:pre-wrap">{escape(line)}</div>' for line in self.lines)
        yield f'<div style="{FAINT};margin-top:6px;font-size:12px">{lines}</div>' if lines else ""

    def _busy(self) -> Sequence[str]:
        """What goes on just now, besides training."""
        if self.status is None:
            return [self.stage]
        return [] if self.status.phase in ENDED else [progress.headline(self.status), *progress.waits(self.status)]


def _head(name: str, phase: str, page: str) -> str:
    link = f'<a href="{escape(page)}" target="_blank" rel="noopener noreferrer">dashboard</a>' if page else ""
    color = OF_PHASE.get(phase, IDLE)
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline">'
        f'<b>{escape(name)}</b><span style="flex:1">{_dot(color)}{escape(phase)}</span>{link}</div>'
    )


def _dot(color: str) -> str:
    return (
        '<span style="display:inline-block;width:8px;height:8px;border-radius:4px;margin-right:5px;'
        f'background:{color}"></span>'
    )


def _bar(fraction: float) -> str:
    percent = f"{100 * fraction:.0f}"
    return (
        '<div style="display:flex;align-items:center;gap:10px;margin:6px 0 2px">'
        '<div role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" style="flex:1;height:6px;border-radius:3px;overflow:hidden;'
        'background:rgba(128,128,128,0.25)">'
        f'<div style="width:{100 * fraction:.2f}%;height:100%;background:{ACCENT}"></div></div>'
        f'<span style="min-width:3.2em;text-align:right">{percent} %</span></div>'
    )


def _loss(losses: Sequence[Point]) -> str:
    (first, began), (last, now) = losses[0], losses[-1]
    said = f"loss {began:.4g} at step {first:,.0f}, {now:.4g} at step {last:,.0f}"
    return f'<div style="{FAINT};margin-top:6px;font-size:12px">{said}</div>{sparkline(losses, said)}'


def _workers(workers: Sequence[WorkerStatus]) -> str:
    """A mark for each worker, or for each state they are in."""
    if len(workers) > WORKERS:
        counted = sorted(Counter(each.state for each in workers).items())
        marks = [(OF_STATE.get(state, IDLE), f"{number:,} {state}") for state, number in counted]
    else:
        marks = [(OF_STATE.get(each.state, IDLE), f"worker {each.id} {each.state}") for each in workers]
    shown = "".join(f"<span>{_dot(color)}{escape(text)}</span>" for color, text in marks)
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 14px;margin-top:6px">{shown}</div>' if shown else ""


def loss_point(status: Status) -> Point | None:
    """The point of the loss curve that a status tells; None: it tells none."""
    if status.job in progress.TASKS or not status.position.step or math.isnan(status.loss):
        return None
    return float(status.position.step), status.loss
