"""Which limits follow from a job's spec."""

from __future__ import annotations

from edl_allreduce.position import Schedule
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job
from rendezvous.state import Policy

RECONNECT_SECONDS = 6.0  # for a worker to notice that it must greet anew, beyond the silence that is allowed anyway


def make_policy(spec: Job, schedule: Schedule) -> Policy:
    """The limits that follow from a job's spec."""
    if not isinstance(spec, JobSpec):
        return Policy(
            finished=lambda position: False,
            busy_timeout=spec.elastic.prepare_timeout,
            recover_timeout=spec.elastic.worker_timeout + RECONNECT_SECONDS,
            leased=True,
        )
    elastic, output = spec.elastic, spec.output
    return Policy(
        finished=schedule.finished,
        min_workers=elastic.min_workers,
        gather_timeout=elastic.gather_timeout,
        part_timeout=elastic.part_timeout,
        busy_timeout=elastic.prepare_timeout,
        recover_timeout=elastic.worker_timeout + RECONNECT_SECONDS,
        checkpoint_secs=output.checkpoint_secs,
        saves=bool(output.checkpoint_secs or output.checkpoint_steps),
    )
