"""What the workers' time goes into: their heartbeats tell what each is doing at that moment, and are counted.

So this is a sample, of a few heartbeats a second and worker: shares of time, not seconds of one step. A line of the
history tells the counts since the line before it. There is one a second at first, and fewer the longer the job lasts.
"""

from __future__ import annotations

from edl_allreduce.control import control_pb2 as pb

KINDS = {
    pb.READING: "input",
    pb.COMPUTING: "compute",
    pb.REDUCING: "allreduce",
}
OTHER = "other"
NAMES = (*KINDS.values(), OTHER)
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
SECONDS = (1.0, 30.0)  # between two lines: at first, and at most
PART = 0.01  # between them: of the time since the job began


class Tally:
    """Counts heartbeats until there are enough for a line."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(NAMES, 0)
        self._told_at = 0.0

    def note(self, doing: pb.Activity.ValueType, now: float, began_at: float) -> dict[str, int] | None:
        """Counts what a worker was doing at a time; all that was counted, when it is time to tell it.

        Args:
            now, began_at: seconds since 1970; the second one is when the first round began.
        """
        self._counts[KINDS.get(doing, OTHER)] += 1
        first, most = SECONDS
        if now - max(self._told_at, began_at) < min(most, max(first, PART * (now - began_at))):
            return None
        counts, self._counts, self._told_at = self._counts, dict.fromkeys(NAMES, 0), now
        return counts
