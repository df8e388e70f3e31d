"""The data of a job as tasks: runs of whole chunks with their byte offsets, so that no worker scans a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edl_allreduce.recordio import ChunkRef
from edl_allreduce.records.formats import AUTO

LANES = 64
LANES_PER_WORKER = 8  # so that the lanes split evenly enough
TASK_BYTES = 8 << 20
OPEN_BYTES = 1 << 30
INFLATION = 3  # how much larger records usually are than their compressed chunk; the header does not say


@dataclass(frozen=True)
class Task:
    """A run of whole chunks of one file."""

    file: int
    chunks: tuple[ChunkRef, ...]

    @property
    def records(self) -> int:
        """Number of records."""
        return sum(chunk.records for chunk in self.chunks)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return sum(chunk.size for chunk in self.chunks)


@dataclass(frozen=True)
class Dataset:
    """All records of a job: the same value in the coordinator and in every worker.

    Attributes:
        files: paths or URLs.
        tasks: in file order; every record is in exactly one.
        lanes: V, see `position`.
        data_format: what `records.open_reader` needs beside a file's name.
    """

    files: tuple[str, ...]
    tasks: tuple[Task, ...]
    lanes: int
    data_format: str = AUTO

    @cached_property
    def task_records(self) -> npt.NDArray[np.int64]:
        """Records of each task, shape [tasks]."""
        return np.array([task.records for task in self.tasks], dtype=np.int64)

    @cached_property
    def records(self) -> int:
        """R, the number of records in one epoch."""
        return int(self.task_records.sum())

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the files' names, chunks or the cut into tasks and lanes change."""
        digest = hashlib.sha256(repr((self.files, self.lanes)).encode())
        for task in self.tasks:
            digest.update(repr((task.file, [(c.offset, c.size, c.records) for c in task.chunks])).encode())
        return digest.hexdigest()


def make_dataset(
    files: Sequence[str],
    indexes: Sequence[Sequence[ChunkRef]],
    records_per_task: int,
    lanes: int = 0,
    num_workers: int = 1,
    data_format: str = AUTO,
) -> Dataset:
    """Cuts indexed files into tasks of at most `records_per_task` records (and 8 MiB) where the chunks allow.

    Args:
        lanes: V; 0 chooses 64 (8 per worker with more than 8 workers), fewer when a worker's open tasks would need
            more than 1 GiB.
        data_format: of the files, as they have been indexed.
    """
    tasks = tuple(task for file, index in enumerate(indexes) for task in _cut(file, index, records_per_task))
    largest = max((task.size for task in tasks), default=1)
    affordable = num_workers * OPEN_BYTES // (largest * INFLATION)
    wanted = max(LANES, LANES_PER_WORKER * num_workers)
    return Dataset(tuple(files), tasks, lanes or max(num_workers, min(wanted, affordable)), data_format)


def _cut(file: int, index: Sequence[ChunkRef], records_per_task: int) -> list[Task]:
    tasks: list[Task] = []
    run: list[ChunkRef] = []
    for chunk in index:
        if chunk.records == 0:
            continue
        full = run and (
            sum(c.records for c in run) + chunk.records > records_per_task
            or sum(c.size for c in run) + chunk.size > TASK_BYTES
            or run[-1].offset + run[-1].size != chunk.offset
        )
        if full:
            tasks.append(Task(file, tuple(run)))
            run = []
        run.append(chunk)
    if run:
        tasks.append(Task(file, tuple(run)))
    return tasks
