"""All that membership decisions rest on: a small frozen value that is replaced, never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import chain
from operator import attrgetter

from edl_allreduce.position import Position

NOWHERE = Position()
_id = attrgetter("id")
FAILED_EXIT_CODE = 6  # JobFailed
STOPPED_EXIT_CODE = 130  # as a shell says it of an interrupted program


class Phase(str, Enum):
    """What the job as a whole is doing."""

    RECOVERING = "recovering"  # this coordinator is not the first: it waits for the workers' greetings
    GATHERING = "gathering"
    TRAINING = "training"
    PARTING = "parting"
    EXPORTING = "exporting"
    WORKING = "working"  # on leased tasks: an evaluation or a prediction
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more."""
        return self in (Phase.DONE, Phase.FAILED, Phase.STOPPED)


class WorkerState(str, Enum):
    """What one worker is doing."""

    PENDING = "pending"  # the cluster has no room for it, or no image, or refuses it; that takes as long as it takes
    STARTING = "starting"  # its process has been started and has not said anything yet
    UNHEARD = "unheard"  # an earlier coordinator's: alive, but it has not greeted this one yet
    PREPARING = "preparing"  # building the model, tracing the step
    READY = "ready"  # waits for a round
    TRAINING = "training"  # in a round
    RESTORING = "restoring"  # reading a checkpoint
    SAVING = "saving"  # writing a checkpoint while nobody trains: it is the last one with these weights
    EXPORTING = "exporting"
    WORKING = "working"  # holds leases of a job that consists of tasks


class Kind(str, Enum):
    """Why a round began, for statistics."""

    START = "start"
    JOINED = "joined"
    LEFT = "left"
    LOST = "lost"
    HUNG = "hung"
    NETWORK = "network"
    RESTART = "restart"
    EVALUATION = "evaluation"  # no round: evaluations and callbacks take time as well
    OTHER = "other"


@dataclass(frozen=True)
class Cause:
    """Why the next round will begin.

    Attributes:
        text: for people.
        worker: whose doing it is, if it is one worker's.
    """

    kind: Kind
    text: str
    worker: int | None = None


@dataclass(frozen=True)
class Worker:
    """A worker as the coordinator knows it.

    Attributes:
        position: how far its weights are; None for a newcomer whose weights must come from another member.
        since: when it entered its state, in seconds of the coordinator's clock.
        address: where other workers reach it.
        leaving: it has been told to go, or has said that it goes.
        waits_for: why it is pending.
    """

    id: int
    state: WorkerState
    since: float
    host: str = ""
    address: str = ""
    position: Position | None = None
    leaving: bool = False
    waits_for: str = ""


@dataclass(frozen=True)
class Round:
    """A numbered set of members. Rank = place in `members`; rank 0 is the source of the weights.

    Attributes:
        cause: why it began.
        synchronize: whether rank 0's state is broadcast first.
        position: where it starts.
    """

    number: int
    members: tuple[int, ...]
    position: Position
    synchronize: bool = False
    cause: Cause = Cause(Kind.OTHER, "")


@dataclass(frozen=True)
class Policy:
    """The limits within which the job decides; seconds and counts.

    Attributes:
        finished: whether a position is the end of the job.
        busy_timeout: how long a worker may start, prepare, read or write weights.
        recover_timeout: how long workers of an earlier coordinator may take to greet this one.
        stop_timeout: how long a stopped job may take to save what it has.
        checkpoint_secs: between two checkpoints; 0: not by time.
        leased: whether the job consists of leased tasks; there are no rounds then.
        saves: whether a job that stops, and a last worker that leaves, write a checkpoint.
        max_early_deaths: so many workers in a row that die before they are ready end the job.
        max_barren_rounds: so many rounds in a row that fail without a step and without a lost worker end the job.
        max_losses_in_place: so many training workers lost in a row while the job gets no further end it.
    """

    finished: Callable[[Position], bool]
    min_workers: int = 1
    gather_timeout: float = 5.0
    part_timeout: float = 10.0
    busy_timeout: float = 600.0
    recover_timeout: float = 10.0
    stop_timeout: float = 15.0
    checkpoint_secs: float = 0.0
    leased: bool = False
    saves: bool = False
    max_early_deaths: int = 5
    max_barren_rounds: int = 5
    max_losses_in_place: int = 10


