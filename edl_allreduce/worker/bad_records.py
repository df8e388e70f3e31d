"""What follows from records that cannot be used: the job ends and says where they are, or goes on without them.

A record is bad when it makes the user's code fail *alone*, and the records of a chunk are when the chunk is damaged.
Both depend on the data and the code, never on who reads them: so every worker leaves out the same records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edl_allreduce.dataset import Dataset
from edl_allreduce.errors import CorruptFile, ModelError
from edl_allreduce.position import Array
from edl_allreduce.recordio import ChunkRef

log = logging.getLogger(__name__)

PATIENCE_RECORDS = 1000
FEW = 8  # bad records that prove nothing, however small the data
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RecordPlace:
    """Where a record is.

    Attributes:
        file: as the user named it.
        offset: of its chunk's header, in bytes.
        number: counted from 0 in the file.
    """

    file: str
    offset: int
    number: int

    def __str__(self) -> str:
        return f"{self.file}, record {self.number} (in the chunk at offset {self.offset})"


@dataclass(frozen=True)
class Skip:
    """Records that are left out from now on.

    Attributes:
        file, offset: the file, and where their chunk's header is, in bytes.
        first: number of the first one, counted from 0 in the file.
        records: how many: 1, or all of a damaged chunk.
        error: one line: why.
    """

    file: str
    offset: int
    first: int
    records: int
    error: str

    def __str__(self) -> str:
        if self.records == 1:
            return f"{RecordPlace(self.file, self.offset, self.first)}: {self.error}"
        last = self.first + self.records - 1
        return f"{self.file}, records {self.first} to {last} (the chunk at offset {self.offset}): {self.error}"


class LeftOut:
    """A set of records; immutable. False when empty.

    Args:
        masks: of each task that has some of them, which of its records they are.
    """

    def __init__(self, masks: Mapping[int, Mask] | None = None) -> None:
        self._masks = dict(masks or {})

    def __bool__(self) -> bool:
        return bool(self._masks)

    def __len__(self) -> int:
        return sum(int(mask.sum()) for mask in self._masks.values())

    def keeps(self, tasks: Array, places: Array) -> Mask:
        """Of the records at `places` in `tasks` (both of shape [n]), which are not left out; shape [n]."""
        kept = np.ones(len(tasks), dtype=np.bool_)
        if not self._masks:
            return kept
        for task in self._masks.keys() & set(tasks.tolist()):
            here = np.flatnonzero(tasks == task)
            kept[here] = ~self._masks[task][places[here]]
        return kept

    def covers(self, task: int, begin: int, end: int) -> bool:
        """Whether all records of `task` from place `begin` to `end` are left out."""
        return task in self._masks and bool(self._masks[task][begin:end].all())

    def plus(self, task: int, records: int, places: Array | slice) -> LeftOut:
        """This set and the records at `places` of `task`, which has `records` of them."""
        mask = self._masks[task].copy() if task in self._masks else np.zeros(records, dtype=np.bool_)
        mask[places] = True
        return LeftOut({**self._masks, task: mask})


class BadRecords:
    """What this worker knows of bad records, and what follows from finding one.

    With `skip` it is an error all the same when nothing can be blamed, and when more than half of all records that this
    worker has met are bad (not before it has met 1000, or its share of an epoch when that is smaller; 8 are always
    allowed): then the input function does not fit the data. Records of damaged chunks do not count for that.

    Args:
        dataset: what is read.
        on_bad_record: "fail" or "skip".
        on_skip: called once for every record or chunk that is left out.
    Attributes:
        left_out: all that is left out.
        met: records that have been on their way to the user's code.
        share: records that this worker is to read in an epoch.
    """

    def __init__(self, dataset: Dataset, on_bad_record: str, on_skip: Callable[[Skip], None]) -> None:
        self._dataset, self._skips, self._on_skip = dataset, on_bad_record == "skip", on_skip
        self.left_out = LeftOut()
        self.met = 0
        self.share = dataset.records
        self._bad = 0

    def place(self, task: int, place: int) -> RecordPlace:
        """Where the record at `place` of `task` is."""
        return place_of(self._dataset, task, place)

    def judge(
        self, tasks: Array, places: Array, error_of: Callable[[int], str | None], failure: str, step: int
    ) -> Mask:
        """After a batch has failed, tries its records one at a time and leaves out those that fail alone.

        Args:
            tasks, places: the batch's records, both of shape [n].
            error_of: tries the record in this row; what it fails with, in one line, or None.
            failure: what the batch failed with.
            step: counted from 1.

        Returns:
            Which rows are good; shape [n].

        Raises:
            ModelError: one has been found and bad records are not skipped; or none; or too many by now.
        """
        good = np.ones(len(tasks), dtype=np.bool_)
        skips: list[Skip] = []
        for row, (task, place) in enumerate(zip(tasks.tolist(), places.tolist(), strict=True)):
            error = error_of(row)
            if error is None:
                continue
            where = self.place(task, place)
            if not self._skips:
                raise ModelError(f"{where}: {error}")
            good[row] = False
            skips.append(Skip(where.file, where.offset, where.number, 1, error))
        if not skips:
            raise ModelError(f"{failure} (the batch of step {step}; none of its {len(tasks)} records fails alone)")
        for task in np.unique(tasks[~good]).tolist():
            self._leave_out(task, places[~good & (tasks == task)])
        self._report(skips)
        self._bad += len(skips)
        self._check_share(skips[-1])
        return good

    def damaged(self, error: CorruptFile) -> None:
        """Leaves out the records of a damaged chunk.

        Raises:
            CorruptFile: bad records are not skipped; says which records are in the chunk.
        """
        skips = []
        for task, place, chunk in self._chunks_at(error.path, error.offset):
            first = _first_number(self._dataset, task) + place
            if not self._skips:
                which = f"record {first}" if chunk.records == 1 else f"records {first} to {first + chunk.records - 1}"
                raise CorruptFile(error.path, error.offset, f"{error.problem} (it is the chunk of {which})") from error
            if not self.left_out.covers(task, place, place + chunk.records):
                self._leave_out(task, slice(place, place + chunk.records))
                skips.append(Skip(error.path, error.offset, first, chunk.records, error.problem))
        if not skips:
            raise error
        self._report(skips)

    def _leave_out(self, task: int, places: Array | slice) -> None:
        self.left_out = self.left_out.plus(task, self._dataset.tasks[task].records, places)

    def _report(self, skips: list[Skip]) -> None:
        for skip in skips:
            log.warning("left out: %s", skip)
            self._on_skip(skip)

    def _check_share(self, last: Skip) -> None:
        if 2 * self._bad > max(self.met, min(PATIENCE_RECORDS, self.share), 2 * FEW):
            raise ModelError(
                f"{self._bad} of the first {self.met} records that this worker read make the user's code fail: more "
                f"than half are not skipped, the code does not fit the data; the last one is {last}"
            )

    def _chunks_at(self, path: str, offset: int) -> Iterator[tuple[int, int, ChunkRef]]:
        """The chunk, its task and the place of its first record there; twice when a file is among the data twice."""
        for task, each in enumerate(self._dataset.tasks):
            if self._dataset.files[each.file] == path:
                for first, chunk in _chunks(self._dataset, task):
                    if chunk.offset == offset:
                        yield task, first, chunk


def place_of(dataset: Dataset, task: int, place: int) -> RecordPlace:
    """Where the record at `place` of `task` is."""
    chunk = next(chunk for first, chunk in _chunks(dataset, task) if place < first + chunk.records)
    return RecordPlace(dataset.files[dataset.tasks[task].file], chunk.offset, _first_number(dataset, task) + place)


def _first_number(dataset: Dataset, task: int) -> int:
    """How many records stand before `task` in its file; tasks are in file order."""
    file = dataset.tasks[task].file
    return sum(each.records for each in dataset.tasks[:task] if each.file == file)


def _chunks(dataset: Dataset, task: int) -> Iterator[tuple[int, ChunkRef]]:
    """A task's chunks, each with the place of its first record."""
    first = 0
    for chunk in dataset.tasks[task].chunks:
        yield first, chunk
        first += chunk.records
