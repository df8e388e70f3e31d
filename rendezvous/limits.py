"""Which limits follow from a job's spec."""

from __future__ import annotations

from edl_allreduce.position import Schedule
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job
from rendezvous.state import Policy

HEARTBEAT_SECONDS = 0.25  # between two heartbeats of a worker, where there is no reason for more
HEARTBEATS_PER_SECOND = 1000  # of all workers together: about a tenth of a core
HEARTBEATS_PER_TIMEOUT = 3


def heartbeat_seconds(workers: int, worker_timeout: float) -> float:
    """Between two heartbeats of a worker: so many workers must not keep the coordinator busy with them."""
    longest = max(HEARTBEAT_SECONDS, worker_timeout / HEARTBEATS_PER_TIMEOUT)
    return min(longest, max(HEARTBEAT_SECONDS, workers / HEARTBEATS_PER_SECOND))


def make_policy(spec: Job, schedule: Schedule, reconnect_seconds: float) -> Policy:
    """The limits that follow from a job's spec.

    Args:
        reconnect_seconds: for a worker to find a new coordinator, beyond the silence that is allowed anyway.
    """
    if not isinstance(spec, JobSpec):
        return Policy(
            finished=lambda position: False,
            busy_timeout=spec.elastic.prepare_timeout,
            recover_timeout=spec.elastic.worker_timeout + reconnect_seconds,
            leased=True,
        )
    elastic, output = spec.elastic, spec.output
    return Policy(
        finished=schedule.finished,
        min_workers=elastic.min_workers,
        gather_timeout=elastic.gather_timeout,
        part_timeout=elastic.part_timeout,
        busy_timeout=elastic.prepare_timeout,
        recover_timeout=elastic.worker_timeout + reconnect_seconds,
        checkpoint_secs=output.checkpoint_secs,
        saves=bool(output.checkpoint_secs or output.checkpoint_steps),
    )
