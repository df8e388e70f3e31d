"""Where a worker is in its job, as the heartbeat and a new coordinator's greeting tell it, at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_to_message
from edl_allreduce.position import Position
from edl_allreduce.worker.untold import Activity

USUAL_WEIGHT = 0.1  # of the newest step in the usual time of one


@dataclass(frozen=True)
class _Place:
    """All of it; replaced as a whole, so that other threads may read it.

    Attributes:
        state: as in WorkerStatus (control.proto), or "exported".
        position: how far the worker's weights are; None: they are not the job's.
        round: the newest one it has begun.
        failed: it has parted from that round because the round had failed.
        activity: what the training thread does.
        since: when that began, monotonic seconds.
        began: the same in seconds since 1970.
        usual: what its own part of a step usually takes, seconds; 0: not known.
    """

    state: str = "preparing"
    position: Position | None = None
    round: pb.Round | None = None
    failed: bool = False
    activity: pb.Activity.ValueType = pb.WAITING
    since: float = 0.0
    began: float = 0.0
    usual: float = 0.0


class Whereabouts:
    """Changed by the training thread, read by others.

    Args:
        computed_at: when the worker's own part of a step was last done, in seconds since 1970.
    """

    def __init__(self, computed_at: Callable[[], float]) -> None:
        self._place, self._computed_at = _Place(), computed_at

    def becomes(self, state: str, position: Position | None, failed: bool = False) -> None:
        """It is in another state."""
        self._place = replace(self._place, state=state, position=position, failed=failed)

    def enters(self, round: pb.Round) -> None:
        """It has been told of a round; what another coordinator must know of that is kept."""
        known = pb.Round(
            number=round.number,
            members=round.members,
            position=round.position,
            synchronize=round.synchronize,
            lanes=round.lanes,
        )
        self._place = replace(self._place, round=known)

    def does(self, activity: pb.Activity.ValueType) -> None:
        """The training thread begins something else."""
        self._place = replace(self._place, activity=activity, since=time.monotonic(), began=time.time())

    def took(self, seconds: float, position: Position) -> None:
        """Its own part of a step took so long; `position` is still where it began."""
        usual = self._place.usual
        weight = USUAL_WEIGHT if usual else 1.0
        self._place = replace(self._place, usual=usual + weight * (seconds - usual), position=position)

    def standing(self) -> pb.Standing:
        """What a new coordinator is told."""
        place = self._place
        position = position_to_message(place.position) if place.position else None
        return pb.Standing(state=place.state, position=position, round=place.round, failed=place.failed)

    def activity(self) -> Activity:
        """What the training thread does: once its own part of a step is done, it waits for the others."""
        place = self._place
        if place.activity == pb.COMPUTING and (done := self._computed_at()) >= place.began:
            return Activity(pb.REDUCING, max(0.0, time.time() - done), place.usual)
        return Activity(place.activity, time.monotonic() - place.since, place.usual)
