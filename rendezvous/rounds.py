"""Decides who trains together: membership and rounds as pure functions over a small state.

A *round* is a numbered set of members with ranks. Every fact (a worker is ready, has parted, is lost, …) is an event;
`decide(state, event, now)` returns the next state and what is to be done about it. Nothing here waits, sends or reads
a clock, so that every transition can be tested on its own.

    GATHERING ──round──▶ TRAINING ──failure, newcomer, leaver──▶ PARTING ──all parted or dropped──▶ GATHERING
        └──the furthest position is the end──▶ EXPORTING ──exported──▶ DONE          (from anywhere: FAILED, STOPPED)

A coordinator that takes over a running job begins in RECOVERING; a job that is told to stop saves what it has in
STOPPING. A job of leased tasks has no rounds: it is WORKING until they are done (see `leases`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from edl_allreduce.position import Position
from rendezvous.culprits import without_culprits
from rendezvous.events import (
    AbandonRound,
    AskToCheckpoint,
    AskToExport,
    AskToLeave,
    AskToPart,
    AskToRestore,
    BeginRound,
    Cancel,
    Dismiss,
    Drop,
    Effect,
    EndJob,
    Event,
    Lost,
    StartWorker,
)
from rendezvous.learning import learn, lost
from rendezvous.state import (
    Cause,
    Kind,
    Phase,
    Policy,
    Round,
    State,
    Worker,
    WorkerState,
    in_state,
    members,
    preparing,
    put,
    ready,
    without,
)

Decision = tuple[State, list[Effect]]

# What a worker may be busy with alone, so that only time tells whether it hangs.
_BUSY = (
    WorkerState.STARTING,
    WorkerState.PREPARING,
    WorkerState.RESTORING,
    WorkerState.SAVING,
    WorkerState.EXPORTING,
)


def decide(state: State, event: Event, now: float, policy: Policy) -> Decision:
    """The next state, and what is to be done, after one event at time `now` (seconds)."""
    if state.phase.ended:
        return state, []
    state = learn(state, event, now, policy)
    effects: list[Effect] = []
    while not state.phase.ended:
        settled = state
        for look in (_overdue, _staffing, _dismissing, _POLICIES[state.phase]):
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
    times = [worker.since + policy.busy_timeout for worker in in_state(state, *_BUSY)]
    times += [worker.since + policy.recover_timeout for worker in in_state(state, WorkerState.UNHEARD)]
    if state.deadline is not None:
        times.append(state.deadline)
    if state.phase in (Phase.GATHERING, Phase.TRAINING) and preparing(state) and ready(state):
        times.append(_patience_ends(ready(state), policy))
    if state.phase is Phase.TRAINING and state.checkpoint_due is not None:
        times.append(state.checkpoint_due)
    return min(times, default=None)


# Policies: what is done about what is known. Each returns the state and effects; the very same state object: there is
# nothing to do now.


def _overdue(state: State, now: float, policy: Policy) -> Decision:
    """Drops workers that take too long over something that they do alone."""
    limits = dict.fromkeys(_BUSY, policy.busy_timeout) | {WorkerState.UNHEARD: policy.recover_timeout}
    for worker in in_state(state, *limits):
        limit = limits[worker.state]
        if now >= worker.since + limit:
            doing = "unheard of" if worker.state is WorkerState.UNHEARD else worker.state.value
            why = f"was {doing} for {limit:g} s"
            return lost(state, Lost(worker.id, why, Kind.HUNG), policy), [Drop(worker.id, why)]
    return state, []


def _staffing(state: State, now: float, policy: Policy) -> Decision:
    """Keeps as many workers alive as are wanted: starts missing ones, sends the youngest away."""
    if state.phase is Phase.STOPPING:
        return state, []
    staying = [worker for worker in state.workers.values() if not worker.leaving]
    if len(staying) > state.target:
        staying.sort(key=lambda worker: (worker.state is WorkerState.TRAINING, -worker.id))
        pending = [worker.id for worker in staying if worker.state is WorkerState.PENDING]
        if pending:
            cancelled = pending[: len(staying) - state.target]
            return without(state, *cancelled), [Cancel(id) for id in cancelled]
        surplus = staying[: len(staying) - state.target]
        marked = {worker.id: replace(worker, leaving=True) for worker in surplus}
        return replace(state, workers=state.workers | marked), [AskToLeave(id) for id in marked]
    if len(staying) < state.target and state.phase is not Phase.EXPORTING:
        ids = range(state.next_id, state.next_id + state.target - len(staying))
        started = {id: Worker(id, WorkerState.STARTING, now) for id in ids}
        return replace(state, workers=state.workers | started, next_id=ids.stop), [StartWorker(id) for id in ids]
    return state, []


def _dismissing(state: State, now: float, policy: Policy) -> Decision:
    """Lets leavers go that are in no round; the last one with the newest weights writes a checkpoint before."""
    if state.phase not in (Phase.GATHERING, Phase.TRAINING, Phase.EXPORTING, Phase.WORKING):
        return state, []
    parting = state.round.members if state.round and state.phase is Phase.TRAINING else ()
    leavers = [each for each in in_state(state, WorkerState.READY) if each.leaving and each.id not in parting]
    keeper = _keeper(state, leavers) if policy.saves else None
    if keeper:
        return put(state, replace(keeper, state=WorkerState.SAVING, since=now)), [AskToCheckpoint(keeper.id)]
    if not leavers:
        return state, []
    return without(state, *(worker.id for worker in leavers)), [Dismiss(worker.id) for worker in leavers]


def _keeper(state: State, leavers: Iterable[Worker]) -> Worker | None:
    """The leaver with weights that would be lost with it."""
    best = max(leavers, key=_position, default=None)
    if best is None or best.position is None or not _unsaved(state, best.position):
        return None
    keep = [worker for worker in state.workers.values() if not worker.leaving or worker.state is WorkerState.SAVING]
    safe = any(worker.state is WorkerState.TRAINING or _position(worker) >= best.position for worker in keep)
    return None if safe else best


def _recovering(state: State, now: float, policy: Policy) -> Decision:
    """Goes on where the coordinator before this one was, once every worker has told where it is."""
    if in_state(state, WorkerState.UNHEARD):
        return state, []
    if in_state(state, WorkerState.EXPORTING):
        return replace(state, phase=Phase.EXPORTING, cause=None), []
    belong = state.round.members if state.round else ()
    strays = [id for id in members(state) if id not in belong]
    if strays:
        return without(state, *strays), [Drop(id, "was in a round that is over") for id in strays]
    restart = Cause(Kind.RESTART, "the coordinator was restarted")
    if policy.leased:
        return replace(state, phase=Phase.WORKING, cause=None), []
    if not members(state):
        return replace(state, phase=Phase.GATHERING, round_failed=False, cause=state.cause or restart), []
    intact = len(members(state)) == len(belong) and not state.round_failed
    cause = None if intact else state.cause or restart
    due = _next_checkpoint(now, policy)
    return replace(state, phase=Phase.TRAINING, round_failed=not intact, cause=cause, checkpoint_due=due), []


def _gathering(state: State, now: float, policy: Policy) -> Decision:
    if in_state(state, WorkerState.RESTORING, WorkerState.SAVING):
        return state, []
    waiting = ready(state)
    furthest = max((worker.position for worker in waiting if worker.position), default=None)
    if furthest is not None and policy.finished(furthest):
        chosen = next(worker for worker in waiting if worker.position == furthest)
        exporting = replace(chosen, state=WorkerState.EXPORTING, since=now)
        return replace(put(state, exporting), phase=Phase.EXPORTING), [AskToExport(chosen.id)]
    if len(waiting) < policy.min_workers or (furthest is None and _worth_waiting(state, waiting, now, policy)):
        return state, []
    if _may_restore(state, furthest):
        chosen = replace(waiting[0], state=WorkerState.RESTORING, since=now)
        return put(state, chosen), [AskToRestore(chosen.id)]
    new = _form(state, waiting, furthest or Position())
    training = {id: replace(state.workers[id], state=WorkerState.TRAINING, since=now) for id in new.members}
    due = _next_checkpoint(now, policy)
    state = replace(
        state,
        workers=state.workers | training,
        round=new,
        next_round=new.number + 1,
        phase=Phase.TRAINING,
        cause=None,
        unreachable=state.unreachable if state.cause and state.cause.kind is Kind.NETWORK else frozenset(),
        refused=frozenset(),
        searched=False,
        checkpoint_due=due if state.checkpoint_due is None else state.checkpoint_due,
    )
    return state, [BeginRound(new)]


def _may_restore(state: State, furthest: Position | None) -> bool:
    """Whether a checkpoint may hold newer weights than anybody who is left."""
    if state.searched:
        return False
    if furthest is not None:
        return state.checkpoint is not None and state.checkpoint > furthest
    return state.checkpoint is not None or state.next_round > 1


def _training(state: State, now: float, policy: Policy) -> Decision:
    assert state.round is not None
    still = members(state)
    if state.round_failed or len(still) < len(state.round.members):
        return replace(state, phase=Phase.PARTING, deadline=None), []
    newcomers = ready(state)
    if newcomers and not _worth_waiting(state, newcomers, now, policy):
        names = ", ".join(str(worker.id) for worker in newcomers)
        cause = Cause(Kind.JOINED, f"worker{'s' if newcomers[1:] else ''} {names} joined")
        asked = AskToPart(state.round.number, still)
        # No deadline: parting takes as long as the step in progress, and a member that hangs is found by its silence.
        return replace(state, phase=Phase.PARTING, cause=cause, deadline=None), [asked]
    if state.checkpoint_due is not None and now >= state.checkpoint_due:
        due = _next_checkpoint(now, policy)
        return replace(state, checkpoint_due=due), [AskToCheckpoint(state.round.members[0])]
    return state, []


def _parting(state: State, now: float, policy: Policy) -> Decision:
    assert state.round is not None
    still = members(state)
    if not still:
        return without_culprits(replace(state, phase=Phase.GATHERING, round_failed=False, deadline=None), policy)
    if state.round_failed and state.deadline is None:
        deadline = now + policy.part_timeout
        return replace(state, deadline=deadline), [AbandonRound(state.round.number, still)]
    if state.deadline is not None and now >= state.deadline:
        why = f"did not part within {policy.part_timeout:g} s"
        return without(state, *still), [Drop(id, why) for id in still]
    return state, []


def _exporting(state: State, now: float, policy: Policy) -> Decision:
    if in_state(state, WorkerState.EXPORTING):
        return state, []
    return replace(state, phase=Phase.GATHERING), []  # the one that exported was lost: choose again


def _working(state: State, now: float, policy: Policy) -> Decision:
    """Who does which task is decided in `leases`."""
    return state, []


def _stopping(state: State, now: float, policy: Policy) -> Decision:
    """All part after their step, one writes a checkpoint, the job is over; nobody is waited for too long.

    A trained model that is being written already is completed instead: the job is done then.
    """
    still = members(state)
    if state.deadline is None:
        begun = replace(state, deadline=now + policy.stop_timeout)
        if in_state(state, WorkerState.UNHEARD) or not (state.round and still):
            return begun, []
        if state.workers.keys() >= set(state.round.members):
            return begun, [AskToPart(state.round.number, still)]
        return begun, [AbandonRound(state.round.number, still)]  # somebody died together with a coordinator
    if now >= state.deadline:
        return replace(state, phase=Phase.STOPPED), []
    if state.round and still and state.round_failed:
        return replace(state, round_failed=False), [AbandonRound(state.round.number, still)]
    if still or in_state(state, WorkerState.SAVING, WorkerState.EXPORTING, WorkerState.UNHEARD):
        return state, []
    best = max(in_state(state, WorkerState.READY), key=_position, default=None)
    if best is None or best.position is None or not _unsaved(state, best.position):
        return replace(state, phase=Phase.STOPPED), []
    return put(state, replace(best, state=WorkerState.SAVING, since=now)), [AskToCheckpoint(best.id)]


_POLICIES: dict[Phase, Callable[[State, float, Policy], Decision]] = {
    Phase.RECOVERING: _recovering,
    Phase.GATHERING: _gathering,
    Phase.TRAINING: _training,
    Phase.PARTING: _parting,
    Phase.EXPORTING: _exporting,
    Phase.WORKING: _working,
    Phase.STOPPING: _stopping,
}


# Small helpers.


def _position(worker: Worker) -> Position:
    return worker.position or Position()


def _form(state: State, waiting: list[Worker], position: Position) -> Round:
    """The next round of the ready workers: those at the furthest position first, then by id; hosts stay together."""
    cause = state.cause or Cause(Kind.OTHER, "all members parted")
    if position < state.furthest:
        again = f"{cause.text}; nobody is left with newer weights: training goes on from step {position.step}"
        cause = replace(cause, text=again)
    ranked = sorted(waiting, key=lambda worker: (worker.position != position, worker.id))
    root = ranked[0]
    hosts = list(dict.fromkeys(worker.host for worker in ranked))
    ranked.sort(key=lambda worker: (worker is not root, hosts.index(worker.host)))
    return Round(
        number=state.next_round,
        members=tuple(worker.id for worker in ranked),
        position=position,
        synchronize=any(worker.position != position for worker in ranked),
        cause=cause,
    )


def _next_checkpoint(now: float, policy: Policy) -> float | None:
    return now + policy.checkpoint_secs if policy.checkpoint_secs else None


def _unsaved(state: State, position: Position) -> bool:
    return position > (state.checkpoint or Position())


def _worth_waiting(state: State, waiting: Iterable[Worker], now: float, policy: Policy) -> bool:
    """Whether others will be ready soon, so that one reform serves them all."""
    return bool(preparing(state)) and now < _patience_ends(waiting, policy)


def _patience_ends(waiting: Iterable[Worker], policy: Policy) -> float:
    return min(worker.since for worker in waiting) + policy.gather_timeout
