"""What one run of the benchmark is asked to do, and the order in which faults come."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

BATCH = 128
LEARNING_RATE = 0.00003  # slow, so that there is a curve to compare while workers come and go
SETTLE_SECONDS = (0.5, 1.5)  # steps in peace before the next fault; how long is left to chance
READY_SECONDS = 300.0  # for everybody to train again

LEAVE_AND_JOIN = "leave and join"


@dataclass(frozen=True)
class Settings:
    """A run.

    Attributes:
        kinds: the faults to measure.
        repeats, peer_repeats: how often each, with our workers and with others'.
        workers: how many train.
        limit: seconds after which a fault's end is no longer waited for.
        data: RecordIO files, as a pattern.
        output: folder for results.
    """

    kinds: tuple[str, ...]
    repeats: int
    peer_repeats: int
    workers: int
    limit: float
    data: str
    seed: int
    output: Path

    @property
    def work(self) -> Path:
        """Folder for jobs, logs and stamps; made anew by every run."""
        return self.output / "work"


def order_of(kinds: Collection[str], repeats: int, chance: random.Random) -> list[str]:
    """Which fault follows which: mixed, so that the machine's other load hits all kinds alike.

    A worker more is wanted after one less was, so these two come together, whichever of them is measured.
    """
    units = [kind for kind in kinds if kind not in ("leave", "join")]
    if "leave" in kinds or "join" in kinds:
        units.append(LEAVE_AND_JOIN)
    order = units * repeats
    chance.shuffle(order)
    return [each for unit in order for each in (("leave", "join") if unit == LEAVE_AND_JOIN else (unit,))]


def next_of(left: Mapping[str, int], size: int, full: int) -> str | None:
    """The next fault of a job whose lost workers do not come back by themselves; None: nothing is left to do.

    Args:
        left: how often each kind is still wanted.
        size, full: how many workers there are, and should be.
    """
    wanted = [kind for kind, number in left.items() if number > 0]
    if not wanted:
        return None
    if size < full:
        return "join"
    return next((kind for kind in wanted if kind != "join"), "leave")


def thread_settings(workers: int) -> dict[str, str]:
    """As many threads as our own workers get, and nothing on a GPU."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    return {
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": "2",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
