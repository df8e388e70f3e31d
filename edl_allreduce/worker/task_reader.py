"""Reads leased tasks in the order of their files, parsed in batches, ahead of whoever uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import tensorflow as tf

from edl_allreduce import records
from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import explain
from edl_allreduce.dataset import Dataset
from edl_allreduce.errors import EdlError, ModelError
from edl_allreduce.worker.bad_records import place_of
from edl_allreduce.worker.parsing import parser_of

AHEAD = 2  # batches


@dataclass(frozen=True)
class TaskBatch:
    """Some records of a task.

    Attributes:
        task: which one.
        first: place of the first record in it.
        records: the serialized records.
        values: what the input function made of them.
    """

    task: int
    first: int
    records: Sequence[bytes]
    values: Any


class TaskReader:
    """Reads and parses in a thread of its own.

    Args:
        training: its input function, in the mode that is wanted.
        dataset: whose tasks are read.
        model_zoo: the user's folder, to name their line in an error.
        batch_size: records per batch; the last one of a task may be smaller.
    """

    def __init__(self, training: TrainingModel, dataset: Dataset, model_zoo: str, batch_size: int) -> None:
        self._dataset, self._zoo, self._batch_size = dataset, model_zoo, batch_size
        self._graphs = training.graphs
        self._parse = parser_of(training)
        self._thread = ThreadPoolExecutor(1, "tasks")

    def open(self, tasks: Sequence[int]) -> Iterator[TaskBatch]:
        """The batches of these tasks, one task after the other; reading begins at once.

        Raises:
            ModelError: the input function fails; names file and record.
            CorruptFile, StorageError: a chunk cannot be read.
        """
        batches = self._batches(tasks)
        ahead = deque(self._thread.submit(next, batches, None) for _ in range(AHEAD))

        def taken() -> Iterator[TaskBatch]:
            while (batch := ahead.popleft().result()) is not None:
                ahead.append(self._thread.submit(next, batches, None))
                yield batch

        return taken()

    def blame(
        self, batch: TaskBatch, error: Exception, try_one: Callable[[Any], Any], graphs: Sequence[Any]
    ) -> EdlError:
        """The error to raise when a batch has failed: the first record that fails alone, else the batch.

        Args:
            try_one: is given what the input function made of one record.
            graphs: as in `user_errors.explain`.
        """
        graphs = (*graphs, *self._graphs)

        def error_of(record: bytes) -> str | None:
            try:
                try_one(self._parse(tf.constant([record])))
            except Exception as found:
                return explain(found, self._zoo, graphs)
            return None

        for i, record in enumerate(batch.records):
            if found := error_of(record):
                return ModelError(f"{place_of(self._dataset, batch.task, batch.first + i)}: {found}")
        told = explain(error, self._zoo, graphs)
        where = place_of(self._dataset, batch.task, batch.first)
        return ModelError(f"{told} (none of the {len(batch.records)} records from {where} on fails alone)")

    def _batches(self, tasks: Sequence[int]) -> Iterator[TaskBatch]:
        for task in tasks:
            records_of, first = self._records(task), 0
            while some := list(islice(records_of, self._batch_size)):
                raw = TaskBatch(task, first, some, None)
                try:
                    values = self._parse(tf.constant(some))
                except Exception as error:
                    raise self.blame(raw, error, lambda values: None, ()) from error
                yield TaskBatch(task, first, some, values)
                first += len(some)

    def _records(self, number: int) -> Iterator[bytes]:
        task = self._dataset.tasks[number]
        with records.open_reader(self._dataset.files[task.file], self._dataset.data_format) as reader:
            for chunk in task.chunks:
                yield from reader.read_chunk(chunk).take(range(chunk.records))
