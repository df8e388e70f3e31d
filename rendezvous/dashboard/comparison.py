"""What the page that compares runs is told of each: how it ended, its figures, its settings."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.errors import EdlError
from edl_allreduce.params import parse_params
from edl_allreduce.task_spec import Job, kind_of
from rendezvous.dashboard.messages import finite
from rendezvous.dashboard.recorded import RecordedJob

PARAMS = "params"  # a setting that holds many


async def run_view(id: str, job: RecordedJob) -> dict[str, Any]:
    """A run in the list. One that has said how it ended is not read for that."""
    status, began, problem = pb.Status(), 0.0, ""
    try:
        found = await asyncio.to_thread(job.recording.final_status)
        if found is None or not found.HasField("position"):
            await job.open()
            found = job.status()
        status, began = found, await asyncio.to_thread(job.recording.began)
    except EdlError as error:
        problem = str(error)
    return {
        "id": id,
        "name": job.name,
        "source": job.source,
        "kind": kind_of(job.spec),
        "began": began,
        "phase": status.phase,
        "message": status.message,
        "problem": problem,
        "figures": figures_of(status),
        "settings": settings_of(job.spec),
    }


def figures_of(status: pb.Status) -> dict[str, float | None]:
    """What a run has come to, by name; durations in seconds."""
    goodput = status.goodput
    seconds = status.training_seconds or status.seconds
    records = goodput.records or (status.work.records_done if status.job != "train" else 0)
    newest = status.epochs or status.evaluations
    told = {
        **({"steps": status.position.step} if status.position.step else {}),
        "seconds": seconds,
        **({"records_per_second": records / seconds} if seconds and records else {}),
        **({"goodput": goodput.useful_seconds / goodput.wall_seconds} if goodput.wall_seconds else {}),
        **({"rounds": status.round} if status.round else {}),
        **(dict(newest[-1].values) if newest else {}),
    }
    return {name: finite(value) for name, value in told.items()}


def settings_of(spec: Job) -> dict[str, Any]:
    """All settings of a job by name; each of the model's parameters is one."""
    settings: dict[str, Any] = {}
    for group in dataclasses.fields(spec):
        for each in dataclasses.fields(getattr(spec, group.name)):
            settings[each.name] = getattr(getattr(spec, group.name), each.name)
    params = parse_params(str(settings.pop(PARAMS, "")))
    return settings | {f"{PARAMS} {name}": repr(value) for name, value in params.items()}
