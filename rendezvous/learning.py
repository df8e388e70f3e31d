"""What an event changes in what the coordinator knows; what follows from it is decided in `rounds`."""

from __future__ import annotations

from dataclasses import replace

from edl_allreduce.position import Position
from rendezvous.events import (
    Broke,
    Checkpointed,
    CheckpointWanted,
    Event,
    Explained,
    Exported,
    Greeted,
    Leased,
    Leaving,
    Lost,
    Parted,
    Ready,
    Restored,
    Scaled,
    Stalled,
    Started,
    Stopped,
    Waiting,
    WorkDone,
)
from rendezvous.state import (
    STOPPED_EXIT_CODE,
    Cause,
    Kind,
    Phase,
    Policy,
    Round,
    State,
    WorkerState,
    failed,
    put,
    without,
)

_MAY_EXPORT = (Phase.EXPORTING, Phase.RECOVERING, Phase.STOPPING)


def learn(state: State, event: Event, now: float, policy: Policy) -> State:
    """The state after one event at time `now` (seconds), before anything is decided."""
    match event:
        case Waiting(id, why) if id in state.workers:
            return _waiting(state, id, why, now)
        case Started(id) if id in state.workers and state.workers[id].state is WorkerState.PENDING:
            return put(state, replace(state.workers[id], state=WorkerState.STARTING, since=now, waits_for=""))
        case Greeted(id) if id in state.workers:
            return _greeted(state, event, now)
        case Ready(id) if id in state.workers:
            worker = replace(state.workers[id], state=WorkerState.READY, since=now)
            return replace(put(state, worker), early_deaths=0)
        case Parted():
            return _parted(state, event, now, policy)
        case Leaving(id) if id in state.workers:
            return put(state, replace(state.workers[id], leaving=True))
        case Lost(id) if id in state.workers:
            return lost(state, event, policy)
        case Explained(id, why, excused) if state.cause and state.cause.worker == id and state.cause.kind is Kind.LOST:
            losses = max(0, state.losses_in_place - excused)
            return replace(state, cause=_loss(id, why, Kind.LOST), losses_in_place=losses)
        case Stalled(number, why) if _in_progress(state, number) and not state.round_failed:
            return replace(state, round_failed=True, cause=Cause(Kind.NETWORK, why))
        case Restored(id, position) if id in state.workers:
            state = put(state, replace(state.workers[id], state=WorkerState.READY, since=now, position=position))
            return replace(state, checkpoint=position, searched=position is None)
        case Checkpointed():
            return _checkpointed(state, event, now)
        case Broke(_, error, exit_code):
            return failed(state, error, exit_code)
        case Exported(id) if state.phase in _MAY_EXPORT and id in state.workers:
            return replace(state, phase=Phase.DONE, verdict="", exit_code=0)
        case Leased(id) if id in state.workers:
            return put(state, replace(state.workers[id], state=WorkerState.WORKING, since=now))
        case WorkDone():
            return replace(state, phase=Phase.DONE)
        case Scaled(target):
            return replace(state, target=target)
        case CheckpointWanted():
            return replace(state, checkpoint_due=now)
        case Stopped(why, save):
            saves = save and policy.saves and state.phase is not Phase.STOPPING
            phase = Phase.STOPPING if saves else Phase.STOPPED
            return replace(state, phase=phase, verdict=why, exit_code=STOPPED_EXIT_CODE, deadline=None)
    return state


def _in_progress(state: State, number: int) -> bool:
    running = (Phase.TRAINING, Phase.PARTING, Phase.STOPPING)
    return state.round is not None and number == state.round.number and state.phase in running


def _waiting(state: State, id: int, why: str, now: float) -> State:
    worker = state.workers[id]
    if worker.state is WorkerState.PENDING:
        return put(state, replace(worker, waits_for=why))
    if worker.state in (WorkerState.STARTING, WorkerState.UNHEARD):
        return put(state, replace(worker, state=WorkerState.PENDING, since=now, waits_for=why))
    return state  # it has greeted already: that news is older


def _greeted(state: State, event: Greeted, now: float) -> State:
    worker = replace(state.workers[event.id], since=now, host=event.host, address=event.address, waits_for="")
    told = event.standing
    if state.workers[event.id].state is WorkerState.UNHEARD:
        state = replace(state, deadline=None)  # a job that stops must ask this one, too
    if told is None:
        return put(state, replace(worker, state=WorkerState.PREPARING))
    state = _reached(put(state, replace(worker, state=told.state, position=told.position)), told.position)
    if told.round and (state.round is None or told.round.number > state.round.number):
        state = replace(state, round=told.round, next_round=max(state.next_round, told.round.number + 1))
    return state


