"""What a worker must tell about its steps, until it is known that every coordinator to come will know it as well."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import takewhile

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_to_message
from edl_allreduce.position import Position

STEPS_KEPT = 1 << 16  # until a coordinator says that its successor will know of them
STEPS_PER_MESSAGE = 1 << 13


@dataclass(frozen=True)
class Activity:
    """What the training thread is doing, for how long (seconds), and what its own part of a step usually takes."""

    kind: pb.Activity.ValueType = pb.WAITING
    seconds: float = 0.0
    compute_seconds: float = 0.0


class Untold:
    """For any thread. Rank 0 tells steps as they come; the others when they part, should rank 0 be lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress = pb.Progress()
        self._steps: deque[pb.Step] = deque()
        self._told_step = 0
        self._tells_steps = False
        self._figures: list[tuple[int, pb.FromWorker]] = []

    def step(self, round: int, rank: int, position: Position, step: pb.Step, paused_seconds: float) -> None:
        """A step is done; of one that is done again the later counts."""
        with self._lock:
            self._progress.round = round
            self._progress.position.CopyFrom(position_to_message(position))
            while self._steps and self._steps[-1].step >= step.step:
                self._steps.pop()
            self._steps.append(step)
            if len(self._steps) > STEPS_KEPT:
                self._steps.popleft()
            self._told_step = min(self._told_step, step.step - 1)
            self._tells_steps = rank == 0
            if paused_seconds:
                self._progress.paused_seconds = paused_seconds

    def figures(self, step: int, message: pb.FromWorker) -> None:
        """A message that belongs to a step; every new coordinator gets it until the step is kept."""
        with self._lock:
            self._figures.append((step, message))

    def tell_all(self) -> None:
        """From now on steps are told whatever the rank: the round is over."""
        with self._lock:
            self._tells_steps = True

    def messages(self, doing: Activity, memory_bytes: int) -> list[pb.FromWorker]:
        """What there is to say now: one message at least, of a size that can be sent."""
        with self._lock:
            first, self._progress = self._progress, pb.Progress()
            self._progress.round = first.round
            self._progress.position.CopyFrom(first.position)
            steps = self._fresh() if self._tells_steps else []
        first.activity, first.activity_seconds = doing.kind, doing.seconds
        first.compute_seconds, first.memory_bytes = doing.compute_seconds, memory_bytes
        first.steps.extend(steps[:STEPS_PER_MESSAGE])
        more = [
            pb.Progress(round=first.round, position=first.position, steps=steps[begin : begin + STEPS_PER_MESSAGE])
            for begin in range(STEPS_PER_MESSAGE, len(steps), STEPS_PER_MESSAGE)
        ]
        return [pb.FromWorker(progress=each) for each in (first, *more)]

    def known(self, step: int) -> None:
        """A coordinator has greeted; it knows the steps up to this one."""
        with self._lock:
            self._told_step = step

    def kept(self, step: int) -> None:
        """Every coordinator to come will know the steps up to this one."""
        with self._lock:
            while self._steps and self._steps[0].step <= step:
                self._steps.popleft()
            self._told_step = max(self._told_step, step)
            self._figures = [(at, message) for at, message in self._figures if at >= step]

    def said_again(self) -> list[pb.FromWorker]:
        """What a new coordinator is told at once."""
        with self._lock:
            return [message for _, message in self._figures]

    def _fresh(self) -> list[pb.Step]:
        steps = list(takewhile(lambda step: step.step > self._told_step, reversed(self._steps)))[::-1]
        if steps:
            self._told_step = steps[-1].step
        return steps
