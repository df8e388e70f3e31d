"""What the job has done so far, from the workers' heartbeats: steps, losses, rounds, pauses, and where the time went.

Everything it is told is also written to the job's history, one JSON line each, from which a coordinator that takes over
learns what the one before it knew. Every line but those of steps has also a "time", in seconds since 1970:

    {"round": 3, "members": [0, 2], "lanes": [32, 32], "cause": "worker 1 hung", "kind": "hung", "first_step": 120, …}
    {"round": 3, "paused_seconds": 0.21}                 nobody was stepping for so long before its first step
    {"round": 3, "repeated": 64}                         records that must be computed once more because it failed
    {"step": 120, "epoch": 1, "loss": 0.31, "records": 64, "seconds": 0.013, "useful": 0.012}
    {"checkpoint": 100, "bytes": 91234, "seconds": 0.04, "blocked_seconds": 0.0001}     or with "error"
    {"skipped": 1, "file": "a.recordio", "offset": 0, "first": 17, "error": "…"}
    {"tasks": [17], "records": 4096, "sums": "…"}        of a job of tasks; sums in base64, see TaskDone (control.proto)
    {"evaluation": 120, "epoch": 1, "figures": {"loss": 0.3, "auc": 0.91}, "seconds": 0.2}     0: of a trained model
    {"epoch_end": 1, "step": 120, "figures": {"loss": 0.31, "val_loss": 0.3}, "seconds": 0.2, "stopped": ""}
    {"activity": {"input": 3, "compute": 31, "allreduce": 9, "other": 1}}     heartbeats since the last such line
    {"target": 4}                                        somebody wants so many workers
    {"restart": 1}                                       another coordinator has taken over
"""

from __future__ import annotations

import base64
import json
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_from_message
from edl_allreduce.position import Position
from rendezvous.activity import Tally
from rendezvous.state import Kind, Round

RATE_SECONDS = 5.0
KEPT = 20  # of the newest rounds, evaluations and epochs


@dataclass(frozen=True)
class RoundRecord:
    """A round as history tells it.

    Attributes:
        paused_seconds: how long nobody was stepping before its first step; 0 until known, or for the first round.
        repeated: records computed once more because the round before it failed.
    """

    number: int
    size: int
    cause: str
    kind: Kind
    first_step: int
    paused_seconds: float = 0.0
    repeated: int = 0


@dataclass
class Lost:
    """Time and rounds lost for one kind of reason."""

    rounds: int = 0
    seconds: float = 0.0


