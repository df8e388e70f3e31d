"""A position as the protocol carries it."""

from __future__ import annotations

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.position import Position


def position_to_message(position: Position) -> pb.Position:
    """The message that `position_from_message` reads back."""
    return pb.Position(epoch=position.epoch, offset=position.offset, step=position.step)


def position_from_message(message: pb.Position) -> Position:
    """The position of a message."""
    return Position(step=message.step, epoch=message.epoch, offset=message.offset)
