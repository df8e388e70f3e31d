"""Decides who trains together: membership and rounds as pure functions over a small state.

A *round* is a numbered set of members with ranks. Every fact (a worker is ready, has parted, is lost, …) is an event;
`decide(state, event, now)` returns the next state and what is to be done about it. Nothing here waits, sends or reads
a clock, so that every transition can be tested on its own.

    GATHERING ──round──▶ TRAINING ──failure, newcomer, leaver──▶ PARTING ──all parted or dropped──▶ GATHERING
        └──the furthest position is the end──▶ EXPORTING ──exported──▶ DONE          (from anywhere: FAILED, STOPPED)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from edl_allreduce.position import Position
from rendezvous.events import (
    AbandonRound,
    AskToExport,
    AskToLeave,
    AskToPart,
    BeginRound,
    Broke,
    Drop,
    Effect,
    EndJob,
    Event,
    Exported,
    Greeted,
    Leaving,
    Lost,
    Parted,
    Ready,
    Scaled,
    StartWorker,
    Stopped,
)
from rendezvous.state import FAILED_EXIT_CODE, STOPPED_EXIT_CODE, Phase, Policy, Round, State, Worker, WorkerState


def decide(state: State, event: Event, now: float, policy: Policy) -> tuple[State, list[Effect]]:
    """The next state, and what is to be done, after one event at time `now` (seconds)."""
    if state.phase.ended:
        return state, []
    state = _learn(state, event, now, policy)
    effects: list[Effect] = []
    while not state.phase.ended:
        settled = state
        for look in (_staffing, _POLICIES[state.phase]):
            state, more = look(state, now, policy)
            effects += more
            if state is not settled:
                break
        else:
            break
    if state.phase.ended:
        effects.append(EndJob())
    return state, effects


def next_deadline(state: State, policy: Policy) -> float | None:
    """When `Tick` should be told, if nothing else happens before (seconds of the same clock); None: never."""
    if state.phase is Phase.PARTING:
        return state.deadline
    ready = [worker.since for worker in state.workers.values() if worker.state is WorkerState.READY]
    return min(ready) + policy.gather_timeout if ready and _preparing(state) else None


# Learning: an event changes what is known.


def _learn(state: State, event: Event, now: float, policy: Policy) -> State:
    match event:
        case Greeted(id, host) if id in state.workers:
            return _put(state, replace(state.workers[id], state=WorkerState.PREPARING, since=now, host=host))
        case Ready(id) if id in state.workers:
            worker = replace(state.workers[id], state=WorkerState.READY, since=now)
            return replace(_put(state, worker), early_deaths=0)
        case Parted():
            return _parted(state, event, now, policy)
        case Leaving(id) if id in state.workers:
            return _put(state, replace(state.workers[id], leaving=True))
        case Lost(id, why) if id in state.workers:
            return _lost(state, state.workers[id], why, policy)
        case Broke(_, error, exit_code):
            return _failed(state, error, exit_code)
        case Exported(id) if state.phase is Phase.EXPORTING and id in state.workers:
            return replace(state, phase=Phase.DONE)
        case Scaled(target):
            return replace(state, target=target)
        case Stopped(why):
            return replace(state, phase=Phase.STOPPED, verdict=why, exit_code=STOPPED_EXIT_CODE)
    return state


def _parted(state: State, event: Parted, now: float, policy: Policy) -> State:
    worker = state.workers.get(event.id)
    if worker is None or worker.state is not WorkerState.TRAINING or state.round is None:
        return state  # it has been dropped in the meantime
    if event.round != state.round.number:
        return state
    began = state.round.position
    state = _put(state, replace(worker, state=WorkerState.READY, since=now, position=event.position))
    if event.error is None:
        return replace(state, cause=state.cause or (f"worker {worker.id} left" if worker.leaving else ""))
    if state.round_failed:
        return state
    barren = state.barren_rounds + 1 if event.position == began else 0
    if barren >= policy.max_barren_rounds:
        verdict = f"{barren} rounds in a row failed at step {event.position.step + 1}: {event.error}"
        return _failed(state, verdict, FAILED_EXIT_CODE)
    return replace(state, round_failed=True, barren_rounds=barren, cause=f"a reduction failed on worker {event.id}")


def _lost(state: State, worker: Worker, why: str, policy: Policy) -> State:
    state = replace(state, workers={id: each for id, each in state.workers.items() if id != worker.id})
    if worker.leaving and worker.state is not WorkerState.TRAINING:
        return state
    if worker.state in (WorkerState.STARTING, WorkerState.PREPARING):
        deaths = state.early_deaths + 1
        if deaths < policy.max_early_deaths:
            return replace(state, early_deaths=deaths)
        verdict = f"{deaths} workers in a row died before they were ready; the last one, worker {worker.id}, {why}"
        return _failed(state, verdict, FAILED_EXIT_CODE)
    if worker.state is WorkerState.TRAINING:
        return replace(state, round_failed=True, barren_rounds=0, cause=f"worker {worker.id} {why}")
    return state


# Policies: what each phase does about what is known. Each returns the state and effects; the very same state object:
# there is nothing to do now.


def _staffing(state: State, now: float, policy: Policy) -> tuple[State, list[Effect]]:
    """Keeps as many workers alive as are wanted: starts missing ones, sends the youngest away."""
    staying = [worker for worker in state.workers.values() if not worker.leaving]
    if len(staying) > state.target:
        staying.sort(key=lambda worker: (worker.state is WorkerState.TRAINING, -worker.id))
        surplus = staying[: len(staying) - state.target]
        marked = {worker.id: replace(worker, leaving=True) for worker in surplus}
        return replace(state, workers=state.workers | marked), [AskToLeave(id) for id in marked]
    if len(staying) < state.target and state.phase is not Phase.EXPORTING:
        ids = range(state.next_id, state.next_id + state.target - len(staying))
        started = {id: Worker(id, WorkerState.STARTING, now) for id in ids}
        return replace(state, workers=state.workers | started, next_id=ids.stop), [StartWorker(id) for id in ids]
    return state, []


def _gathering(state: State, now: float, policy: Policy) -> tuple[State, list[Effect]]:
    ready = _ready(state)
    furthest = max((worker.position for worker in ready if worker.position), default=None)
    if furthest is not None and policy.finished(furthest):
        chosen = next(worker for worker in ready if worker.position == furthest)
        exporting = replace(chosen, state=WorkerState.EXPORTING, since=now)
        return replace(_put(state, exporting), phase=Phase.EXPORTING), [AskToExport(chosen.id)]
    if len(ready) < policy.min_workers or (furthest is None and _worth_waiting(state, ready, now, policy)):
        return state, []
    if furthest is None and state.round is not None and state.round.position != Position():
        state = replace(state, cause=f"{state.cause}; nobody is left who has the weights: training starts again")
    new = _form(state, ready, furthest or Position())
    members = {id: replace(state.workers[id], state=WorkerState.TRAINING, since=now) for id in new.members}
    state = replace(state, workers=state.workers | members, round=new, phase=Phase.TRAINING, cause="")
    return state, [BeginRound(new)]


def _training(state: State, now: float, policy: Policy) -> tuple[State, list[Effect]]:
    assert state.round is not None
    still = _members(state)
    if state.round_failed or len(still) < len(state.round.members):
        return replace(state, phase=Phase.PARTING, deadline=None), []
    newcomers = _ready(state)
    if newcomers and not _worth_waiting(state, newcomers, now, policy):
        names = ", ".join(str(worker.id) for worker in newcomers)
        cause = f"worker{'s' if newcomers[1:] else ''} {names} joined"
        asked = AskToPart(state.round.number, still)
        # No deadline: parting takes as long as the step in progress, and a hung member is found by its heartbeat.
        return replace(state, phase=Phase.PARTING, cause=cause, deadline=None), [asked]
    return state, []


def _leaving_round(state: State, now: float, policy: Policy) -> tuple[State, list[Effect]]:
    assert state.round is not None
    still = _members(state)
    if not still:
        return replace(state, phase=Phase.GATHERING, round_failed=False, deadline=None), []
    if state.round_failed and state.deadline is None:
        deadline = now + policy.part_timeout
        return replace(state, deadline=deadline), [AbandonRound(state.round.number, still)]
    if state.deadline is not None and now >= state.deadline:
        why = f"did not part within {policy.part_timeout:g} s"
        staying = {id: each for id, each in state.workers.items() if id not in still}
        return replace(state, workers=staying), [Drop(id, why) for id in still]
    return state, []


def _exporting(state: State, now: float, policy: Policy) -> tuple[State, list[Effect]]:
    if _in_state(state, WorkerState.EXPORTING):
        return state, []
    return replace(state, phase=Phase.GATHERING), []  # the one that exported was lost: choose again


_POLICIES: dict[Phase, Callable[[State, float, Policy], tuple[State, list[Effect]]]] = {
    Phase.GATHERING: _gathering,
    Phase.TRAINING: _training,
    Phase.PARTING: _leaving_round,
    Phase.EXPORTING: _exporting,
}


def _form(state: State, ready: list[Worker], position: Position) -> Round:
    """The next round of the ready workers: those at the furthest position first, then by id; hosts stay together."""
    ranked = sorted(ready, key=lambda worker: (worker.position != position, worker.id))
    root = ranked[0]
    hosts = list(dict.fromkeys(worker.host for worker in ranked))
    ranked.sort(key=lambda worker: (worker is not root, hosts.index(worker.host)))
    return Round(
        number=state.round.number + 1 if state.round else 1,
        members=tuple(worker.id for worker in ranked),
        cause=state.cause or "all members parted",
        synchronize=any(worker.position != position for worker in ranked),
        position=position,
    )


# Small helpers.


def _put(state: State, worker: Worker) -> State:
    return replace(state, workers=state.workers | {worker.id: worker})


def _failed(state: State, verdict: str, exit_code: int) -> State:
    return replace(state, phase=Phase.FAILED, verdict=verdict, exit_code=exit_code)


def _in_state(state: State, *wanted: WorkerState) -> list[Worker]:
    return [worker for _, worker in sorted(state.workers.items()) if worker.state in wanted]


def _preparing(state: State) -> list[Worker]:
    return [worker for worker in _in_state(state, WorkerState.STARTING, WorkerState.PREPARING) if not worker.leaving]


def _ready(state: State) -> list[Worker]:
    return [worker for worker in _in_state(state, WorkerState.READY) if not worker.leaving]


def _members(state: State) -> tuple[int, ...]:
    """Members of the current round that are still in it."""
    return tuple(worker.id for worker in _in_state(state, WorkerState.TRAINING))


def _worth_waiting(state: State, ready: Iterable[Worker], now: float, policy: Policy) -> bool:
    """Whether others will be ready soon, so that one reform serves them all."""
    return bool(_preparing(state)) and now < min(worker.since for worker in ready) + policy.gather_timeout
