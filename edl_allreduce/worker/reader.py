"""Reads the records of this worker's lanes, step by step, from a position on; every chunk is decompressed once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from edl_allreduce.dataset import INFLATION, Dataset
from edl_allreduce.order import EpochOrder
from edl_allreduce.position import Array, Position, Schedule, own_positions
from edl_allreduce.recordio import Records
from edl_allreduce.records import open_reader
from edl_allreduce.records.base import Chunk
from edl_allreduce.worker.bad_records import LeftOut

BLOCK_RECORDS = 4096  # positions located at a time; amortises the arithmetic of small steps
BLOCK_BYTES = 48 << 20  # of records; what handing a block over costs (0.7 ms) is then little even with large records
NOTHING = LeftOut()
_NOWHERE = np.zeros(0, np.int64)
NO_RECORDS = Records(b"", _NOWHERE, _NOWHERE)  # stands for a chunk whose records are all left out


@dataclass(frozen=True)
class Share:
    """A worker's part of a round's data.

    Attributes:
        start: where the round begins.
        lanes: the lanes this worker reads.
        batch: B, records per step over all workers.
    """

    start: Position
    lanes: tuple[int, ...]
    batch: int


@dataclass(frozen=True)
class Block:
    """Some steps that follow each other.

    Attributes:
        begins: where each of them begins.
        counts: how many records this worker has in each.
        records: those of all the steps, one after the other.
    """

    begins: Sequence[Position]
    counts: Sequence[int]
    records: Sequence[bytes]


def lane_mask(dataset: Dataset, lanes: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which lanes are in `lanes`; shape [V]."""
    mask = np.zeros(dataset.lanes, dtype=np.bool_)
    mask[list(lanes)] = True
    return mask


class StepReader:
    """Turns shares into records; tasks that are still open are kept from one share to the next.

    Threads may share it: a pipeline that is being given up may still read while the next one does.

    Args:
        dataset, seed, shuffle: what determines the order.
        epochs: how often every record is used.
    """

    def __init__(self, dataset: Dataset, seed: int, shuffle: bool, epochs: int) -> None:
        self._dataset, self._seed, self._shuffle = dataset, seed, shuffle
        self.schedule = Schedule(dataset.records, epochs)
        self._order = EpochOrder(dataset, seed, 0, shuffle)
        self._epoch = 0
        self._open: dict[int, list[Chunk]] = {}
        self._keep = 0
        self._lock = threading.Lock()

    def order(self, epoch: int) -> EpochOrder:
        """Where the records of an epoch are found."""
        return EpochOrder(self._dataset, self._seed, epoch, self._shuffle)

    def blocks(self, share: Share, left_out: LeftOut = NOTHING) -> Iterator[Block]:
        """All steps of the share to the end of the job, as many at a time as are read together.

        Args:
            left_out: records that are passed over; chunks that have no other are not read.

        Raises:
            CorruptFile, StorageError: a chunk cannot be read.
        """
        mine = lane_mask(self._dataset, share.lanes)
        self._keep = 2 * len(share.lanes)
        every = self.schedule.steps(share.start, share.batch)
        length = 1  # steps in a block: one at first, so that the round can begin, then more
        while block := list(islice(every, length)):
            length = min(2 * length, self._most_steps(share.batch))
            owned = [own_positions(at.offset, size, mine) for at, size in block]
            for epoch in dict.fromkeys(at.epoch for at, _ in block):
                chosen = [i for i, (at, _) in enumerate(block) if at.epoch == epoch]
                tasks, places = self._locate(epoch, np.concatenate([owned[i] for i in chosen]))
                kept = left_out.keeps(tasks, places)
                kept_of = np.split(kept, np.cumsum([len(owned[i]) for i in chosen])[:-1])
                yield Block(
                    begins=[block[i][0] for i in chosen],
                    counts=[int(mask.sum()) for mask in kept_of],
                    records=self.fetch(tasks[kept], places[kept], left_out),
                )

    def _most_steps(self, batch: int) -> int:
        stored = sum(task.size for task in self._dataset.tasks) / self._dataset.records
        records = min(BLOCK_RECORDS, BLOCK_BYTES / (stored * INFLATION))
        return max(1, int(records / batch))

    def _locate(self, epoch: int, positions: Array) -> tuple[Array, Array]:
        with self._lock:
            if epoch != self._epoch:
                self._order, self._epoch = self.order(epoch), epoch
            return self._order.locate(positions)

    def fetch(self, tasks: Array, places: Array, left_out: LeftOut = NOTHING) -> Sequence[bytes]:
        """The records at `places` in `tasks` (both of shape [n], none of them left out), in that order.

        Raises:
            CorruptFile, StorageError: a chunk cannot be read.
        """
        found = np.empty(len(tasks), dtype=object)
        needed = np.unique(tasks)
        with self._lock:
            for task in needed:
                here = np.flatnonzero(tasks == task)
                found[here] = self._take(int(task), places[here], left_out)
            self._close(set(needed.tolist()))
        return found  # type: ignore[return-value]

    def _take(self, number: int, places: Array, left_out: LeftOut) -> list[bytes]:
        task = self._dataset.tasks[number]
        if number not in self._open:
            self._open[number] = self._read_task(number, left_out)
        starts = np.cumsum([0, *(chunk.records for chunk in task.chunks)])
        chunk_of = np.searchsorted(starts, places, side="right") - 1
        taken = np.empty(len(places), dtype=object)
        for chunk in np.unique(chunk_of):
            here = np.flatnonzero(chunk_of == chunk)
            taken[here] = self._open[number][chunk].take(places[here] - starts[chunk])
        return taken  # type: ignore[return-value]

    def _read_task(self, number: int, left_out: LeftOut) -> list[Chunk]:
        task = self._dataset.tasks[number]
        chunks: list[Chunk] = []
        end = 0
        with open_reader(self._dataset.files[task.file], self._dataset.data_format) as reader:
            for chunk in task.chunks:
                begin, end = end, end + chunk.records
                chunks.append(NO_RECORDS if left_out.covers(number, begin, end) else reader.read_chunk(chunk))
        return chunks

    def _close(self, needed: set[int]) -> None:
        """Forgets the tasks least recently needed, beyond what the lanes can have open at once."""
        for number in needed:
            self._open[number] = self._open.pop(number)  # to the end: most recently needed
        for number in list(self._open)[: max(0, len(self._open) - self._keep)]:
            if number not in needed:
                del self._open[number]
