"""What can happen to a job, and what can be done about it: the words in which `rounds` is told and answers."""

from __future__ import annotations

from dataclasses import dataclass

from edl_allreduce.position import Position
from rendezvous.state import Round


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
