"""The ranks that Horovod wants to know of every member: in the world, on its host, and across hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """One member's place.

    Attributes:
        rank, size: in the world.
        local_rank, local_size: among the members of its host.
        cross_rank, cross_size: among the members of other hosts with the same local rank.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int


def rank_members(hosts: Sequence[str]) -> tuple[Ranks, ...]:
    """The places of members that run on `hosts`, in rank order."""
    local = [hosts[:rank].count(host) for rank, host in enumerate(hosts)]
    ranks = []
    for rank, host in enumerate(hosts):
        peers = [each for each, place in enumerate(local) if place == local[rank]]
        ranks.append(Ranks(rank, len(hosts), local[rank], hosts.count(host), peers.index(rank), len(peers)))
    return tuple(ranks)
