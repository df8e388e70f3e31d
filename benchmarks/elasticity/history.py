"""Reads what a job of ours has told about itself: its history, and the times in its coordinator's log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.elasticity.stamps import Span

DAY_SECONDS = 86400


@dataclass(frozen=True)
class Round:
    """A round as history.jsonl has it.

    Attributes:
        time: when it was decided on, seconds since 1970.
        paused_seconds: how long nobody was stepping before its first step; None: not told.
    """

    number: int
    size: int
    kind: str
    first_step: int
    time: float
    paused_seconds: float | None


def rounds(history: Path) -> list[Round]:
    """The rounds so far, in their order."""
    lines = list(_told(history, "round"))
    pauses = {line["round"]: line["paused_seconds"] for line in lines if "paused_seconds" in line}
    return [_round(line, pauses.get(line["round"])) for line in lines if "cause" in line]


def steps(history: Path) -> list[dict[str, Any]]:
    """The line of every step that counts, in the order of the steps; of one that was done again, the last."""
    newest = {line["step"]: line for line in _told(history, "useful")}
    return [newest[step] for step in sorted(newest)]


def spans(found: Sequence[Round], offset: float) -> list[Span]:
    """Rounds as rings of the monotonic clock.

    Args:
        offset: of the wall clock to the monotonic one, in seconds.
    """
    return [Span(each.number, each.first_step, each.time - offset) for each in found]


def logged(log: Path, text: str, since: float) -> Iterator[float]:
    """When lines that contain `text` were written, in seconds since 1970, from the time `since` on.

    The log has times of day, in milliseconds, local time.
    """
    there = time.localtime(since)
    midnight = time.mktime((there.tm_year, there.tm_mon, there.tm_mday, 0, 0, 0, 0, 0, there.tm_isdst))
    for line in _whole_lines(log):
        if text not in line or not line[:2].isdigit():
            continue
        hours, minutes, seconds = line.split(" ", 1)[0].split(":")
        when = midnight + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        when += DAY_SECONDS * round((since - when) / DAY_SECONDS)
        if when >= since - 0.001:  # the log's times are cut off, not rounded
            yield when


def _round(line: dict[str, Any], paused_seconds: float | None) -> Round:
    size = len(line["members"])
    return Round(line["round"], size, line["kind"], line["first_step"], line["time"], paused_seconds)


def _told(history: Path, key: str) -> Iterator[dict[str, Any]]:
    """The lines that have the key; not all are parsed: those of steps are many."""
    lines = (json.loads(line) for line in _whole_lines(history) if f'"{key}"' in line)
    return (line for line in lines if key in line)


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()
