"""What a job's history tells of it, line by line: for whoever takes a job over, and for the status of an ended one."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import WHOLE_JOB, Job, kind_of

KEPT = 20  # of the newest rounds, evaluations and epochs
START, EVALUATION = "start", "evaluation"  # kinds of rounds, and of what takes time like one; see `rendezvous.state`
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


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
    kind: str
    first_step: int
    paused_seconds: float = 0.0
    repeated: int = 0


@dataclass
class Lost:
    """Time and rounds lost for one kind of reason."""

    rounds: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class Told:
    """Grows with every line (see `edl_allreduce.history`).

    Attributes:
        time: of the newest line that has one, and of the steps since, seconds since 1970.
        loss: mean over the records of the newest step.
        began_at: when the first round began, seconds since 1970.
        repeated: records computed once more, in all.
        skipped: records left out, each counted once.
        notices: what workers want the modeler to know, each once.
        target: how many workers somebody has asked for since the start; 0: nobody has.
        checkpoint_step, checkpoint_error: the newest complete one, and why the last try failed.
        tasks_done: of a job of tasks: those that count, and in base64 what each adds to the sums.
        task_records: how many records they have.
        evaluations, epochs: the newest finished ones.
    """

    time: float = 0.0
    loss: float = float("nan")
    rounds: deque[RoundRecord] = field(default_factory=lambda: deque(maxlen=KEPT))
    began_at: float | None = None
    repeated: int = 0
    skipped: int = 0
    notices: list[str] = field(default_factory=list)
    restarts: int = 0
    target: int = 0
    checkpoint_step: int = 0
    checkpoint_error: str = ""
    lost: dict[str, Lost] = field(default_factory=dict)
    tasks_done: dict[int, str] = field(default_factory=dict)
    task_records: int = 0
    evaluations: deque[pb.Evaluation] = field(default_factory=lambda: deque(maxlen=KEPT))
    epochs: deque[pb.EpochEnd] = field(default_factory=lambda: deque(maxlen=KEPT))
    _start: int = 0  # the step before the first one told: a resumed job's checkpoint
    _useful: array[float] = field(default_factory=lambda: array("d"))  # seconds of each step since
    _records: array[int] = field(default_factory=lambda: array("L"))
    _epochs: array[int] = field(default_factory=lambda: array("L"))
    _skips: set[tuple[str, int]] = field(default_factory=set)

    @property
    def told(self) -> int:
        """The newest step that counts."""
        return self._start + len(self._useful)

    def learn(self, line: Mapping[str, Any]) -> int:
        """Learns a line; the number of the round that it tells of the beginning of, or 0.

        Raises:
            MALFORMED: it is none that a coordinator has written.
        """
        self.time = max(self.time, line.get("time", 0.0))
        match line:
            case {"step": step, "loss": loss, "records": records, "useful": useful}:
                self._stepped(step, line.get("epoch", 0), loss, records, useful)
                self.time += line.get("seconds", 0.0)
            case {"cause": cause, "kind": kind, "round": number, "members": ids, "first_step": first, "time": time}:
                self._began(RoundRecord(number, len(ids), cause, kind, first), time)
                return int(number)
            case {"paused_seconds": seconds, "round": number} if self._awaits_pause(number):
                self.rounds[-1] = replace(self.rounds[-1], paused_seconds=seconds)
                self._lost(self.rounds[-1].kind).seconds += max(0.0, seconds - self.step_seconds())
            case {"repeated": records, "round": _} if self.rounds:
                self.repeated += records
                self.rounds[-1] = replace(self.rounds[-1], repeated=self.rounds[-1].repeated + records)
            case {"tasks": tasks, "sums": sums}:
                self.tasks_done |= dict.fromkeys(tasks, "") | {tasks[0]: sums}
                self.task_records += line.get("records", 0)
            case {"evaluation": step, "epoch": epoch, "figures": figures, "seconds": seconds}:
                self._between_steps(seconds)
                self.evaluations.append(pb.Evaluation(step=step, epoch=epoch, values=figures))
            case {"epoch_end": epoch, "step": step, "figures": figures, "stopped": stopped, "seconds": seconds}:
                self._between_steps(seconds)
                again = [each for each in self.epochs if each.epoch < epoch]  # done again from an older checkpoint
                self.epochs.clear()
                end = pb.EpochEnd(epoch=epoch, step=step, values=figures, stopped=stopped, seconds=seconds)
                self.epochs.extend([*again, end])
            case {"checkpoint": _, "error": error}:
                self.checkpoint_error = error
            case {"checkpoint": step}:
                self.checkpoint_step, self.checkpoint_error = step, ""
            case {"skipped": records, "file": file, "first": first_record}:
                self._skips.add((file, first_record))
                self.skipped += records
            case {"notice": text}:
                self.notices.append(text)
            case {"target": target}:
                self.target = target
            case {"restart": restarts}:
                self.restarts = restarts
        return 0

    def records_after(self, step: int) -> int:
        """How many records the steps after this one had."""
        return sum(self._records[max(0, step - self._start) :])

    def step_seconds(self) -> float:
        """How long a step usually takes; 0 when not known."""
        recent = sorted(self._useful[-20:])
        return recent[len(recent) // 2] if recent else 0.0

    def training_seconds_until(self, now: float) -> float:
        """Since the first round began."""
        return now - self.began_at if self.began_at else 0.0

    def goodput_until(self, now: float) -> pb.Goodput:
        """Where the time since the first round's beginning went."""
        return pb.Goodput(
            useful_seconds=sum(self._useful),
            wall_seconds=self.training_seconds_until(now),
            records=sum(self._records),
            repeated_records=self.repeated,
            lost=[
                pb.LostTime(kind=kind, rounds=lost.rounds, seconds=lost.seconds)
                for kind, lost in self.lost.items()
                if kind != START
            ],
        )

    def stepped_to(self) -> pb.Position | None:
        """How far the steps are; None: there was none yet."""
        if not self._epochs:
            return None
        epoch = self._epochs[-1]
        offset = sum(records for records, of in zip(self._records, self._epochs, strict=True) if of == epoch)
        return pb.Position(epoch=epoch, offset=offset, step=self.told)

    def round_statuses(self) -> list[pb.RoundStatus]:
        """The newest rounds, as the protocol tells them."""
        return [
            pb.RoundStatus(
                number=each.number,
                size=each.size,
                cause=each.cause,
                kind=each.kind,
                paused_seconds=each.paused_seconds,
                first_step=each.first_step,
                repeated_records=each.repeated,
            )
            for each in self.rounds
        ]

    def _began(self, new: RoundRecord, time: float) -> None:
        if self.began_at is None:
            self.began_at, self._start = time, new.first_step - 1
        kept = max(0, new.first_step - 1 - self._start)  # steps after these do not count, they are done again
        del self._useful[kept:], self._records[kept:], self._epochs[kept:]
        for each in [each for each in self.epochs if each.step >= new.first_step]:
            self.epochs.remove(each)  # it will end again
        self.rounds.append(new)
        self._lost(new.kind).rounds += 1

    def _stepped(self, step: int, epoch: int, loss: float, records: int, useful: float) -> None:
        unheard = step - self.told - 1  # who could have told has died while there was no coordinator
        self._useful.extend([0.0] * unheard + [useful])
        self._records.extend([0] * unheard + [records])
        self._epochs.extend([epoch] * max(1, unheard + 1))
        self.loss = loss

    def _awaits_pause(self, number: int) -> bool:
        """Whether it is this round of which it is not known yet how long nobody was stepping before it."""
        return bool(self.rounds) and self.rounds[-1].number == number and not self.rounds[-1].paused_seconds

    def _between_steps(self, seconds: float) -> None:
        if seconds:
            self._lost(EVALUATION).rounds += 1
            self._lost(EVALUATION).seconds += seconds

    def _lost(self, kind: str) -> Lost:
        return self.lost.setdefault(kind, Lost())


