"""Holds a long series in bounded memory, and draws from it as few points as a chart can show.

A row stands for one step, or for several that were merged: sums are added up, minima and maxima kept, all else is of
the last one. So a thinned series, and the points of a chart, say exactly what the rows they are made of said together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FIRST_ROWS = 1 << 10
CAPACITY = 1 << 18


class Merge(Enum):
    """What becomes of a column when rows are merged."""

    LAST = "last"
    SUM = "sum"
    LOW = "low"
    HIGH = "high"


class Table:
    """Rows of float64; when there are too many, the older half is thinned.

    Args:
        columns: names, in order, and how each is merged; the first grows from row to row.
        capacity: rows that are kept at most.
    """

    def __init__(self, columns: Mapping[str, Merge], capacity: int = CAPACITY) -> None:
        self.columns = tuple(columns)
        self._merges = {
            merge: [index for index, name in enumerate(columns) if columns[name] is merge] for merge in Merge
        }
        self._capacity = capacity
        self._rows: Array = np.empty((min(FIRST_ROWS, capacity), len(columns)))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def append(self, row: Sequence[float]) -> None:
        """Adds a row."""
        if self._used == len(self._rows):
            self._make_room()
        self._rows[self._used] = row
        self._used += 1

    def column(self, name: str) -> Array:
        """A column's values; valid until the next change."""
        return self._rows[: self._used, self.columns.index(name)]

    def drop_from(self, name: str, value: float) -> None:
        """Forgets all rows from the first on in which a growing column has reached this value."""
        self._used = int(np.searchsorted(self.column(name), value))

    def points(self, name: str, low: float, high: float, most: int) -> tuple[dict[str, Array], float]:
        """Rows whose growing column `name` is in [low, high], merged to at most `most` or so.

        Returns:
            The columns; and how wide, in the column's unit, the buckets are that were merged (0: none was). Buckets are
            powers of two, at multiples of their width, so that they stay where they are while the series grows.
        """
        keys = self.column(name)
        begin, end = int(np.searchsorted(keys, low)), int(np.searchsorted(keys, high, side="right"))
        rows, keys = self._rows[begin:end], keys[begin:end]
        width = 0.0
        if len(rows) > most and keys[-1] > keys[0]:
            width = 2.0 ** math.ceil(math.log2((keys[-1] - keys[0]) / most))
            buckets = np.floor(keys / width)
            rows = self._merged(rows, np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1)))
        return {each: rows[:, index].copy() for index, each in enumerate(self.columns)}, width

    def _make_room(self) -> None:
        if 2 * self._used <= self._capacity:
            grown = np.empty((2 * self._used, len(self.columns)))
            grown[: self._used] = self._rows
            self._rows = grown
            return
        half = self._used // 2
        thinned = self._merged(self._rows[:half], np.arange(0, half, 2))
        rest = self._used - half
        self._rows[: len(thinned)] = thinned
        self._rows[len(thinned) : len(thinned) + rest] = self._rows[half : self._used].copy()
        self._used = len(thinned) + rest

    def _merged(self, rows: Array, starts: npt.NDArray[np.intp]) -> Array:
        """One row for each run of rows that begins at one of `starts`."""
        merged = np.empty((len(starts), rows.shape[1]))
        last = np.append(starts[1:], len(rows)) - 1
        for merge, columns in self._merges.items():
            if columns:
                some, reduce = rows[:, columns], _REDUCE.get(merge)
                merged[:, columns] = reduce.reduceat(some, starts, axis=0) if reduce else some[last]
        return merged


_REDUCE = {Merge.SUM: np.add, Merge.LOW: np.fmin, Merge.HIGH: np.fmax}
