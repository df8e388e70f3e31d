"""Says in words what a job does, as pure functions of its statuses, so that every display says the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from launcher.handle import ENDED, RUNNING

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import RoundStatus, Status


TASKS = ("evaluate", "predict")  # jobs of leased tasks
PENDING, NAMED = "pending", 5  # so many workers are named that wait for the same


def changes(before: Status | None, now: Status) -> list[str]:
    """Lines for what has happened between two statuses: phases, workers that came or went, rounds and their pauses."""
    lines = []
    if headline(now) != (headline(before) if before else "") and (now.phase != "reforming" or now.message):
        lines.append(headline(now))
    if before and before.phase in RUNNING and now.phase in RUNNING:
        lines += _worker_changes(before, now)
    lines += _new_waits(before, now)
    lines += _warnings(before, now)
    told = {each.number for each in _told_rounds(before)} if before else set()
    lines += [_round_line(each) for each in _told_rounds(now) if each.number not in told]
    return [line for line in lines if line]


def headline(status: Status) -> str:
    """What the job is busy with, while it is not simply training."""
    if status.phase == "starting" and status.workers:
        ready = sum(worker.state in ("ready", "training") for worker in status.workers)
        wanted = status.target_workers or len(status.workers)
        pending = sum(worker.state == PENDING for worker in status.workers)
        return f"starting {count(wanted, 'worker')}: {ready} ready{f', {pending} pending' if pending else ''}"
    if status.phase == "starting":
        return status.message or "starting"
    if status.phase == "working":
        return status.message
    if status.phase == "exporting":
        return status.message or "writing the trained model"
    if status.phase == "stopping":
        return "stopping: saving a checkpoint"
    if status.phase == "reforming":
        return status.message or "forming the next round"
    return status.message if status.phase == "training" else ""


def summary(status: Status) -> str:
    """Where the job stands, in one line."""
    if status.job in TASKS:
        return _tasks_summary(status)
    total = f"/{status.total_steps:,}" if status.total_steps else ""
    parts = [
        f"epoch {min(status.position.epoch + 1, max(1, status.num_epochs))}/{max(1, status.num_epochs)}",
        f"step {status.position.step:,}{total}",
        f"loss {status.loss:.4g}" if status.position.step and not math.isnan(status.loss) else "",
        f"{status.records_per_second:,.0f} records/s" if status.records_per_second else "",
        "" if status.phase in ENDED else count(sum(worker.rank >= 0 for worker in status.workers), "worker"),
        f"{clock(status.seconds_left)} left" if status.seconds_left and status.phase not in ENDED else "",
    ]
    return " · ".join(part for part in parts if part)


def fraction(status: Status) -> float:
    """How much of the training is done, from 0 to 1."""
    if status.phase == "done":
        return 1.0
    if status.job in TASKS:
        return status.work.records_done / status.records if status.records else 0.0
    if status.total_steps:
        return min(1.0, status.position.step / status.total_steps)
    epochs = status.position.epoch + (status.position.offset / status.records if status.records else 0.0)
    return min(1.0, epochs / max(1, status.num_epochs))


def ending(status: Status, output: str, logs: str) -> list[str]:
    """The last lines: how it went, and where everything is; after a failure the error says that."""
    if status.job in TASKS:
        return _tasks_ending(status, output, logs)
    steps = f"{count(status.position.step, 'step')} in {clock(status.training_seconds)}"
    if status.phase == "done":
        ended = status.epochs[-1].epoch + 1 if status.epochs else status.num_epochs
        epochs = count(ended, "epoch") if ended >= status.num_epochs else f"{ended} of {status.num_epochs} epochs"
        return [
            f"trained {epochs}, {steps}{'' if math.isnan(status.loss) else f'; the last loss is {status.loss:.4g}'}",
            *_where_time_went(status),
            f"model in {output}, {logs}",
        ]
    if status.phase == "stopped":
        return [f"stopped after {steps}; {logs}", *_how_to_go_on(status)]
    return [f"ended after {steps}", *_how_to_go_on(status)] if status.position.step else []


def epoch_lines(status: Status) -> list[tuple[int, str]]:
    """A step and a line for each epoch that ended there with something to say besides the loss."""
    return [
        (each.step, f"epoch {each.epoch + 1}: {figures(each.values)}{f'; {each.stopped}' if each.stopped else ''}")
        for each in status.epochs
        if status.job not in TASKS and (len(each.values) > 1 or each.stopped)
    ]


def evaluation_lines(status: Status) -> list[tuple[int, str]]:
    """A step and a line for each evaluation between epochs' ends."""
    ends = {each.step for each in status.epochs}
    return [
        (each.step, f"step {each.step:,}: {figures(each.values, 'val_')}")
        for each in status.evaluations
        if status.job not in TASKS and each.step not in ends
    ]


def figures(values: Mapping[str, float], prefix: str = "") -> str:
    """Loss and metrics in one line."""
    return " · ".join(f"{prefix}{name} {values[name]:.4g}" for name in in_order(values))


def in_order(names: Iterable[str]) -> list[str]:
    """The names of figures as people expect them: the loss first, those of the validation data last."""
    return sorted(names, key=lambda name: (name.startswith("val_"), name.removeprefix("val_") != "loss", name))


