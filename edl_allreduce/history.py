"""What a job's history is made of, for those who write it, read it and learn from it: one JSON line for each thing.

Every line but those of steps has also a "time", in seconds since 1970:

    {"round": 3, "members": [0, 2], "lanes": [32, 32], "cause": "worker 1 hung", "kind": "hung", "first_step": 120, …}
    {"round": 3, "paused_seconds": 0.21}                 nobody was stepping for so long before its first step
    {"round": 3, "repeated": 64}                         records that must be computed once more because it failed
    {"step": 120, "epoch": 1, "loss": 0.31, "records": 64, "seconds": 0.013, "useful": 0.012}
    {"checkpoint": 100, "bytes": 91234, "seconds": 0.04, "blocked_seconds": 0.0001}     or with "error"
    {"skipped": 1, "file": "a.recordio", "offset": 0, "first": 17, "error": "…"}
    {"notice": "auc_of_mine cannot be added up …"}       what a worker wants the modeler to know, once
    {"tasks": [17], "records": 4096, "sums": "…"}        of a job of tasks; sums in base64, see TaskDone (control.proto)
    {"evaluation": 120, "epoch": 1, "figures": {"loss": 0.3, "auc": 0.91}, "seconds": 0.2}     0: of a trained model
    {"epoch_end": 1, "step": 120, "figures": {"loss": 0.31, "val_loss": 0.3}, "seconds": 0.2, "stopped": ""}
    {"activity": {"input": 3, "compute": 31, "allreduce": 9, "other": 1}}     heartbeats since the last such line
    {"target": 4}                                        somebody wants so many workers
    {"restart": 1}                                       another coordinator has taken over
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

Line = dict[str, Any]

STEP_KEYS = frozenset({"loss", "tasks", "activity"})  # one of them is in a line of which there are very many


def parsed(text: str | bytes) -> Line | None:
    """A line of a history; None: it is damaged, or was cut off when its coordinator died."""
    with contextlib.suppress(ValueError, RecursionError):
        line = json.loads(text)
        return line if isinstance(line, dict) else None
    return None


def is_wanted(line: Mapping[str, Any], steps: bool) -> bool:
    """Whether a line is for somebody who wants to know of every step and task, or not of those."""
    return steps or not line.keys() & STEP_KEYS
