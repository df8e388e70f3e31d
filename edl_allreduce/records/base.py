"""What every format of records is to the rest: a reader that finds chunks and reads them by their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edl_allreduce.recordio.format import ChunkRef

# What a chunk of a format that has none of its own holds: while training, many places of a dataset are open at once.
CHUNK_BYTES = 1 << 20


class Chunk(Protocol):
    """The records of one chunk, in memory."""

    def __len__(self) -> int: ...

    def take(self, indices: ArrayLike) -> list[bytes]:
        """The records at `indices` (from 0), in the order of `indices`. Raises IndexError."""


class ChunkReader(Protocol):
    """A file held open for several reads; a context manager. Threads may share it."""

    def columns(self) -> tuple[tuple[str, str], ...] | None:
        """Name and type (perhaps "") of each column; None when records have none. Raises CorruptFile, DataError."""

    def index(self) -> tuple[ChunkRef, ...]:
        """All chunks of the file. Raises CorruptFile, DataError, StorageError."""

    def read_chunk(self, ref: ChunkRef) -> Chunk:
        """The records of one chunk, verified as far as the format allows.

        Raises:
            CorruptFile: the chunk is damaged, or is not the one that `ref` describes; its offset is the chunk's.
            StorageError: the file cannot be read.
        """

    def close(self) -> None: ...

    def __enter__(self) -> ChunkReader: ...

    def __exit__(self, *exc: object) -> None: ...


class Cutter:
    """Cuts a row of records that are found one after the other into chunks of at most `CHUNK_BYTES`.

    A larger record gets a chunk of its own. What belongs to no record (blank lines) lies in the chunk around it.

    Args:
        begin: where in the file the first record begins.
    """

    def __init__(self, begin: int) -> None:
        self._begin = self._end = begin
        self._records = 0

    def add(self, ends: NDArray[np.int64], counted: NDArray[np.bool_] | None = None) -> Iterator[ChunkRef]:
        """The chunks that are complete now.

        Args:
            ends: where in the file the next records end; shape [n].
            counted: which of them are records; None: all.
        """
        totals = np.arange(len(ends) + 1) if counted is None else np.append(0, np.cumsum(counted))
        done = 0
        while done < len(ends):
            fits = int(np.searchsorted(ends, self._begin + CHUNK_BYTES, side="right"))
            if fits <= done and self._end > self._begin:
                yield from self.finish()
                continue
            fits = max(fits, done + 1)
            self._records += int(totals[fits] - totals[done])
            self._end, done = int(ends[fits - 1]), fits

    def finish(self) -> Iterator[ChunkRef]:
        """The chunk that is begun, if it has a record."""
        if self._records:
            yield ChunkRef(self._begin, self._end - self._begin, self._records)
        self._begin, self._records = self._end, 0
