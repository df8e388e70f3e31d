"""What the job has done so far, from the workers' heartbeats: steps, losses, rounds, pauses, and where the time went.

Whatever it is told becomes a line of the job's history (see `edl_allreduce.history`), and that line is what it learns:
so a coordinator that takes over, which reads those lines, knows what the one before it knew.
"""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_from_message
from edl_allreduce.control.told import Told
from edl_allreduce.history import parsed
from edl_allreduce.position import Position
from rendezvous.activity import Tally
from rendezvous.patient_file import PatientFile
from rendezvous.state import Round

RATE_SECONDS = 5.0
NOTICES_KEPT = 20  # a job has no use for more


@dataclass
class Telemetry(Told):
    """Grows with every heartbeat.

    Attributes:
        history: the file, or None.
        wall: the time as people have it, seconds since 1970; it must go on across coordinators.
        position: how far the job is.
        checkpoint: the newest complete one.
        mirrored: the newest step whose line is also where a next coordinator will find it; None: that is the history.
        listeners: each gets every line that is written to the history.
    """

    history: PatientFile | TextIO | None = None
    wall: Callable[[], float] = lambda: 0.0
    position: Position = field(default_factory=Position)
    checkpoint: Position | None = None
    mirrored: int | None = None
    listeners: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    _recent: deque[tuple[float, int, float]] = field(default_factory=deque)
    _told_at: float | None = None  # when the newest step was told, by `wall`
    _tally: Tally = field(default_factory=Tally)

    @property
    def kept(self) -> int:
        """The newest step of which the next coordinator will know."""
        return self.told if self.mirrored is None else min(self.told, self.mirrored)

    def began(self, new: Round, lanes: Sequence[int] = ()) -> None:
        """A round has begun, its members with so many lanes each."""
        again, cause = self.records_after(new.position.step), new.cause
        self.position = new.position
        self._happened(
            {
                "round": new.number,
                "members": new.members,
                "lanes": lanes,
                "cause": cause.text,
                "kind": cause.kind.value,
                "first_step": new.position.step + 1,
            }
        )
        self.must_repeat(new.number, again)

    def heard(self, message: pb.Progress, now: float) -> None:
        """A worker has told of its steps, at time `now` of the coordinator's clock."""
        if not self.rounds:
            return
        current = message.round == self.rounds[-1].number
        if message.steps and current:  # only together with their loss
            self.position = max(self.position, position_from_message(message.position))
        # Of an earlier round only what the newest one builds on: told late, by somebody who was cut off.
        last = message.steps[-1].step if message.steps and current else self.rounds[-1].first_step - 1
        fresh = [step for step in message.steps if self.told < step.step <= last]
        for step in fresh:
            self._recent.append((now, step.records, step.seconds))
            self._happened(
                {
                    "step": step.step,
                    "epoch": step.epoch,
                    "loss": step.loss,
                    "records": step.records,
                    "seconds": step.seconds,
                    "useful": step.useful_seconds,
                    **({"learning_rate": step.learning_rate} if step.learning_rate else {}),
                }
            )
        if message.paused_seconds and current:
            self._paused(message.round, message.paused_seconds)
        elif fresh and fresh[0].step == self.rounds[-1].first_step and self._told_at is not None:
            self._paused(message.round, self.wall() - self._told_at)  # nobody has survived who could tell
        if fresh:
            self._told_at = self.wall()
        while self._recent and self._recent[0][0] < now - RATE_SECONDS:
            self._recent.popleft()

    def seen(self, doing: pb.Activity.ValueType) -> None:
        """A worker in a round was doing this when it sent a heartbeat."""
        if self.began_at is not None and (counts := self._tally.note(doing, self.wall(), self.began_at)):
            self._happened({"activity": counts})

    def must_repeat(self, number: int, records: int) -> None:
        """So many records must be computed once more because the round before `number` failed."""
        if records and self.rounds:
            self._happened({"round": number, "repeated": records})

    def checkpointed(self, message: pb.Checkpointed) -> None:
        """A worker has written a checkpoint, or could not."""
        line: dict[str, Any] = {"checkpoint": message.position.step}
        if message.error:
            line["error"] = message.error
        else:
            self.checkpoint = max(self.checkpoint or Position(), position_from_message(message.position))
            line |= {"bytes": message.bytes, "seconds": message.seconds, "blocked_seconds": message.blocked_seconds}
        self._happened(line)

    def left_out(self, message: pb.Skipped) -> None:
        """A worker has skipped records; several workers may tell of the same ones."""
        if (message.file, message.first) in self._skips:
            return
        self._happened(
            {
                "skipped": message.records,
                "file": message.file,
                "offset": message.offset,
                "first": message.first,
                "error": message.error,
            }
        )

    def noticed(self, text: str) -> None:
        """A worker wants the modeler to know something; several workers may say the same."""
        if text not in self.notices and len(self.notices) < NOTICES_KEPT:
            self._happened({"notice": text})

    def task_done(self, message: pb.TaskDone) -> None:
        """Tasks of a job of tasks are done."""
        sums = base64.b64encode(message.sums).decode("ascii")
        self._happened({"tasks": list(message.tasks), "records": message.records, "sums": sums})

    def evaluated(self, message: pb.Figures) -> None:
        """An evaluation is finished; several workers may tell of the same one."""
        if not any(each.step == message.work for each in self.evaluations):
            figures = {"figures": dict(message.values), "seconds": message.seconds}
            self._happened({"evaluation": message.work, "epoch": message.epoch, **figures})

    def epoch_ended(self, message: pb.EpochEnd) -> None:
        """Rank 0 has told what training had to say at an epoch's end; told again, it counts once."""
        if any((each.epoch, each.step) == (message.epoch, message.step) for each in self.epochs):
            return
        figures = {"figures": dict(message.values), "seconds": message.seconds}
        self._happened({"epoch_end": message.epoch, "step": message.step, **figures, "stopped": message.stopped})

    def scaled(self, target: int) -> None:
        """Somebody wants another number of workers."""
        self._happened({"target": target})

    def restarted(self, restarts: int) -> None:
        """This coordinator has taken over from another one."""
        self._happened({"restart": restarts})

    def records_per_second(self) -> float:
        """Over the last seconds; 0 when not known."""
        if len(self._recent) < 2 or self._recent[-1][0] == self._recent[0][0]:
            return 0.0
        first = self._recent[0][0]
        return sum(records for when, records, _ in self._recent if when > first) / (self._recent[-1][0] - first)

    def training_seconds(self) -> float:
        """Since the first round began."""
        return self.training_seconds_until(self.wall())

    def goodput(self) -> pb.Goodput:
        """Where the time since the first round's beginning went."""
        return self.goodput_until(self.wall())

    def replay(self, lines: Iterable[str], written_at: float) -> int:
        """Learns what an earlier coordinator wrote, the last of it at `written_at`, by `wall`.

        A last line that is cut off is passed over: its coordinator died while it wrote it.

        Returns:
            The number of its last round.
        """
        last = 0
        for text in lines:
            last = max(last, self.learn(parsed(text) or {}))
        self._told_at = written_at if self.rounds else None
        return last

    def _paused(self, number: int, seconds: float) -> None:
        if self._awaits_pause(number):
            self._happened({"round": number, "paused_seconds": seconds})

    def _happened(self, line: dict[str, Any]) -> None:
        """Learns a line, and writes it."""
        if "loss" not in line:
            line = {"time": round(self.wall(), 3)} | line
        self.learn(line)
        if not self.history:
            return
        self.history.write(json.dumps(line) + "\n")
        for listener in tuple(self.listeners):
            listener(line)
