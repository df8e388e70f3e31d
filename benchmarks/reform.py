"""What forming a ring costs: N members that share this machine, each with real Horovod, and the store of the round.

A member runs no TensorFlow, so hundreds fit into memory; nor do members reduce anything. They join, leave, and join
again. A time is that from the word until the last one has done it: with two cores it is the work of all, one after the
other, where a cluster would do it at the same time.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.fleet.members import ADDRESS
from benchmarks.fleet.process import Process, allow_files, process
from edl_allreduce.errors import EdlError
from rendezvous.store import Answer, Content, RoundStore

FILES_PER_WORKER = 4


def measure(
    workers: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 100, 200, 300),
    repeats: int = 3,
    short: bool = False,
    output: str = "out/reform",
) -> None:
    """Runs the benchmark.

    Args:
        workers: how many members a ring has, one after the other.
        repeats: how often each ring is made, by the same processes.
        short: a look at it: 2 and 8 members, twice.
        output: folder for results.
    """
    if short:
        workers, repeats = (2, 8), 2
    report = Report("reform", output, workers=workers, repeats=repeats)
    allow_files(max(workers), FILES_PER_WORKER)
    rows = []
    for number in workers:
        with process("members", str(number)) as members:
            members.line()  # they are there
            rows += [{"members": number} | _ring(members, number) for _ in range(repeats)]
    report.table("a ring of N members", rows)
    best = {each: min(row["joins, s"] for row in rows if row["members"] == each) for each in workers}
    report.close(partial(_panel, sorted(best.items())))


def _panel(joins: list[tuple[float, float]], axes: Any) -> None:
    plots.lines(axes, {"all have joined": joins}, "xy")
    axes.set_xlabel("members")
    plots.title(axes, "Seconds")


def _ring(members: Process, number: int) -> dict[str, float]:
    content = Counted()
    store, used, began = RoundStore(ADDRESS, content), time.process_time(), time.monotonic()
    joined = members.ask(f"join {store.port}")
    store.close()
    if joined["done"] < number:
        raise EdlError(f"{number - joined['done']} of {number} members could not join; what they said is above")
    left_at = time.monotonic()
    left = members.ask("leave")
    return {
        "joins, s": joined["when"] - began,
        "of a core, s, a member": joined["seconds"] / number,
        "of a core, s, the store": time.process_time() - used,
        "requests, a member": content.requests / number,
        "fewest sockets": joined["fewest"],
        "most": joined["most"],
        "leaves, s": left["when"] - left_at,
    }


class Counted(Content):
    """Knows how many requests the store has been sent."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    def take(self, method: str, path: str, body: bytes, answer: Answer) -> None:
        """Counts it, and answers."""
        self.requests += 1
        super().take(method, path, body, answer)


if __name__ == "__main__":
    run(measure)
