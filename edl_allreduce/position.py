"""Position arithmetic: which records a step consumes follows from the position alone, never from who is alive.

An epoch's R records stand in a shuffled order (see `order`). That order is cut into V equal contiguous *lanes* (lengths
differ by at most one); position g means: offset g // V in lane g % V. A step with global batch B consumes the positions
[offset, offset + B) of its epoch, fewer at the epoch's end. The workers of a round split the lanes between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Position:
    """Where a run stands: `step` steps are applied; the next one begins at `offset` in epoch `epoch`.

    At an offset of all of the epoch's records, its steps are done and what follows from its end is not: evaluation and
    callbacks. So a position says which member is the furthest in that, too. One more, and training ends here: the rest
    of the epoch is not trained.
    """

    step: int = 0
    epoch: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Schedule:
    """How long a run is.

    Attributes:
        records: R, records in one epoch.
        epochs: how often every record is used.
    """

    records: int
    epochs: int

    def size(self, at: Position, batch: int) -> int:
        """How many records the step at `at` consumes over all workers: `batch`, or what is left of the epoch."""
        return min(batch, self.records - at.offset)

    def after(self, at: Position, batch: int) -> Position:
        """The position after the step at `at`."""
        end = at.offset + self.size(at, batch)
        if end < self.records:
            return Position(at.step + 1, at.epoch, end)
        return Position(at.step + 1, at.epoch + 1, 0)

    def finished(self, at: Position) -> bool:
        """Whether nothing is left to train at `at`."""
        return at.epoch >= self.epochs

    def at_end(self, at: Position) -> bool:
        """Whether an epoch's steps are done, and its end is not."""
        return at.offset >= self.records

    def end(self, after: Position) -> Position:
        """The end of the epoch whose last step leads to `after`."""
        return Position(after.step, after.epoch - 1, self.records)

    def stopped(self, at: Position) -> Position:
        """Where training ends that is stopped before the step at `at`."""
        return Position(at.step, at.epoch, self.records + 1)

    def closed(self, at: Position, stop: bool = False) -> Position:
        """After the end of an epoch at `at`; `stop`: training ends with it, as it does where it was stopped."""
        stop = stop or at.offset > self.records
        return Position(at.step, self.epochs if stop else at.epoch + 1, 0)

    def steps(self, start: Position, batch: int) -> Iterator[tuple[Position, int]]:
        """Every step from `start` on: where it begins, and how many records it consumes."""
        at = self.closed(start) if self.at_end(start) else start
        while not self.finished(at):
            yield at, self.size(at, batch)
            at = self.after(at, batch)

    def total_steps(self, batch: int) -> int:
        """Steps of a whole run with a fixed global batch."""
        return self.epochs * -(-self.records // batch)

    def steps_left(self, at: Position, batch: int) -> int:
        """Steps from `at` to the end with this global batch."""
        if self.finished(at):
            return 0
        return -(-(self.records - at.offset) // batch) + (self.epochs - at.epoch - 1) * -(-self.records // batch)


def lane_starts(records: int, lanes: int) -> Array:
    """Where each lane begins in the epoch's order; shape [lanes + 1], the last entry is `records`."""
    index = np.arange(lanes + 1, dtype=np.int64)
    return index * (records // lanes) + np.minimum(index, records % lanes)


def deal_lanes(lanes: int, shares: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Deals lanes 0 … lanes - 1 to members in proportion to `shares` (for instance measured speeds).

    Every member's lanes are spread evenly over the range, so that also a step smaller than the number of lanes is
    split between all of them. With equal shares, member i holds lanes i, i + n, i + 2n, …
    """
    hands: list[list[int]] = [[] for _ in shares]
    fair, held = np.array(shares, np.float64) / sum(shares), np.zeros(len(shares))
    for lane in range(lanes):
        # The member that is furthest behind its fair share of the lanes dealt so far takes the next one.
        owed = int((fair * (lane + 1) - held).argmax())
        hands[owed].append(lane)
        held[owed] += 1
    return tuple(map(tuple, hands))


def own_positions(start: int, size: int, mine: npt.NDArray[np.bool_]) -> Array:
    """The positions in [start, start + size) whose lane is marked in `mine` (shape [lanes])."""
    positions = np.arange(start, start + size, dtype=np.int64)
    return positions[mine[positions % len(mine)]]
