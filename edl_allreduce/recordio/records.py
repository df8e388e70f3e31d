"""The records of one chunk in memory: one buffer and where each record lies in it, no object per record until asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Buffer: TypeAlias = bytes | memoryview

_BLOCK = 256  # records made at a time while iterating


class Records(Sequence[bytes]):
    """The records of one chunk, in the order they were written.

    Args:
        buffer: the bytes.
        begins, ends: int64 [number of records]: where in `buffer` each record lies.
    """

    __slots__ = ("_begins", "_buffer", "_ends", "_view")

    def __init__(self, buffer: Buffer, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self._buffer, self._begins, self._ends = buffer, begins, ends
        self._view = memoryview(buffer)

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the records keep occupied."""
        return len(self._buffer) + self._begins.nbytes + self._ends.nbytes

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        number = range(len(self))[index]
        return self._view[int(self._begins[number]) : int(self._ends[number])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return self.since(0)

    def since(self, start: int) -> Iterator[bytes]:
        """The records from number `start` on."""
        for first in range(start, len(self), _BLOCK):
            yield from self.take(np.arange(first, min(first + _BLOCK, len(self))))

    def take(self, indices: ArrayLike) -> list[bytes]:
        """The records at `indices` (from 0), in the order of `indices`. Raises IndexError."""
        chosen: NDArray[Any] = np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"record numbers from 0 to {len(self) - 1} exist, got {chosen.min()} to {chosen.max()}")
        begins, ends = self._begins[chosen].tolist(), self._ends[chosen].tolist()
        if isinstance(self._buffer, bytes):
            data = self._buffer
            return [data[begin:end] for begin, end in zip(begins, ends, strict=True)]
        view = self._view
        return [view[begin:end].tobytes() for begin, end in zip(begins, ends, strict=True)]