def recalled(spec: Job | None, dataset: pb.Dataset, told: Told) -> pb.Status:
    """How a job stood when it was last heard of, but for its phase: of one that could not say how it ended.

    Args:
        spec: its settings; None: they cannot be read any more.
        told: has learnt the whole history.
    """
    records = sum(sum(task.records) for task in dataset.tasks)
    status = pb.Status(
        records=records,
        round=told.rounds[-1].number if told.rounds else 0,
        rounds=told.round_statuses(),
        target_workers=told.target,
        seconds=told.training_seconds_until(told.time),
        skipped_records=told.skipped,
        notices=told.notices,
        coordinator_restarts=told.restarts,
        evaluations=told.evaluations,
        epochs=told.epochs,
    )
    if spec:
        status.job, status.target_workers = kind_of(spec), told.target or spec.elastic.num_workers
    if isinstance(spec, JobSpec):
        status.num_epochs = spec.training.num_epochs
    if spec is None or isinstance(spec, JobSpec):
        status.MergeFrom(_training(told))
    else:
        tasks, done = len(dataset.tasks), len(told.tasks_done)
        work = pb.Work(work=WHOLE_JOB, tasks=tasks, tasks_done=done, records=records, records_done=told.task_records)
        status.work.CopyFrom(work)
    return status


def _training(told: Told) -> pb.Status:
    """What only a training has to say."""
    return pb.Status(
        training_seconds=told.training_seconds_until(told.time),
        goodput=told.goodput_until(told.time),
        loss=told.loss,
        position=told.stepped_to(),
        checkpoint=pb.Position(step=told.checkpoint_step) if told.checkpoint_step else None,
        checkpoint_error=told.checkpoint_error,
    )