@dataclass
class Telemetry:
    """Grows with every heartbeat.

    Attributes:
        history: the file, or None.
        wall: the time as people have it, seconds since 1970; it must go on across coordinators.
        position: how far the job is.
        loss: mean over the records of the newest step.
        began_at: when the first round began, by `wall`.
        repeated: records computed once more, in all.
        skipped: records left out, each counted once.
        target: how many workers somebody has asked for since the start; 0: nobody has.
        checkpoint, checkpoint_error: the newest complete one, and why the last try failed.
        tasks_done: of a job of tasks: those that count, and in base64 what each adds to the sums.
        evaluations, epochs: the newest finished ones.
        mirrored: the newest step whose line is also where a next coordinator will find it; None: that is the history.
        listeners: each gets every line that is written to the history.
    """

    history: TextIO | None = None
    wall: Callable[[], float] = lambda: 0.0
    position: Position = field(default_factory=Position)
    loss: float = float("nan")
    rounds: deque[RoundRecord] = field(default_factory=lambda: deque(maxlen=KEPT))
    began_at: float | None = None
    repeated: int = 0
    skipped: int = 0
    restarts: int = 0
    target: int = 0
    checkpoint: Position | None = None
    checkpoint_error: str = ""
    lost: dict[Kind, Lost] = field(default_factory=dict)
    tasks_done: dict[int, str] = field(default_factory=dict)
    evaluations: deque[pb.Evaluation] = field(default_factory=lambda: deque(maxlen=KEPT))
    epochs: deque[pb.EpochEnd] = field(default_factory=lambda: deque(maxlen=KEPT))
    mirrored: int | None = None
    listeners: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    _start: int = 0  # the step before the first one told: a resumed job's checkpoint
    _useful: array[float] = field(default_factory=lambda: array("d"))  # seconds of each step since
    _records: array[int] = field(default_factory=lambda: array("L"))
    _skips: set[tuple[str, int]] = field(default_factory=set)
    _recent: deque[tuple[float, int, float]] = field(default_factory=deque)
    _told_at: float | None = None  # when the newest step was told, by `wall`
    _tally: Tally = field(default_factory=Tally)

    @property
    def told(self) -> int:
        """The newest step in the history that counts."""
        return self._start + len(self._useful)

    @property
    def kept(self) -> int:
        """The newest step of which the next coordinator will know."""
        return self.told if self.mirrored is None else min(self.told, self.mirrored)

    def began(self, new: Round, lanes: Sequence[int] = ()) -> None:
        """A round has begun, its members with so many lanes each."""
        now = self.wall()
        if self.began_at is None:
            self.began_at, self._start = now, new.position.step
        again = self._forget_after(new.position.step)
        for each in [each for each in self.epochs if each.step > new.position.step]:
            self.epochs.remove(each)  # it will end again
        self.position = new.position
        cause = new.cause
        record = RoundRecord(new.number, len(new.members), cause.text, cause.kind, new.position.step + 1)
        self.rounds.append(record)
        self._lost(cause.kind).rounds += 1
        self._write(
            {
                "round": new.number,
                "members": new.members,
                "lanes": lanes,
                "cause": cause.text,
                "kind": cause.kind.value,
                "first_step": new.position.step + 1,
                "time": round(now, 3),
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
            self._step(step)
            self._recent.append((now, step.records, step.seconds))
            self._write(
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
            self._write({"activity": counts})

    def must_repeat(self, number: int, records: int) -> None:
        """So many records must be computed once more because the round before `number` failed."""
        if not records or not self.rounds:
            return
        self.repeated += records
        self.rounds[-1] = replace(self.rounds[-1], repeated=self.rounds[-1].repeated + records)
        self._write({"round": number, "repeated": records})

    def checkpointed(self, message: pb.Checkpointed) -> None:
        """A worker has written a checkpoint, or could not."""
        self.checkpoint_error = message.error
        line: dict[str, Any] = {"checkpoint": message.position.step}
        if message.error:
            line["error"] = message.error
        else:
            self.checkpoint = max(self.checkpoint or Position(), position_from_message(message.position))
            line |= {"bytes": message.bytes, "seconds": message.seconds, "blocked_seconds": message.blocked_seconds}
        self._write(line)

    def left_out(self, message: pb.Skipped) -> None:
        """A worker has skipped records; several workers may tell of the same ones."""
        first = (message.file, message.first)
        if first in self._skips:
            return
        self._skips.add(first)
        self.skipped += message.records
        self._write(
            {
                "skipped": message.records,
                "file": message.file,
                "offset": message.offset,
                "first": message.first,
                "error": message.error,
            }
        )

    def task_done(self, message: pb.TaskDone) -> None:
        """Tasks of a job of tasks are done."""
        sums = base64.b64encode(message.sums).decode("ascii")
        self._tasks_done(message.tasks, sums)
        self._write({"tasks": list(message.tasks), "records": message.records, "sums": sums})

    def evaluated(self, message: pb.Figures) -> None:
        """An evaluation is finished; several workers may tell of the same one."""
        if not any(each.step == message.work for each in self.evaluations):
            self._evaluated(message.work, message.epoch, message.values, message.seconds)
            figures = {"figures": dict(message.values), "seconds": message.seconds}
            self._write({"evaluation": message.work, "epoch": message.epoch, **figures})

    def epoch_ended(self, message: pb.EpochEnd) -> None:
        """Rank 0 has told what training had to say at an epoch's end; told again, it counts once."""
        if any((each.epoch, each.step) == (message.epoch, message.step) for each in self.epochs):
            return
        self._epoch_ended(message)
        figures = {"figures": dict(message.values), "seconds": message.seconds}
        self._write({"epoch_end": message.epoch, "step": message.step, **figures, "stopped": message.stopped})

    def scaled(self, target: int) -> None:
        """Somebody wants another number of workers."""
        self.target = target
        self._write({"target": target})

    def restarted(self, restarts: int) -> None:
        """This coordinator has taken over from another one."""
        self.restarts = restarts
        self._write({"restart": restarts})

    def records_per_second(self) -> float:
        """Over the last seconds; 0 when not known."""
        if len(self._recent) < 2 or self._recent[-1][0] == self._recent[0][0]:
            return 0.0
        first = self._recent[0][0]
        return sum(records for when, records, _ in self._recent if when > first) / (self._recent[-1][0] - first)

    def step_seconds(self) -> float:
        """How long a step usually takes; 0 when not known."""
        recent = sorted(self._useful[-20:])
        return recent[len(recent) // 2] if recent else 0.0

    def training_seconds(self) -> float:
        """Since the first round began."""
        return self.wall() - self.began_at if self.began_at else 0.0

    def goodput(self) -> pb.Goodput:
        """Where the time since the first round's beginning went."""
        return pb.Goodput(
            useful_seconds=sum(self._useful),
            wall_seconds=self.training_seconds(),
            records=sum(self._records),
            repeated_records=self.repeated,
            lost=[
                pb.LostTime(kind=kind.value, rounds=lost.rounds, seconds=lost.seconds)
                for kind, lost in self.lost.items()
                if kind is not Kind.START
            ],
        )

    def round_statuses(self) -> list[pb.RoundStatus]:
        """The newest rounds, as the protocol tells them."""
        return [
            pb.RoundStatus(
                number=each.number,
                size=each.size,
                cause=each.cause,
                kind=each.kind.value,
                paused_seconds=each.paused_seconds,
                first_step=each.first_step,
                repeated_records=each.repeated,
            )
            for each in self.rounds
        ]

    def replay(self, lines: Iterable[str], written_at: float) -> int:
        """Learns what an earlier coordinator wrote, the last of it at `written_at`, by `wall`.

        A last line that is cut off is passed over: its coordinator died while it wrote it.

        Returns:
            The number of its last round.
        """
        last, history, self.history = 0, self.history, None
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            last = max(last, self.learn(line))
        self.history = history
        self._told_at = written_at if self.rounds else None
        return last

    def learn(self, line: Mapping[str, Any]) -> int:
        """Learns a line of a history; the number of the round that it tells of the beginning of, or 0."""
        match line:
            case {"cause": cause, "kind": kind, "round": number, "members": ids, "first_step": first, "time": time}:
                self._forget_after(first - 1)
                if self.began_at is None:
                    self.began_at, self._start = time, first - 1
                self.rounds.append(RoundRecord(number, len(ids), cause, Kind(kind), first))
                self._lost(Kind(kind)).rounds += 1
                return int(number)
            case {"paused_seconds": seconds, "round": number}:
                self._paused(number, seconds)
            case {"repeated": records, "round": number}:
                self.must_repeat(number, records)
            case {"step": step, "loss": loss, "records": records, "useful": useful}:
                self._step(pb.Step(step=step, loss=loss, records=records, useful_seconds=useful))
            case {"tasks": tasks, "sums": sums}:
                self._tasks_done(tasks, sums)
            case {"evaluation": step, "epoch": epoch, "figures": figures, "seconds": seconds}:
                self._evaluated(step, epoch, figures, seconds)
            case {"epoch_end": epoch, "step": step, "figures": figures, "stopped": stopped, "seconds": seconds}:
                self._epoch_ended(pb.EpochEnd(epoch=epoch, step=step, values=figures, stopped=stopped, seconds=seconds))
            case {"target": target}:
                self.target = target
            case {"skipped": records, "file": file, "first": first_record}:
                self._skips.add((file, first_record))
                self.skipped += records
        return 0

    def _tasks_done(self, tasks: Sequence[int], sums: str) -> None:
        self.tasks_done |= dict.fromkeys(tasks, "") | {tasks[0]: sums}

    def _evaluated(self, step: int, epoch: int, figures: Mapping[str, float], seconds: float) -> None:
        self._between_steps(seconds)
        self.evaluations.append(pb.Evaluation(step=step, epoch=epoch, values=figures))

    def _between_steps(self, seconds: float) -> None:
        if seconds:
            self._lost(Kind.EVALUATION).rounds += 1
            self._lost(Kind.EVALUATION).seconds += seconds

    def _epoch_ended(self, message: pb.EpochEnd) -> None:
        self._between_steps(message.seconds)
        again = [each for each in self.epochs if each.epoch < message.epoch]  # done again from an older checkpoint
        self.epochs.clear()
        self.epochs.extend([*again, message])

    def _step(self, step: pb.Step) -> None:
        unheard = step.step - self.told - 1  # who could have told has died while there was no coordinator
        self._useful.extend([0.0] * unheard + [step.useful_seconds])
        self._records.extend([0] * unheard + [step.records])
        self.loss = step.loss

    def _forget_after(self, step: int) -> int:
        """Steps after this one do not count, they are done again; returns how many records they had."""
        kept = max(0, step - self._start)
        again = sum(self._records[kept:])
        del self._useful[kept:], self._records[kept:]
        return again

    def _paused(self, number: int, seconds: float) -> None:
        if not self.rounds or self.rounds[-1].number != number or self.rounds[-1].paused_seconds:
            return
        self.rounds[-1] = replace(self.rounds[-1], paused_seconds=seconds)
        self._lost(self.rounds[-1].kind).seconds += max(0.0, seconds - self.step_seconds())
        self._write({"round": number, "paused_seconds": seconds})

    def _lost(self, kind: Kind) -> Lost:
        return self.lost.setdefault(kind, Lost())

    def _write(self, line: dict[str, Any]) -> None:
        if not self.history:
            return
        if "loss" not in line:
            line = {"time": round(self.wall(), 3)} | line
        self.history.write(json.dumps(line) + "\n")
        for listener in tuple(self.listeners):
            listener(line)
