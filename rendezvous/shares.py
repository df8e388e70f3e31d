"""How much of a step each member takes on: a slower machine gets fewer lanes, so that all are done at the same time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

DEAD_BAND = 1.25  # differences below this ratio are noise
DAMPING = 0.5
BOUNDS = (0.1, 4.0)


def rebalance(members: Sequence[int], shares: Mapping[int, float], seconds: Mapping[int, float]) -> dict[int, float]:
    """New shares of the members, from what their own part of a step took with the old ones.

    The share moves by the square root of what would even the times out, since a step also has costs that do not depend
    on the number of records; a few reforms bring it there without overshooting.

    Args:
        shares: what each member had; 1 is an equal share, and a newcomer's.
        seconds: of each member's own work in a step; 0 or missing: not known.
    """
    current = {id: shares.get(id, 1.0) for id in members}
    known = {id: seconds[id] for id in members if seconds.get(id)}
    if len(known) < 2 or max(known.values()) < DEAD_BAND * min(known.values()):
        return current
    typical = statistics.median(known.values())
    low, high = BOUNDS
    for id, took in known.items():
        current[id] = min(high, max(low, current[id] * (typical / took) ** DAMPING))
    return current
