"""The job as people want to see it, made from the coordinator's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_to_message
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import kind_of
from rendezvous.state import Phase, State, Worker, WorkerState, in_state

if TYPE_CHECKING:
    from rendezvous.coordinator import Coordinator

_PHASES = {
    Phase.RECOVERING: "reforming",
    Phase.TRAINING: "training",
    Phase.PARTING: "reforming",
    Phase.EXPORTING: "exporting",
    Phase.STOPPING: "stopping",
    Phase.DONE: "done",
    Phase.FAILED: "failed",
    Phase.STOPPED: "stopped",
}


def make_status(coordinator: Coordinator) -> pb.Status:
    """The status message of a job at this moment."""
    state, telemetry, now = coordinator.state, coordinator.telemetry, coordinator.now()
    spec = coordinator.spec
    status = pb.Status(
        job=kind_of(spec),
        phase=_phase(coordinator),
        message=state.verdict,
        position=position_to_message(telemetry.position),
        records=coordinator.dataset.records,
        workers=[_worker(coordinator, worker, now) for _, worker in sorted(state.workers.items())],
        round=state.round.number if state.round else 0,
        rounds=telemetry.round_statuses(),
        target_workers=state.target,
        seconds=now - coordinator.started_at,
        exit_code=state.exit_code,
        skipped_records=telemetry.skipped,
        notices=telemetry.notices,
        coordinator_restarts=telemetry.restarts,
        work=coordinator.work.status(),
        evaluations=telemetry.evaluations,
        epochs=telemetry.epochs,
    )
    if not state.verdict:
        status.message = _waiting_for(state, spec.elastic.min_workers if isinstance(spec, JobSpec) else 0)
    if isinstance(spec, JobSpec):
        status.MergeFrom(_training(coordinator, spec))
    else:
        done, seconds = status.work.records_done, status.seconds
        status.records_per_second = done / seconds if seconds else 0.0
        status.seconds_left = (status.records - done) / status.records_per_second if done else 0.0
    return status


def _training(coordinator: Coordinator, spec: JobSpec) -> pb.Status:
    """What only a training has to say."""
    state, telemetry, training = coordinator.state, coordinator.telemetry, spec.training
    size = len(state.round.members) if state.round else spec.elastic.num_workers
    batch = training.global_batch(size)
    rate = telemetry.records_per_second()
    left = coordinator.schedule.steps_left(telemetry.position, batch)
    return pb.Status(
        total_steps=0 if training.minibatch_size else coordinator.schedule.total_steps(batch),
        num_epochs=training.num_epochs,
        loss=telemetry.loss,
        records_per_second=rate,
        seconds_left=left * batch / rate if rate else 0.0,
        training_seconds=telemetry.training_seconds(),
        goodput=telemetry.goodput(),
        checkpoint=position_to_message(telemetry.checkpoint) if telemetry.checkpoint else None,
        checkpoint_error=telemetry.checkpoint_error,
    )


def _phase(coordinator: Coordinator) -> str:
    state = coordinator.state
    if state.phase is Phase.WORKING:  # until somebody does
        work = coordinator.work.status()
        return "working" if work and (work.tasks_leased or work.tasks_done) else "starting"
    return _PHASES.get(state.phase, "reforming" if state.round else "starting")


def _waiting_for(state: State, min_workers: int) -> str:
    """What a job in which nobody does anything yet is waiting for; empty: nothing in particular."""
    if state.phase not in (Phase.GATHERING, Phase.WORKING):
        return ""
    ready = len(in_state(state, WorkerState.READY))
    found = [f"waiting for workers: {ready} ready, {min_workers} needed"] if ready < min_workers else []
    pending = in_state(state, WorkerState.PENDING)
    if pending and not in_state(state, WorkerState.WORKING):
        first = pending[0]
        also = f" (and {len(pending) - 1} more)" if pending[1:] else ""
        found.append(f"worker {first.id}{also} waits: {first.waits_for}")
    return "; ".join(found)


def _worker(coordinator: Coordinator, worker: Worker, now: float) -> pb.WorkerStatus:
    presence = coordinator.presences.get(worker.id)
    members = coordinator.state.round.members if coordinator.state.round else ()
    in_round = worker.state is WorkerState.TRAINING and worker.id in members
    return pb.WorkerStatus(
        id=worker.id,
        host=worker.host,
        pid=presence.pid if presence else 0,
        state="leaving" if worker.leaving else worker.state.value,
        rank=members.index(worker.id) if in_round else -1,
        heartbeat_seconds=now - presence.heard if presence else 0.0,
        lanes=coordinator.lanes.get(worker.id, 0) if in_round else 0,
        compute_seconds=presence.doing.usual if presence else 0.0,
        waits_for=worker.waits_for,
        memory_bytes=presence.memory_bytes if presence else 0,
    )
