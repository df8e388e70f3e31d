"""The job as people want to see it, made from the coordinator's state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_to_message
from rendezvous.state import Phase, State, Worker, WorkerState

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
    training = coordinator.spec.training
    size = len(state.round.members) if state.round else coordinator.spec.elastic.num_workers
    batch = training.global_batch(size)
    rate = telemetry.records_per_second()
    left = coordinator.schedule.steps_left(telemetry.position, batch)
    return pb.Status(
        phase=_PHASES.get(state.phase, "reforming" if state.round else "starting"),
        message=state.verdict or _waiting_for(state, coordinator.spec.elastic.min_workers),
        position=position_to_message(telemetry.position),
        total_steps=0 if training.minibatch_size else coordinator.schedule.total_steps(batch),
        num_epochs=training.num_epochs,
        records=coordinator.dataset.records,
        loss=telemetry.loss,
        records_per_second=rate,
        seconds_left=left * batch / rate if rate else 0.0,
        workers=[_worker(coordinator, worker, now) for _, worker in sorted(state.workers.items())],
        round=state.round.number if state.round else 0,
        rounds=telemetry.round_statuses(),
        target_workers=state.target,
        seconds=now - coordinator.started_at,
        training_seconds=telemetry.training_seconds(),
        exit_code=state.exit_code,
        goodput=telemetry.goodput(),
        checkpoint=position_to_message(telemetry.checkpoint) if telemetry.checkpoint else None,
        checkpoint_error=telemetry.checkpoint_error,
        skipped_records=telemetry.skipped,
        coordinator_restarts=telemetry.restarts,
    )


def _waiting_for(state: State, min_workers: int) -> str:
    ready = sum(worker.state is WorkerState.READY for worker in state.workers.values())
    if state.phase is Phase.GATHERING and ready < min_workers:
        return f"waiting for workers: {ready} ready, {min_workers} needed"
    return ""


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
    )
