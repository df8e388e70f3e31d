"""How a run stood when it was last heard of, as its history tells it: of runs that could not say how they ended."""

from __future__ import annotations

import json

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import WHOLE_JOB, Job, kind_of
from rendezvous.dashboard.record import Record
from rendezvous.telemetry import Telemetry


def recalled(spec: Job, dataset: pb.Dataset, telemetry: Telemetry, record: Record) -> pb.Status:
    """The status but for its phase.

    Args:
        telemetry, record: both have replayed the whole history.
    """
    began = telemetry.began_at or record.time
    telemetry.wall = lambda: record.time
    records = sum(sum(task.records) for task in dataset.tasks)
    status = pb.Status(
        job=kind_of(spec),
        records=records,
        round=telemetry.rounds[-1].number if telemetry.rounds else 0,
        rounds=telemetry.round_statuses(),
        target_workers=telemetry.target or spec.elastic.num_workers,
        seconds=record.time - began,
        skipped_records=telemetry.skipped,
        evaluations=telemetry.evaluations,
        epochs=telemetry.epochs,
        workers=[pb.WorkerStatus(id=id, state="unheard", rank=-1) for id in sorted(record.members)],
    )
    for _, text in record.events:
        _learn(status, text)
    if isinstance(spec, JobSpec):
        status.MergeFrom(_training(spec, telemetry, record))
    else:
        tasks, done = len(dataset.tasks), len(telemetry.tasks_done)
        read = int(record.steps.column("records").sum())
        status.work.CopyFrom(pb.Work(work=WHOLE_JOB, tasks=tasks, tasks_done=done, records=records, records_done=read))
    return status


def _training(spec: JobSpec, telemetry: Telemetry, record: Record) -> pb.Status:
    """What only a training has to say."""
    status = pb.Status(
        num_epochs=spec.training.num_epochs,
        training_seconds=telemetry.training_seconds(),
        goodput=telemetry.goodput(),
        loss=telemetry.loss,
    )
    if steps := len(record.steps):
        epochs = record.steps.column("epoch")
        offset = record.steps.column("records")[epochs == epochs[steps - 1]].sum()
        step = int(record.steps.column("step")[-1])
        status.position.CopyFrom(pb.Position(epoch=int(epochs[-1]), offset=int(offset), step=step))
    return status


def _learn(status: pb.Status, text: str) -> None:
    """Adds what telemetry does not learn from a history, since a coordinator knows it from elsewhere."""
    match json.loads(text):
        case {"checkpoint": _, "error": error}:
            status.checkpoint_error = error
        case {"checkpoint": step}:
            status.checkpoint.step, status.checkpoint_error = step, ""
        case {"restart": restarts}:
            status.coordinator_restarts = restarts
