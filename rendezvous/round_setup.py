"""Sets a round up: opens its store, deals the lanes, and says to each member what it must know to take part."""

from __future__ import annotations

from collections.abc import Mapping

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_to_message
from edl_allreduce.position import deal_lanes
from edl_allreduce.spec import TrainingSpec
from rendezvous.shares import rebalance
from rendezvous.state import Round
from rendezvous.store import RoundStore


class RoundSetup:
    """What the newest round runs on.

    Args:
        address: the IP address on which the rounds' stores listen.
        lanes: into how many the data are dealt.
        training: says how large a step is.

    Attributes:
        lanes: how many each member of the newest round has, by its id.
    """

    def __init__(self, address: str, lanes: int, training: TrainingSpec) -> None:
        self._address, self._all_lanes, self._training = address, lanes, training
        self._shares: dict[int, float] = {}
        self._store: RoundStore | None = None
        self.lanes: dict[int, int] = {}

    def begin(self, new: Round, seconds: Mapping[int, float]) -> dict[int, pb.ToWorker]:
        """What each member is told.

        Args:
            seconds: what the members' own part of a step has taken, where that is known.
        """
        self.close()
        if len(new.members) > 1:
            self._store = RoundStore(self._address)
        self._shares = rebalance(new.members, self._shares, seconds)
        hands = deal_lanes(self._all_lanes, [self._shares[id] for id in new.members])
        dealt = dict(zip(new.members, hands, strict=True))
        self.lanes = {id: len(own) for id, own in dealt.items()}
        shared = self._message(new)
        return {id: _with_lanes(shared, own) for id, own in dealt.items()}

    def adopt(self, member: int, lanes: int) -> None:
        """A member tells of a round that another coordinator has begun."""
        self.lanes[member] = lanes

    def close(self) -> None:
        """The round has failed, or another one follows: nobody joins it any more."""
        if self._store:
            self._store.close()
            self._store = None

    def _message(self, new: Round) -> pb.ToWorker:
        """What all members are told alike."""
        return pb.ToWorker(
            round=pb.Round(
                number=new.number,
                members=new.members,
                store_address=self._address,
                store_port=self._store.port if self._store else 0,
                synchronize=new.synchronize,
                position=position_to_message(new.position),
                global_batch=self._training.global_batch(len(new.members)),
            )
        )


def _with_lanes(shared: pb.ToWorker, lanes: tuple[int, ...]) -> pb.ToWorker:
    """A copy, made without another look at each of the members."""
    message = pb.ToWorker()
    message.CopyFrom(shared)
    message.round.lanes.extend(lanes)
    return message
