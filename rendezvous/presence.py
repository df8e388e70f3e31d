"""A worker as its open stream shows it, and what it tells of itself when it greets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_from_message
from edl_allreduce.position import Position
from rendezvous.events import Standing
from rendezvous.state import Round, WorkerState
from rendezvous.watchdog import Doing

EXPORTED = "exported"  # a standing of its own: the trained model is in the output


@dataclass
class Presence:
    """A worker's open stream.

    Attributes:
        outbox: what is still to be sent to it; None ends the stream.
        heard: when its last message came, in seconds of the coordinator's clock.
        doing: what its training thread does.
        position: how far its weights are, as last told.
        began: when the newest round began, which it may not know yet.
        memory_bytes: of its process, resident; 0: not known.
    """

    outbox: asyncio.Queue[pb.ToWorker | None]
    heard: float
    pid: int
    doing: Doing
    position: Position | None = None
    began: float = 0.0
    memory_bytes: int = 0


def standing_from_message(message: pb.Standing) -> Standing:
    """What a worker that had greeted an earlier coordinator tells of itself."""
    state = WorkerState.EXPORTING if message.state == EXPORTED else WorkerState(message.state)
    state = WorkerState.READY if state is WorkerState.WORKING else state  # its leases were another coordinator's
    return Standing(
        state=state,
        position=position_from_message(message.position) if message.HasField("position") else None,
        round=_round(message.round) if message.HasField("round") else None,
        failed=message.failed,
    )


def _round(message: pb.Round) -> Round:
    return Round(message.number, tuple(message.members), position_from_message(message.position), message.synchronize)
