"""What the API says about a job, as plain JSON values."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import edl_allreduce
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.task_spec import Job, kind_of
from rendezvous.dashboard.job_view import JobView
from rendezvous.dashboard.messages import to_plain
from rendezvous.dashboard.record import RoundEntry, curves

LONG = ("workers", "rounds", "evaluations", "epochs")  # lists in a status that have endpoints of their own
STRAGGLER = 1.5  # times the median of compute time
STRAGGLER_SECONDS = 0.005  # beyond the median, at least: less is noise


def status_view(status: pb.Status) -> dict[str, Any]:
    """The status without its long lists, with counts of the workers by state."""
    short = pb.Status()
    short.CopyFrom(status)
    for name in LONG:
        short.ClearField(name)  # type: ignore[arg-type]
    plain = to_plain(short)
    for name in LONG:
        del plain[name]
    states: dict[str, int] = {}
    for worker in status.workers:
        states[worker.state] = states.get(worker.state, 0) + 1
    stepping = sum(worker.rank >= 0 for worker in status.workers)
    return plain | {"worker_states": states, "workers_in_round": stepping}


def workers_view(view: JobView, status: pb.Status) -> dict[str, Any]:
    """All workers, and what is usual among them."""
    known = [each.compute_seconds for each in status.workers if each.compute_seconds and each.rank >= 0]
    median = statistics.median(known) if known else 0.0
    lanes = sum(each.lanes for each in status.workers)
    activities = view.activities(status)
    rows = []
    for each in status.workers:
        late = each.rank >= 0 and len(known) > 1 and each.compute_seconds > STRAGGLER * median
        rows.append(
            to_plain(each)
            | {
                "records_per_second": status.records_per_second * each.lanes / lanes if lanes else 0.0,
                "straggler": late and each.compute_seconds > median + STRAGGLER_SECONDS,
                "activity": activities.get(each.id, ""),
                "memory_bytes": each.memory_bytes or None,
            }
        )
    return {"workers": rows, "median_compute_seconds": median, "target_workers": status.target_workers}


def job_view(view: JobView, writes: bool) -> dict[str, Any]:
    """What does not change while the job runs."""
    return {
        "name": view.name,
        "kind": kind_of(view.spec),
        "version": edl_allreduce.__version__,
        "may_write": writes and view.controls is not None,
        "ended": view.ended.is_set(),
        "source": view.source,
        "logs": view.has_logs,
        "notes": view.notes,
        "serial": view.record.serial,
        **view.extra(),
    }


def history_view(view: JobView, by: str, low: float, high: float, most: int) -> dict[str, Any]:
    """Curves over steps or over time."""
    points, width = view.record.steps.points(by, low, high, most)
    return {"by": by, "width": width, "serial": view.record.serial, "points": curves(points)}


def activity_view(view: JobView, low: float, high: float, most: int) -> dict[str, Any]:
    """What workers' time goes into."""
    points, width = view.record.activities.points("time", low, high, most)
    return {"width": width, "points": {name: values.tolist() for name, values in points.items()}}


def round_view(entry: RoundEntry) -> dict[str, Any]:
    """A round on the timeline."""
    return dataclasses.asdict(entry)


def goodput_view(status: pb.Status) -> dict[str, Any]:
    """Where the time went; what is neither useful nor lost is `other_seconds`."""
    told = status.goodput
    lost = sum(each.seconds for each in told.lost)
    plain = to_plain(told)
    return plain | {
        "goodput": told.useful_seconds / told.wall_seconds if told.wall_seconds else None,
        "other_seconds": max(0.0, told.wall_seconds - told.useful_seconds - lost),
    }


def spec_view(spec: Job) -> dict[str, Any]:
    """The job's settings, in groups."""
    groups = []
    for group in dataclasses.fields(spec):
        settings = getattr(spec, group.name)
        title = (type(settings).__doc__ or group.name).strip().rstrip(".")
        fields = [
            {
                "name": each.name,
                "value": getattr(settings, each.name),
                "default": None if each.default is dataclasses.MISSING else each.default,
                "given": each.default is dataclasses.MISSING or getattr(settings, each.name) != each.default,
                "help": each.metadata.get("help", ""),
            }
            for each in dataclasses.fields(settings)
        ]
        groups.append({"name": group.name, "title": title, "settings": fields})
    return {"kind": kind_of(spec), "groups": groups}
