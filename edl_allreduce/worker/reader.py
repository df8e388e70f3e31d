"""Reads the records of this worker's lanes, step by step, from a position on; every chunk is decompressed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from edl_allreduce import recordio
from edl_allreduce.dataset import INFLATION, Dataset, Task
from edl_allreduce.order import EpochOrder
from edl_allreduce.position import Array, Position, Schedule, own_positions

BLOCK_RECORDS = 4096  # positions located at a time; amortises the arithmetic of small steps
BLOCK_BYTES = 16 << 20


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


def lane_mask(dataset: Dataset, lanes: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which lanes are in `lanes`; shape [V]."""
    mask = np.zeros(dataset.lanes, dtype=np.bool_)
    mask[list(lanes)] = True
    return mask


class StepReader:
    """Turns shares into records; tasks that are still open are kept from one share to the next.

    Args:
        dataset, seed, shuffle: what determines the order.
        epochs: how often every record is used.
    """

    def __init__(self, dataset: Dataset, seed: int, shuffle: bool, epochs: int) -> None:
        self._dataset, self._seed, self._shuffle = dataset, seed, shuffle
        self.schedule = Schedule(dataset.records, epochs)
        self._order = EpochOrder(dataset, seed, 0, shuffle)
        self._epoch = 0
        self._open: dict[int, list[recordio.Records]] = {}
        self._keep = 0

    def steps(self, share: Share) -> Iterator[tuple[Position, list[bytes]]]:
        """Each step of the share to the end of the job: where it begins, and this worker's records in it.

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
                records = iter(self._read(epoch, np.concatenate([owned[i] for i in chosen])))
                for i in chosen:
                    yield block[i][0], list(islice(records, len(owned[i])))

    def _most_steps(self, batch: int) -> int:
        stored = sum(task.size for task in self._dataset.tasks) / self._dataset.records
        records = min(BLOCK_RECORDS, BLOCK_BYTES / (stored * INFLATION))
        return max(1, int(records / batch))

    def _order_of(self, epoch: int) -> EpochOrder:
        if epoch != self._epoch:
            self._order, self._epoch = EpochOrder(self._dataset, self._seed, epoch, self._shuffle), epoch
        return self._order

    def _read(self, epoch: int, positions: Array) -> Sequence[bytes]:
        """The records at `positions` (ascending), in that order."""
        tasks, places = self._order_of(epoch).locate(positions)
        found = np.empty(len(positions), dtype=object)
        needed = np.unique(tasks)
        for task in needed:
            here = np.flatnonzero(tasks == task)
            found[here] = self._take(int(task), places[here])
        self._close(set(needed.tolist()))
        return found  # type: ignore[return-value]

    def _take(self, number: int, places: Array) -> list[bytes]:
        task = self._dataset.tasks[number]
        if number not in self._open:
            self._open[number] = self._read_task(task)
        starts = np.cumsum([0, *(chunk.records for chunk in task.chunks)])
        chunk_of = np.searchsorted(starts, places, side="right") - 1
        taken = np.empty(len(places), dtype=object)
        for chunk in np.unique(chunk_of):
            here = np.flatnonzero(chunk_of == chunk)
            taken[here] = self._open[number][chunk].take(places[here] - starts[chunk])
        return taken  # type: ignore[return-value]

    def _read_task(self, task: Task) -> list[recordio.Records]:
        with recordio.open_reader(self._dataset.files[task.file]) as reader:
            return [reader.read_chunk(chunk) for chunk in task.chunks]

    def _close(self, needed: set[int]) -> None:
        """Forgets the tasks least recently needed, beyond what the lanes can have open at once."""
        for number in needed:
            self._open[number] = self._open.pop(number)  # to the end: most recently needed
        for number in list(self._open)[: max(0, len(self._open) - self._keep)]:
            if number not in needed:
                del self._open[number]
