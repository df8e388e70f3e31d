"""What can happen to a job, and what can be done about it: the words in which `rounds` is told and answers."""

from __future__ import annotations

from dataclasses import dataclass

from edl_allreduce.position import Position
from rendezvous.state import Kind, Round, WorkerState


@dataclass(frozen=True)
class Standing:
    """What a worker that had greeted an earlier coordinator tells of itself.

    Attributes:
        position: how far its weights are; None: they are not the job's.
        round: the newest round it was told of.
        failed: it has parted from that round because the round had failed.
    """

    state: WorkerState
    position: Position | None = None
    round: Round | None = None
    failed: bool = False


# Events: what has happened.
@dataclass(frozen=True)
class Waiting:
    """A worker cannot be started yet."""

    id: int
    why: str


@dataclass(frozen=True)
class Started:
    """A worker that had to wait has been started."""

    id: int


@dataclass(frozen=True)
class Greeted:
    """A worker has opened its stream; `standing` is None for a new process."""

    id: int
    host: str
    address: str = ""
    standing: Standing | None = None


@dataclass(frozen=True)
class Ready:
    """A worker could train now."""

    id: int


@dataclass(frozen=True)
class Parted:
    """A worker has left its round with its weights at `position`; None: it never got the job's weights."""

    id: int
    round: int
    position: Position | None
    error: str | None = None  # None: all members agreed to part after this step
    unreachable: tuple[str, ...] = ()  # addresses of members from which no answer has come
    refused: bool = False  # a member has refused a connection


@dataclass(frozen=True)
class Leaving:
    """A worker has been told to go by somebody else."""

    id: int


@dataclass(frozen=True)
class Lost:
    """A worker's stream or process has ended, or it has been silent, or has held up the others, for too long.

    Attributes:
        position: the newest that it told.
        excused: its end says nothing about the job: it was sent away before it could say so itself, or its pod was
            deleted, evicted, preempted, or lost with its node.
    """

    id: int
    why: str
    kind: Kind = Kind.LOST
    position: Position | None = None
    excused: bool = False


@dataclass(frozen=True)
class Explained:
    """It is now known how a lost worker's process ended."""

    id: int
    why: str
    excused: bool = False


@dataclass(frozen=True)
class Stalled:
    """No member of a round gets any further."""

    round: int
    why: str


@dataclass(frozen=True)
class Restored:
    """A worker has taken the weights of the newest checkpoint; or there is none, then `position` is None."""

    id: int
    position: Position | None


@dataclass(frozen=True)
class Checkpointed:
    """A worker has written a checkpoint; or could not, then `position` is None."""

    id: int
    position: Position | None


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
class Leased:
    """A worker has tasks to do, of a job that consists of them; `Ready` follows when it has none any more."""

    id: int


@dataclass(frozen=True)
class WorkDone:
    """All tasks of the job are done, and what follows from them is written."""


@dataclass(frozen=True)
class Scaled:
    """Somebody wants another number of workers."""

    target: int


@dataclass(frozen=True)
class CheckpointWanted:
    """Somebody wants a checkpoint after the step in progress."""


@dataclass(frozen=True)
class Stopped:
    """Somebody wants the job to end; `save`: with a checkpoint from which it can go on."""

    why: str
    save: bool = True


@dataclass(frozen=True)
class Tick:
    """Nothing but time has passed."""


Event = (
    Waiting
    | Started
    | Greeted
    | Ready
    | Parted
    | Leaving
    | Lost
    | Explained
    | Stalled
    | Restored
    | Checkpointed
    | Broke
    | Exported
    | Leased
    | WorkDone
    | Scaled
    | CheckpointWanted
    | Stopped
    | Tick
)


# Effects: what is to be done.
@dataclass(frozen=True)
class StartWorker:
    """Start a worker process (or pod) with this id."""

    id: int


@dataclass(frozen=True)
class Cancel:
    """Do not start a worker after all; the state has forgotten it already."""

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
    """Tell a worker to finish its step, part, and wait until it is dismissed."""

    id: int


@dataclass(frozen=True)
class Dismiss:
    """Tell a worker that it is not needed any more."""

    id: int


@dataclass(frozen=True)
class AskToRestore:
    """Tell a worker to take the weights of the newest checkpoint: its writer may have died before it could tell."""

    id: int


@dataclass(frozen=True)
class AskToCheckpoint:
    """Tell a worker to write a checkpoint of its weights."""

    id: int


@dataclass(frozen=True)
class AskToExport:
    """Tell a worker to write the trained model."""

    id: int


@dataclass(frozen=True)
class Drop:
    """End a worker by force; the state has forgotten it already."""

    id: int
    why: str


@dataclass(frozen=True)
class EndJob:
    """Stop every worker; the job is over."""


Effect = (
    StartWorker
    | Cancel
    | BeginRound
    | AskToPart
    | AbandonRound
    | AskToLeave
    | Dismiss
    | AskToRestore
    | AskToCheckpoint
    | AskToExport
    | Drop
    | EndJob
)