@dataclass(frozen=True)
class State:
    """All that membership decisions rest on.

    Attributes:
        target: how many workers should be alive.
        workers: by id, in this order.
        next_id: of the next worker; ids are never used again.
        next_round: number of the next round; numbers are never used again.
        round: the newest round, in progress or not.
        round_failed: it cannot go on: a member was lost, or a reduction failed.
        cause: why the next round will begin.
        deadline: when members that have not parted are dropped, or a stopping job ends; None while there is none.
        checkpoint: how far the newest complete checkpoint is.
        checkpoint_due: when the next one is wanted.
        searched: a worker has looked for a checkpoint since the newest round began.
        furthest: how far any worker's weights have ever been.
        unreachable: pairs of workers between which no answer comes, as told about the round that has failed.
        refused: who has told that a member refused a connection in the round that has failed.
        early_deaths: workers lost in a row before they were ready.
        barren_rounds: rounds in a row that failed without a step and without a lost worker.
        losses_in_place: training workers lost in a row since the job last got further than `lost_at`.
        verdict, exit_code: how the job ended.
    """

    target: int
    phase: Phase = Phase.GATHERING
    workers: dict[int, Worker] = dataclasses.field(default_factory=dict)
    round: Round | None = None
    next_id: int = 0
    next_round: int = 1
    round_failed: bool = False
    cause: Cause | None = Cause(Kind.START, "start")
    deadline: float | None = None
    checkpoint: Position | None = None
    checkpoint_due: float | None = None
    searched: bool = False
    furthest: Position = NOWHERE
    unreachable: frozenset[tuple[int, int]] = frozenset()
    refused: frozenset[int] = frozenset()
    early_deaths: int = 0
    barren_rounds: int = 0
    losses_in_place: int = 0
    lost_at: Position = NOWHERE
    verdict: str = ""
    exit_code: int = 0

    @cached_property
    def by_state(self) -> dict[WorkerState, list[Worker]]:
        """The workers that are doing each thing, by id; made once, since one decision asks for it many times."""
        groups: dict[WorkerState, list[Worker]] = {}
        for worker in self.workers.values():
            groups.setdefault(worker.state, []).append(worker)
        return groups


def recovered(
    target: int, checkpoint: Position | None, alive: Iterable[int], next_id: int, next_round: int, now: float
) -> State:
    """The state of a coordinator that takes over: all it knows of the workers is that they are alive."""
    workers = {id: Worker(id, WorkerState.UNHEARD, now) for id in sorted(alive)}
    return State(
        target=target,
        phase=Phase.RECOVERING,
        workers=workers,
        next_id=next_id,
        next_round=next_round,
        cause=None,
        checkpoint=checkpoint,
    )


def put(state: State, worker: Worker) -> State:
    """The state with this worker in it."""
    return dataclasses.replace(state, workers=state.workers | {worker.id: worker})


def without(state: State, *ids: int) -> State:
    """The state without these workers."""
    return dataclasses.replace(state, workers={id: each for id, each in state.workers.items() if id not in ids})


def failed(state: State, verdict: str, exit_code: int = FAILED_EXIT_CODE) -> State:
    """The state of a job that has failed."""
    return dataclasses.replace(state, phase=Phase.FAILED, verdict=verdict, exit_code=exit_code)


def in_state(state: State, *wanted: WorkerState) -> list[Worker]:
    """The workers that are doing one of these things, by id."""
    groups = [group for each in wanted if (group := state.by_state.get(each))]
    return list(groups[0]) if len(groups) == 1 else sorted(chain.from_iterable(groups), key=_id)


def ready(state: State) -> list[Worker]:
    """The workers that the next round may count in."""
    return [worker for worker in in_state(state, WorkerState.READY) if not worker.leaving]


def preparing(state: State) -> list[Worker]:
    """The workers that may be ready soon; of a pending one nobody knows when, so nobody waits for it for long."""
    waiting = in_state(state, WorkerState.PENDING, WorkerState.STARTING, WorkerState.UNHEARD, WorkerState.PREPARING)
    return [worker for worker in waiting if not worker.leaving]


def members(state: State) -> tuple[int, ...]:
    """Members of the current round that are still in it."""
    return tuple(worker.id for worker in in_state(state, WorkerState.TRAINING))
