"""All that membership decisions rest on: a small frozen value that is replaced, never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
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
