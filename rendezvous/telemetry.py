"""What the job has done so far: steps, losses, rounds and pauses, from the workers' heartbeats."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TextIO

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_from_message
from edl_allreduce.position import Position

RATE_SECONDS = 5.0
ROUNDS_KEPT = 20


@dataclass(frozen=True)
class RoundRecord:
    """A round as history tells it.

    Attributes:
        paused_seconds: how long nobody was stepping before its first step; 0 until known, or for the first round.
    """

    number: int
    size: int
    cause: str
    first_step: int
    paused_seconds: float = 0.0


@dataclass
class Telemetry:
    """Grows with every heartbeat; everything it is told is also written to `history`, one JSON line each.

    Attributes:
        history: the file, or None.
        position: how far the job is.
        loss: mean over the records of the newest step.
    """

    history: TextIO | None = None
    position: Position = field(default_factory=Position)
    loss: float = float("nan")
    rounds: deque[RoundRecord] = field(default_factory=lambda: deque(maxlen=ROUNDS_KEPT))
    _told: int = 0  # the newest step in the history
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def began(self, number: int, members: tuple[int, ...], cause: str, start: Position) -> None:
        """A round has begun."""
        self.position, self._told = start, start.step
        self.rounds.append(RoundRecord(number, len(members), cause, start.step + 1))
        self._write({"round": number, "members": members, "cause": cause, "first_step": start.step + 1})

    def heard(self, message: pb.Progress, now: float) -> None:
        """A worker has told of its steps."""
        if not self.rounds or message.round != self.rounds[-1].number:
            return
        if message.steps:  # only together with their loss
            self.position = max(self.position, position_from_message(message.position))
        for step in message.steps:
            if step.step <= self._told:
                continue
            self._told, self.loss = step.step, step.loss
            self._recent.append((now, step.records))
            self._write(
                {
                    "step": step.step,
                    "epoch": step.epoch,
                    "loss": step.loss,
                    "records": step.records,
                    "seconds": step.seconds,
                }
            )
        if message.paused_seconds and not self.rounds[-1].paused_seconds:
            self.rounds[-1] = replace(self.rounds[-1], paused_seconds=message.paused_seconds)
            self._write({"round": message.round, "paused_seconds": message.paused_seconds})
        while self._recent and self._recent[0][0] < now - RATE_SECONDS:
            self._recent.popleft()

    def records_per_second(self) -> float:
        """Over the last seconds; 0 when not known."""
        if len(self._recent) < 2 or self._recent[-1][0] == self._recent[0][0]:
            return 0.0
        first = self._recent[0][0]
        return sum(records for when, records in self._recent if when > first) / (self._recent[-1][0] - first)

    def round_statuses(self) -> list[pb.RoundStatus]:
        """The newest rounds, as the protocol tells them."""
        return [
            pb.RoundStatus(
                number=each.number,
                size=each.size,
                cause=each.cause,
                paused_seconds=each.paused_seconds,
                first_step=each.first_step,
            )
            for each in self.rounds
        ]

    def _write(self, line: dict[str, object]) -> None:
        if self.history:
            self.history.write(json.dumps(line) + "\n")
