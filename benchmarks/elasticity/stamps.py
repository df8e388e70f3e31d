"""What a fault has cost, from nothing but the times at which the training processes had finished their steps.

Every framework's processes note those times themselves, in the same way (benchmarks/peers/stamp.py), so the figures of
one can be put beside those of another.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from edl_allreduce.errors import EdlError

T = TypeVar("T")

LOOK_SECONDS = 0.05  # other processes' files: there is no event to await
CLOCK_SLACK_SECONDS = 0.1


class TooLate(EdlError):
    """What was waited for has not come."""


@dataclass(frozen=True, order=True)
class Stamp:
    """A process had finished a step.

    Attributes:
        time: seconds of the machine's monotonic clock.
        ring: together with the process it says in which ring (process group) the step was done.
    """

    time: float
    pid: int
    step: int
    ring: int


@dataclass(frozen=True)
class Aftermath:
    """What followed from a fault.

    Attributes:
        next_step: seconds from the fault to the first step of a ring that was made after it.
        pause: seconds from the last step of the rings before it to that step.
        repeated: steps that the survivors had done and do again.
        ring: of that first step.
    """

    next_step: float
    pause: float
    repeated: int
    ring: int


@dataclass(frozen=True)
class Span:
    """A numbered ring: its first step, and when it was decided on (monotonic seconds)."""

    number: int
    first_step: int
    began: float


class StampLog:
    """The stamps of all processes that write into a folder, read as they come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._stamps: list[Stamp] = []

    def read(self) -> Sequence[Stamp]:
        """All stamps so far, in the order of their times."""
        for path in self._folder.iterdir():
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            self._stamps += [_parse(int(path.name), line) for line in whole.splitlines()]
        self._stamps.sort()
        return self._stamps

    def since(self, when: float) -> Sequence[Stamp]:
        """The stamps from that time on."""
        stamps = self.read()
        return stamps[bisect_left(stamps, Stamp(when, 0, 0, 0)) :]


def aftermath(stamps: Iterable[Stamp], at: float, victim: int | None = None) -> Aftermath | None:
    """What followed from a fault at time `at`; None when no step has followed yet.

    The first step after it is the first one of a ring in which nobody had done a step before: a step that was all but
    done when the fault came may still be finished without the victim, and says nothing.

    Args:
        victim: a process that cannot go on; a step that only it has finished is nobody's loss.
    """
    before, after = _split(stamps, at)
    known = {(each.pid, each.ring) for each in before}
    first = min((each for each in after if (each.pid, each.ring) not in known), default=None)
    if first is None:
        return None
    old = [each for each in (*before, *after) if (each.pid, each.ring) in known and each < first]
    survivors = [each.step for each in old if each.pid != victim]
    repeated = max(survivors, default=0) + 1 - first.step
    return Aftermath(first.time - at, first.time - max(old).time, max(0, repeated), first.ring)


def longest_gap(stamps: Iterable[Stamp], begin: float, end: float) -> float:
    """The longest time between two steps, of anybody, that touches the time from `begin` to `end`."""
    times = sorted(each.time for each in stamps)
    return max((b - a for a, b in pairwise(times) if b > begin and a < end), default=0.0)


def members(stamps: Sequence[Stamp], now: float, seconds: float, steps: int) -> list[int]:
    """The processes that have done at least so many steps in the ring of their newest one, within the last seconds."""
    newest = {each.pid: each for each in stamps}
    done: dict[tuple[int, int], int] = {}
    for each in stamps:
        done[each.pid, each.ring] = done.get((each.pid, each.ring), 0) + 1
    fresh = [each for each in newest.values() if each.time > now - seconds and done[each.pid, each.ring] >= steps]
    return sorted(each.pid for each in fresh)


def within(stamps: Iterable[Stamp], spans: Sequence[Span]) -> list[Stamp]:
    """The stamps with their rings, from the rings' first steps.

    Leaves out what was not done in a ring at its time: a newcomer tries its step, alone, before it joins.

    Args:
        spans: in their order.
    """
    found, firsts = [], [span.first_step for span in spans]
    for stamp in stamps:
        place = bisect_right(firsts, stamp.step) - 1
        if place < 0:
            continue
        ends = spans[place + 1].began if place + 1 < len(spans) else float("inf")
        if spans[place].began - CLOCK_SLACK_SECONDS <= stamp.time <= ends + CLOCK_SLACK_SECONDS:
            found.append(replace(stamp, ring=spans[place].number))
    return found


def until(ready: Callable[[], T | None], seconds: float, what: str) -> T:
    """Waits for something that only the outside can tell.

    Raises:
        TooLate: it has not come within so many seconds.
    """
    end = time.monotonic() + seconds
    while (result := ready()) is None:
        if time.monotonic() >= end:
            raise TooLate(f"{what} did not come within {seconds:g} s")
        time.sleep(LOOK_SECONDS)
    return result


def _split(stamps: Iterable[Stamp], at: float) -> tuple[list[Stamp], list[Stamp]]:
    before: list[Stamp] = []
    after: list[Stamp] = []
    for each in stamps:
        (after if each.time > at else before).append(each)
    return before, after


def _parse(pid: int, line: bytes) -> Stamp:
    when, step, ring = line.split()
    return Stamp(float(when), pid, int(step), int(ring))
