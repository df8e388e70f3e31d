"""What the workers' time goes into: their heartbeats tell what each is doing at that moment, and are counted.

So this is a sample, of four heartbeats a second and worker: shares of time, not seconds of one step.
"""

from __future__ import annotations

from collections.abc import Iterable

from edl_allreduce.control import control_pb2 as pb
from rendezvous.dashboard.table import Merge, Table

KINDS = {
    pb.READING: "input",
    pb.COMPUTING: "compute",
    pb.REDUCING: "allreduce",
}
OTHER = "other"
COLUMNS = {"time": Merge.LAST} | dict.fromkeys([*KINDS.values(), OTHER], Merge.SUM)
WORDS = {
    pb.WAITING: "waiting",
    pb.JOINING: "joining the ring",
    pb.SYNCHRONIZING: "receiving weights",
    pb.READING: "waiting for input",
    pb.COMPUTING: "computing",
    pb.REDUCING: "in allreduce",
    pb.LEAVING_RING: "leaving the ring",
    pb.EVALUATING: "evaluating",
    pb.CALLING_BACK: "running callbacks",
}


class Activities:
    """Counts of what workers were doing, over time."""

    def __init__(self) -> None:
        self.table = Table(COLUMNS, capacity=1 << 15)

    def note(self, time: float, seen: Iterable[pb.Activity.ValueType]) -> None:
        """Counts what was seen at a time, in seconds since 1970."""
        counts = dict.fromkeys(COLUMNS, 0)
        for each in seen:
            counts[KINDS.get(each, OTHER)] += 1
        del counts["time"]
        if any(counts.values()):
            newest = float(self.table.column("time")[-1]) if len(self.table) else 0.0
            self.table.append((max(time, newest), *counts.values()))
