"""Samples descriptors and threads of a job's processes, and finds those that grow."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

WARM_SECONDS = 20.0  # libraries open and start what they need for good
LONG_SECONDS = 40.0  # a process that lives so much longer can grow
ALLOWED = {"descriptors": 10, "threads": 8}  # a ring of 4 has more connections than one of 2


def sample(name: str, pid: int) -> dict[str, Any] | None:
    """How much a process holds; None when it is no more."""
    try:
        threads, descriptors = len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    mebibytes = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return {"name": name, "pid": pid, "threads": threads, "descriptors": descriptors, "mebibytes": round(mebibytes, 1)}


def growth(samples: Iterable[Mapping[str, Any]]) -> list[tuple[str, dict[str, float]]]:
    """Each process that has lived long, with how much more it held in its last third than in its first.

    Args:
        samples: of `sample`, with their `time`, in order.
    """
    by_process: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for each in samples:
        by_process.setdefault((each["name"], each["pid"]), []).append(each)
    found = []
    for (name, _), own in by_process.items():
        warm = [each for each in own if each["time"] >= own[0]["time"] + WARM_SECONDS]
        if warm and warm[-1]["time"] - warm[0]["time"] >= LONG_SECONDS:
            third = max(1, len(warm) // 3)
            first, last = warm[:third], warm[-third:]
            quantities = (*ALLOWED, "mebibytes")
            found.append((name, {what: _typical(last, what) - _typical(first, what) for what in quantities}))
    return found


def _typical(samples: list[Mapping[str, Any]], what: str) -> float:
    return float(statistics.median(each[what] for each in samples))
