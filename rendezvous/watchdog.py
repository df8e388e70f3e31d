"""Finds who holds up a round: a heartbeat tells that a process lives, not that its training thread gets any further.

Every heartbeat says what the training thread is doing and for how long. A member that reads or computes for too long
while others wait for it hangs (an endless loop in the user's code, stuck I/O). When nobody works and all wait for each
other for too long, the network between some of them is broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edl_allreduce.control import control_pb2 as pb

SLACK = 5.0  # so many times longer than usual is too long
UNKNOWN_SECONDS = 60.0  # too long for what has not been seen before, or keeps nobody waiting
CALLBACK_SECONDS = 600.0  # a callback may write a whole model somewhere
SYNCHRONIZE_SECONDS = 30.0
JOIN_SECONDS_PER_MEMBER = 0.02

_WAITING = {
    pb.JOINING: "make the ring",
    pb.SYNCHRONIZING: "receive rank 0's state",
    pb.REDUCING: "reduce a step",
    pb.LEAVING_RING: "leave the ring",
}
_DOING = {
    pb.WAITING: "has not begun the round",
    pb.READING: "has been reading",
    pb.COMPUTING: "has been computing",
    pb.EVALUATING: "has been busy with one batch",
    pb.CALLING_BACK: "has been running callbacks",
}


# However long these usually take: their next time may be another matter.
_PATIENCE = {pb.EVALUATING: UNKNOWN_SECONDS, pb.CALLING_BACK: CALLBACK_SECONDS}


@dataclass(frozen=True)
class Doing:
    """What a member's training thread is doing.

    Attributes:
        seconds: for how long, as of its newest message: what has not arrived yet is another matter.
        usual: what its own part of a step takes, in seconds; 0: not known.
    """

    activity: pb.Activity.ValueType
    seconds: float = 0.0
    usual: float = 0.0


@dataclass(frozen=True)
class Hung:
    """This member holds up the others."""

    id: int
    why: str


@dataclass(frozen=True)
class Stuck:
    """All wait for each other."""

    why: str


def judge(
    members: Mapping[int, Doing], others_wait: bool, step_seconds: float, timeout: float, tries: int = 0
) -> Hung | Stuck | None:
    """What is wrong with a round, if anything.

    A slow network looks like a broken one. So whenever a round has been given up and the next one does not get further
    either, that one is given twice the time.

    Args:
        members: those still in it.
        others_wait: whether some have left it already and wait for the next.
        step_seconds: how long a step usually takes; 0: not known.
        timeout: the least that is too long.
        tries: how many rounds before this one have failed in a row without a step.
    """
    working = {id: doing for id, doing in members.items() if doing.activity not in _WAITING}
    if not working:
        return _stuck(members, step_seconds, timeout, tries) if members else None
    usual = max(doing.usual for doing in members.values())
    limit = max(timeout, SLACK * usual) if usual else max(timeout, UNKNOWN_SECONDS)
    if not others_wait and len(working) == len(members):
        limit = max(limit, UNKNOWN_SECONDS)
    id, worst = max(working.items(), key=lambda item: item[1].seconds)
    limit = max(limit, _PATIENCE.get(worst.activity, 0.0))
    return Hung(id, f"{_DOING[worst.activity]} for {worst.seconds:.1f} s") if worst.seconds > limit else None


def judge_alone(id: int, doing: Doing, timeout: float) -> Hung | None:
    """Whether a worker hangs over a leased task. Nobody waits for it, and a batch may be anything: it has time."""
    if doing.activity is not pb.EVALUATING:
        return None
    limit = max(timeout, UNKNOWN_SECONDS, SLACK * doing.usual)
    return Hung(id, f"{_DOING[doing.activity]} for {doing.seconds:.1f} s") if doing.seconds > limit else None


def _stuck(members: Mapping[int, Doing], step_seconds: float, timeout: float, tries: int) -> Stuck | None:
    behind = min(members.values(), key=lambda doing: _ORDER.index(doing.activity))
    limits = {
        pb.JOINING: timeout + JOIN_SECONDS_PER_MEMBER * len(members),
        pb.SYNCHRONIZING: max(timeout, SYNCHRONIZE_SECONDS),
    }
    usual = max(timeout, SLACK * step_seconds) if step_seconds else max(timeout, UNKNOWN_SECONDS)
    seconds = min(doing.seconds for doing in members.values())
    if seconds <= limits.get(behind.activity, usual) * 2**tries:
        return None
    return Stuck(f"no worker could {_WAITING[behind.activity]} for {seconds:.1f} s")


_ORDER = (pb.JOINING, pb.SYNCHRONIZING, pb.REDUCING, pb.LEAVING_RING)