def _tasks_summary(status: Status) -> str:
    parts = [
        f"{status.work.records_done:,}/{status.records:,} records",
        f"{status.records_per_second:,.0f} records/s" if status.records_per_second else "",
        "" if status.phase in ENDED else count(len(status.workers), "worker"),
        f"{clock(status.seconds_left)} left" if status.seconds_left and status.phase not in ENDED else "",
    ]
    return " · ".join(part for part in parts if part)


def _tasks_ending(status: Status, output: str, logs: str) -> list[str]:
    records = f"{count(status.work.records_done, 'record')} in {clock(status.seconds)}"
    if status.phase != "done":
        return [f"{status.phase} after {records}; {logs}"]
    if status.job == "predict":
        return [f"predicted {records}", f"predictions in {output}, {logs}" if output else logs]
    found = status.evaluations[-1].values if status.evaluations else {}
    width = max(map(len, found), default=0)
    lines = [f"  {name:<{width}}  {found[name]:.6g}" for name in in_order(found)]
    return [f"evaluated {records}", *lines, f"figures in {output}, {logs}" if output else f"{logs}"]


def _where_time_went(status: Status) -> list[str]:
    """One line about goodput when something has happened to the job, one about records that were left out."""
    told = status.goodput
    lines = []
    if told.wall_seconds and sum(lost.rounds for lost in told.lost):
        useful = f"{100 * told.useful_seconds / told.wall_seconds:.1f} % of the time in steps that count"
        causes = [
            f"{lost.kind} {lost.rounds} × {clock(lost.seconds / lost.rounds)}" for lost in told.lost if lost.rounds
        ]
        again = f"; {told.repeated_records:,} records computed twice" if told.repeated_records else ""
        lines.append(f"goodput: {useful}; pauses: {', '.join(causes)}{again}")
    if status.skipped_records:
        lines.append(f"{count(status.skipped_records, 'record')} left out as bad, listed in the job's history.jsonl")
    return lines


def _how_to_go_on(status: Status) -> list[str]:
    if not status.HasField("checkpoint"):
        return []
    return [f"the same command goes on from the checkpoint at step {status.checkpoint.step:,}"]


def _warnings(before: Status | None, now: Status) -> list[str]:
    """What is not as it should be, although the job goes on."""
    lines = []
    if now.coordinator_restarts > (before.coordinator_restarts if before else 0):
        lines.append("the coordinator was restarted; the workers train on")
    if now.checkpoint_error and (before is None or before.checkpoint_error != now.checkpoint_error):
        lines.append(f"warning: no checkpoint could be written: {now.checkpoint_error}")
    new = now.skipped_records - (before.skipped_records if before else 0)
    if new > 0:
        lines.append(f"warning: {count(new, 'bad record')} left out")
    return lines + [f"note: {text}" for text in now.notices[len(before.notices) if before else 0 :]]


def clock(seconds: float) -> str:
    """A length of time as people read it: 4.2 s, 1:05 min, 2:03:04 h."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def _told_rounds(status: Status) -> list[RoundStatus]:
    """The rounds whose line is complete: the first, and those whose pause is over."""
    newest = max((each.number for each in status.rounds), default=0)
    return [
        each
        for each in status.rounds
        if each.number <= 1 or each.paused_seconds > 0 or each.number < newest or status.phase not in RUNNING
    ]


def _round_line(each: RoundStatus) -> str:
    cause = f": {each.cause}" if each.cause and each.number > 1 else ""
    if each.number == 1 and each.first_step > 1:
        cause = f", from the checkpoint at step {each.first_step - 1:,}"
    pause = f", paused {each.paused_seconds:.2f} s" if each.paused_seconds else ""
    return f"round {each.number} with {count(each.size, 'worker')}{cause}{pause}"


def _worker_changes(before: Status, now: Status) -> list[str]:
    were = {worker.id: worker for worker in before.workers}
    are = {worker.id for worker in now.workers}
    gone = [
        f"worker {number} {'has left' if worker.state == 'leaving' else 'is lost'}"
        for number, worker in were.items()
        if number not in are
    ]
    started = {worker.id for worker in now.workers if worker.state != PENDING}
    known = {number for number, worker in were.items() if worker.state != PENDING}
    return gone + [f"worker {number} is starting" for number in sorted(started - known)]


def waits(status: Status) -> list[str]:
    """What pending workers wait for, a line for each reason."""
    reasons: dict[str, list[int]] = {}
    for worker in status.workers:
        if worker.state == PENDING:
            reasons.setdefault(worker.waits_for or "the cluster has no place for it yet", []).append(worker.id)
    return [f"{_workers(ids)}: {reason}" for reason, ids in reasons.items()]


def _workers(ids: list[int]) -> str:
    if len(ids) == 1:
        return f"worker {ids[0]} waits"
    named = ", ".join(map(str, ids[:NAMED])) + (f" and {len(ids) - NAMED} more" if ids[NAMED:] else "")
    return f"workers {named} wait"


def _new_waits(before: Status | None, now: Status) -> list[str]:
    known = set(waits(before)) if before else set()
    return [line for line in waits(now) if line not in known]


def count(number: int, thing: str) -> str:
    """ "1 worker", "2 workers"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
