"""Decides who trains together: membership and rounds as pure functions over a small state.

A *round* is a numbered set of members with ranks. Every fact (a worker is ready, has parted, is lost, …) is an event;
`decide(state, event, now)` returns the next state and what is to be done about it. Nothing here waits, sends or reads
a clock, so that every transition can be tested on its own.

    GATHERING ──round──▶ TRAINING ──failure, newcomer, leaver──▶ PARTING ──all parted or dropped──▶ GATHERING
        └──the furthest position is the end──▶ EXPORTING ──exported──▶ DONE          (from anywhere: FAILED, STOPPED)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from edl_allreduce.position import Position

FAILED_EXIT_CODE = 6  # JobFailed
STOPPED_EXIT_CODE = 130  # as a shell says it of an interrupted program


class Phase(str, Enum):
    """What the job as a whole is doing."""

    GATHERING = "gathering"
    TRAINING = "training"
    PARTING = "parting"
    EXPORTING = "exporting"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more."""
        return self in (Phase.DONE, Phase.FAILED, Phase.STOPPED)


class WorkerState(str, Enum):
    """What one worker is doing."""

    STARTING = "starting"  # its process has been started and has not said anything yet
    PREPARING = "preparing"  # building the model, tracing the step
    READY = "ready"  # waits for a round
    TRAINING = "training"  # in a round
    EXPORTING = "exporting"


@dataclass(frozen=True)
class Worker:
    """A worker as the coordinator knows it.

    Attributes:
        position: how far its weights are; None for a newcomer whose weights must come from another member.
        since: when it entered its state, in seconds of the coordinator's clock.
        leaving: it has been told to go, or has said that it goes.
    """

    id: int
    state: WorkerState
    since: float
    host: str = ""
    position: Position | None = None
    leaving: bool = False


@dataclass(frozen=True)
class Round:
    """A numbered set of members. Rank = place in `members`; rank 0 is the source of the weights.

    Attributes:
        cause: why it began, for people.
        synchronize: whether rank 0's state is broadcast first.
        position: where it starts.
    """

    number: int
    members: tuple[int, ...]
    cause: str
    synchronize: bool
    position: Position


@dataclass(frozen=True)
class Policy:
    """The limits within which the job decides; seconds and counts.

    Attributes:
        finished: whether a position is the end of the job.
        max_early_deaths: so many workers in a row that die before they are ready end the job.
        max_barren_rounds: so many rounds in a row that fail without a step and without a lost worker end the job.
    """

    finished: Callable[[Position], bool]
    min_workers: int = 1
    gather_timeout: float = 5.0
    part_timeout: float = 30.0
    max_early_deaths: int = 3
    max_barren_rounds: int = 3


@dataclass(frozen=True)
class State:
    """All that membership decisions rest on.

    Attributes:
        target: how many workers should be alive.
        next_id: of the next worker; ids are never used again.
        round: the newest round, in progress or not.
        round_failed: it cannot go on: a member was lost, or a reduction failed.
        cause: why the next round will begin.
        deadline: when members that have not parted are dropped; None while parting is not enforced.
        early_deaths: workers lost in a row before they were ready.
        barren_rounds: rounds in a row that failed without a step and without a lost worker.
        verdict, exit_code: how the job ended.
    """

    target: int
    phase: Phase = Phase.GATHERING
    workers: dict[int, Worker] = dataclasses.field(default_factory=dict)
    round: Round | None = None
    next_id: int = 0
    round_failed: bool = False
    cause: str = "start"
    deadline: float | None = None
    early_deaths: int = 0
    barren_rounds: int = 0
    verdict: str = ""
    exit_code: int = 0


# Events: what has happened.
@dataclass(frozen=True)
class Greeted:
    """A worker has opened its stream."""

    id: int
    host: str


@dataclass(frozen=True)
class Ready:
    """A worker could train now."""

    id: int


@dataclass(frozen=True)
class Parted:
    """A worker has left its round with its weights at `position`."""

    id: int
    round: int
    position: Position
    error: str | None = None  # None: all members agreed to part after this step


@dataclass(frozen=True)
class Leaving:
    """A worker has been told to go by somebody else."""

    id: int


@dataclass(frozen=True)
class Lost:
    """A worker's stream or process has ended, or it has been silent for too long."""

    id: int
    why: str


@dataclass(frozen=True)
class Broke:
    """The user's code or data failed on a worker, and would fail again."""

    id: int
    error: str
    exit_code: int


@dataclass(frozen=True)
class Exported:
    """A worker has written the trained model."""

    id: int


@dataclass(frozen=True)
class Scaled:
    """Somebody wants another number of workers."""

    target: int


@dataclass(frozen=True)
class Stopped:
    """Somebody wants the job to end."""

    why: str


@dataclass(frozen=True)
class Tick:
    """Nothing but time has passed."""


Event = Greeted | Ready | Parted | Leaving | Lost | Broke | Exported | Scaled | Stopped | Tick


# Effects: what is to be done.
@dataclass(frozen=True)
class StartWorker:
    """Start a worker process (or pod) with this id."""

    id: int


@dataclass(frozen=True)
class BeginRound:
    """Open the round's store and tell every member."""

    round: Round


@dataclass(frozen=True)
class AskToPart:
    """Ask these members to part after their next step."""

    round: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class AbandonRound:
    """Tell these members that the round has failed."""

    round: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class AskToLeave:
    """Tell a worker to finish its step and end."""

    id: int


@dataclass(frozen=True)
class AskToExport:
    """Tell a worker to write the trained model."""

    id: int


@dataclass(frozen=True)
class Drop:
    """End a worker by force."""

    id: int
    why: str


@dataclass(frozen=True)
class EndJob:
    """Stop every worker; the job is over."""


Effect = StartWorker | BeginRound | AskToPart | AbandonRound | AskToLeave | AskToExport | Drop | EndJob


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