def _parted(state: State, event: Parted, now: float, policy: Policy) -> State:
    worker = state.workers.get(event.id)
    if worker is None or worker.state is not WorkerState.TRAINING or state.round is None:
        return state  # it has been dropped in the meantime
    if event.round != state.round.number:
        return state
    began = state.round.position
    unreachable = _pairs(state, state.round, worker.id, event.unreachable)
    worker = replace(worker, state=WorkerState.READY, since=now, position=event.position)
    refused = state.refused | {worker.id} if event.refused else state.refused
    state = _reached(put(state, worker), event.position)
    state = replace(state, unreachable=state.unreachable | unreachable, refused=refused)
    if event.error is None:
        left = Cause(Kind.LEFT, f"worker {worker.id} left", worker.id) if worker.leaving else None
        return replace(state, cause=state.cause or left, barren_rounds=0)
    if state.round_failed:
        return state
    if worker.leaving:  # in the middle of an evaluation, where the others need not agree
        return replace(state, round_failed=True, cause=Cause(Kind.LEFT, f"worker {worker.id} left", worker.id))
    state = count_barren(state, event.position not in (None, began), event.error, policy)
    cause = Cause(Kind.OTHER, f"a reduction failed on worker {worker.id}", worker.id)
    return replace(state, round_failed=True, cause=cause)


def count_barren(state: State, got_further: bool, why: str, policy: Policy) -> State:
    """Counts rounds in a row that have failed without a step and without a lost worker: they are not tried forever."""
    barren = 0 if got_further else state.barren_rounds + 1
    if state.round and barren >= policy.max_barren_rounds:
        return failed(state, f"{barren} rounds in a row failed at step {state.round.position.step + 1}: {why}")
    return replace(state, barren_rounds=barren)


def _pairs(state: State, round: Round, id: int, addresses: tuple[str, ...]) -> frozenset[tuple[int, int]]:
    """This worker with each member that has one of the addresses to itself."""
    found = set()
    for address in addresses:
        there = [each for each in round.members if each in state.workers and state.workers[each].address == address]
        if len(there) == 1 and there != [id]:
            found.add((min(id, there[0]), max(id, there[0])))
    return frozenset(found)


def lost(state: State, event: Lost, policy: Policy) -> State:
    """The state without a worker that is no more."""
    worker = state.workers[event.id]
    state = _reached(without(state, worker.id), event.position)
    if worker.leaving and worker.state is not WorkerState.TRAINING:
        return state
    match worker.state:
        case WorkerState.STARTING | WorkerState.PREPARING | WorkerState.RESTORING:
            return state if event.excused else _early_death(state, event, policy)
        case WorkerState.TRAINING:
            first = not state.round_failed
            state = replace(state, round_failed=True, barren_rounds=0, cause=_loss(worker.id, event.why, event.kind))
            return _loss_in_place(state, event, policy) if first and not event.excused else state
        case WorkerState.EXPORTING | WorkerState.SAVING:
            return state if event.excused else _loss_in_place(state, event, policy)
        case WorkerState.UNHEARD:
            return replace(state, cause=_loss(worker.id, event.why, event.kind), deadline=None)
    return state


def _early_death(state: State, event: Lost, policy: Policy) -> State:
    deaths = state.early_deaths + 1
    if deaths < policy.max_early_deaths:
        return replace(state, early_deaths=deaths)
    last = f"the last one, worker {event.id}, {event.why}"
    return failed(state, f"{deaths} workers in a row died before they were ready; {last}")


def _loss_in_place(state: State, event: Lost, policy: Policy) -> State:
    """Counts losses at one place: a record that kills whoever reads it must not be tried forever."""
    if state.furthest > state.lost_at:
        return replace(state, losses_in_place=1, lost_at=state.furthest)
    losses = state.losses_in_place + 1
    if losses < policy.max_losses_in_place:
        return replace(state, losses_in_place=losses)
    last = f"the last one, worker {event.id}, {event.why}"
    return failed(
        state, f"{losses} times in a row a worker was lost before step {state.furthest.step + 1} was done; {last}"
    )


def _loss(id: int, why: str, kind: Kind) -> Cause:
    return Cause(kind, f"worker {id} {why}", id)


def _checkpointed(state: State, event: Checkpointed, now: float) -> State:
    worker = state.workers.get(event.id)
    if worker and worker.state is WorkerState.SAVING:
        saved = replace(worker, state=WorkerState.READY, since=now)
        state = put(state, saved if event.position else replace(saved, position=None))  # not asked again
    if event.position is None or (state.checkpoint and state.checkpoint > event.position):
        return state
    return replace(state, checkpoint=event.position)


def _reached(state: State, position: Position | None) -> State:
    return replace(state, furthest=max(state.furthest, position)) if position else state
