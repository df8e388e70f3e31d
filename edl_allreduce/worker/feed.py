"""Feeds the step: one tf.data pipeline for the life of the process that follows the worker from round to round.

Building a pipeline traces the user's input function, which would cost every reform far more than the reform itself. So
there is one pipeline; its elements carry a tag that says for which reading they were made: a round, and in it the part
since the last bad record was found. What was read ahead for an earlier reading is thrown away.

A pipeline that has raised an error cannot be relied on to go on. So its next iterator begins where the failed one was,
with what was found to be bad left out by the reader. Only `Feed`'s caller changes what is left out, and with every
change a new reading begins: which records are in a step is known without asking the pipeline's threads.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import explain, user_code
from edl_allreduce.dataset import Dataset
from edl_allreduce.errors import CorruptFile, DataError, EdlError
from edl_allreduce.position import Array, Position, lane_starts, own_positions
from edl_allreduce.worker.bad_records import BadRecords, LeftOut, RecordPlace, Skip
from edl_allreduce.worker.elements import elements
from edl_allreduce.worker.parsing import parse_each, parser_of
from edl_allreduce.worker.reader import Share, StepReader, lane_mask

AHEAD = 4  # steps parsed ahead of the one in progress
SAMPLE_RECORDS = 8
WARM_UP = -1  # the "round" in which samples are read

not_converted = tf.autograph.experimental.do_not_convert  # what needs no AutoGraph begins 0.1 s earlier without

Batch = tuple[Any, Any]
Tag = tuple[int, int]


class Step(Protocol):
    """What tries records: `step.TrainStep`."""

    @property
    def graphs(self) -> tuple[Any, ...]: ...

    def alone(self, features: Any, labels: Any) -> Any: ...


@dataclass(frozen=True)
class Reading:
    """What the pipeline is to read; `tag` goes with each of its elements."""

    tag: Tag
    share: Share
    left_out: LeftOut


class Feed:
    """This worker's batches, one step after another.

    Args:
        training: says how records become features and labels.
        dataset, reader: where the records come from.
        model_zoo: the user's folder, to name their line in an error.
        on_bad_record: "fail", or "skip" to go on without records that fail and chunks that are damaged.
        on_skip: called once for every record or chunk that this worker leaves out, by the thread that uses the feed.
    """

    def __init__(
        self,
        training: TrainingModel,
        dataset: Dataset,
        reader: StepReader,
        model_zoo: str,
        on_bad_record: str = "fail",
        on_skip: Callable[[Skip], None] = lambda skip: None,
    ) -> None:
        self._training, self._dataset, self._reader, self._model_zoo = training, dataset, reader, model_zoo
        self._bad = BadRecords(dataset, on_bad_record, on_skip)
        self._share = Share(Position(), (), 1)
        self._mine = lane_mask(dataset, ())
        self._order, self._epoch = reader.order(0), 0
        self._tag = self._seen = (0, 0)  # of the reading in progress; of the newest element
        with tf.device("CPU:0"):
            self._wanted = tf.Variable(self._tag, trainable=False, dtype=tf.int64)  # of nothing else a step is parsed
        self._outdated = False  # records have been left out that may have been read ahead
        self._failure: tuple[Tag, Exception] | None = None  # why the reader has stopped
        self._readings: queue.SimpleQueue[Reading | None] = queue.SimpleQueue()
        with user_code(model_zoo, "making the input pipeline"):
            self._pipeline = self._make_pipeline()
            self._batches = elements(self._pipeline)

    @property
    def left_out(self) -> LeftOut:
        """The records that this worker passes over; `next` never gives them."""
        return self._bad.left_out

    def begin(self, number: int, share: Share) -> None:
        """Reads for round `number` from now on."""
        self._share, self._mine = share, lane_mask(self._dataset, share.lanes)
        self._bad.share = int(np.diff(lane_starts(self._dataset.records, self._dataset.lanes))[self._mine].sum())
        self._read_from(share.start, number)

    def next(self, at: Position, size: int) -> Batch | None:
        """The features and labels of this worker's records in the step at `at`; None: it has no record there.

        Raises:
            ModelError: the user's input function failed, or does not give one element per record.
            CorruptFile, StorageError: a chunk cannot be read.
        """
        count = self._count(at, size)
        self._bad.met += count
        if self._outdated:
            self._read_from(at, self._tag[0])
        while count:
            try:
                return self._take(at, count)
            except EdlError:
                raise
            except Exception as error:
                self._learn(at, size, error)
            self._start_over(at)
            count = self._count(at, size)
        return None

    def places(self, at: Position, size: int) -> list[RecordPlace]:
        """Where the records of `next(at, size)` are, row by row."""
        tasks, places = self._own(at, size)
        return [self._bad.place(task, place) for task, place in zip(tasks.tolist(), places.tolist(), strict=True)]

    def without_culprits(self, at: Position, size: int, batch: Batch, error: Exception, step: Step) -> Batch | None:
        """After the step has failed with the batch of `next(at, size)`: the rows of it that do not fail alone.

        The failed attempt must not have reached the other members, or the step would be done twice.

        Returns:
            The rest, to do the step with; None: nothing is left.

        Raises:
            ModelError: bad records are not skipped, or no row fails alone, or too many records have failed.
        """
        tasks, places = self._own(at, size)

        def error_of(row: int) -> str | None:
            try:
                step.alone(*_rows(batch, [row]))
            except Exception as found:
                return explain(found, self._model_zoo, step.graphs)
            return None

        failure = explain(error, self._model_zoo, step.graphs)
        good = self._bad.judge(tasks, places, error_of, failure, at.step + 1)
        self._outdated = True
        return _rows(batch, np.flatnonzero(good)) if good.any() else None

    def samples(self) -> Iterator[tuple[Position, int, Batch]]:
        """Small batches from the beginning of the data, with the step's position and size, to try the step with.

        Raises:
            DataError: there is none, or no other; and what `next` raises.
        """
        share = Share(Position(), tuple(range(min(SAMPLE_RECORDS, self._dataset.lanes))), SAMPLE_RECORDS)
        self.begin(WARM_UP, share)
        for at, size in self._reader.schedule.steps(share.start, share.batch):
            if at.epoch == 0 and (batch := self.next(at, size)) is not None:
                yield at, size, batch
        raise DataError(f"none of the {self._bad.share} records that were tried can be used: see the ones left out")

    def close(self) -> None:
        """Ends the pipeline's generator."""
        self._readings.put(None)

    def _take(self, at: Position, count: int) -> Batch:
        """The next element of the reading in progress. Raises whatever the pipeline does."""
        while True:
            tag, batch = next(self._batches)
            round, attempt, step = tag.numpy().tolist()
            self._seen = (round, attempt)
            if self._seen == self._tag:
                break
        got = tf.nest.flatten(batch)[0].shape[0]
        if step != at.step or got != count:
            raise DataError(
                f"the input function made {got if step == at.step else 'no'} elements of {count} records; "
                "it must give one element per record (no filter, no batch, no repeat)"
            )
        return batch  # type: ignore[no-any-return]

    def _learn(self, at: Position, size: int, error: Exception) -> None:
        """Leaves out what made the pipeline fail; nothing when it may have been read ahead for an earlier reading."""
        try:
            if isinstance(error, StopIteration):  # the reader has stopped
                if self._failure is not None and self._failure[0] == self._tag:
                    raise self._failure[1]
            elif self._seen == self._tag:
                self._find_culprits(at, size, error)
        except CorruptFile as damage:
            self._bad.damaged(damage)

    def _find_culprits(self, at: Position, size: int, error: Exception) -> None:
        tasks, places = self._own(at, size)
        records = self._reader.fetch(tasks, places, self._bad.left_out)
        parse, graphs = self._parse, self._training.graphs

        def error_of(row: int) -> str | None:
            try:
                parse(tf.constant([records[row]]))
            except Exception as found:
                return explain(found, self._model_zoo, graphs)
            return None

        failure = explain(error, self._model_zoo, graphs)
        self._bad.judge(tasks, places, error_of, failure, at.step + 1)

    @cached_property
    def _parse(self) -> Callable[[tf.Tensor], Any]:
        return parser_of(self._training)

    def _start_over(self, at: Position) -> None:
        """Reads from `at` on, by a new iterator."""
        self._readings.put(None)
        self._readings = queue.SimpleQueue()
        self._batches = elements(self._pipeline)
        self._read_from(at, self._tag[0])
        self._seen = self._tag

    def _read_from(self, at: Position, round: int) -> None:
        self._tag = (round, self._tag[1] + 1)
        self._outdated = False
        self._wanted.assign(self._tag)
        self._readings.put(Reading(self._tag, replace(self._share, start=at), self._bad.left_out))

    def _count(self, at: Position, size: int) -> int:
        if self._bad.left_out:
            return len(self._own(at, size)[0])
        return len(own_positions(at.offset, size, self._mine))

    def _own(self, at: Position, size: int) -> tuple[Array, Array]:
        """Task and place of each of this worker's records in the step at `at`."""
        if at.epoch != self._epoch:
            self._order, self._epoch = self._reader.order(at.epoch), at.epoch
        tasks, places = self._order.locate(own_positions(at.offset, size, self._mine))
        kept = self._bad.left_out.keeps(tasks, places)
        return tasks[kept], places[kept]

    def _make_pipeline(self) -> tf.data.Dataset:
        training = self._training
        numbers = tf.TensorSpec([None, 3], tf.int64), tf.TensorSpec([None], tf.int64)
        signature = (*numbers, tf.TensorSpec([None], tf.string))
        blocks = tf.data.Dataset.from_generator(self._blocks, output_signature=signature)
        steps = blocks.flat_map(_steps_of)

        @not_converted
        def parse(step: tf.Tensor, block: tuple[tf.Tensor, ...]) -> Any:
            tag, records = self._cut(step, *block)
            return tag, training.parse_batch(records)

        @not_converted
        def parse_one_by_one(step: tf.Tensor, block: tuple[tf.Tensor, ...]) -> tf.data.Dataset:
            tag, records = self._cut(step, *block)
            return parse_each(training, records).map(lambda *batch: (tag, batch if len(batch) > 1 else batch[0]))

        threads = _cores() + 2  # the generator may block one of them
        parsed = steps.map(parse, threads) if training.vectorised else steps.flat_map(parse_one_by_one)
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.autotune.enabled = False
        return parsed.prefetch(AHEAD).with_options(options)

    def _cut(
        self, step: tf.Tensor, tags: tf.Tensor, cuts: tf.Tensor, records: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """A step's tag and records; of a step that is not wanted any more one record, which is parsed in no time."""
        tag, begin = tags[step], cuts[step]
        wanted = tf.reduce_all(tag[:2] == self._wanted)
        return tag, records[begin : tf.where(wanted, cuts[step + 1], begin + 1)]

    def _blocks(self) -> Iterator[tuple[Array, Array, Sequence[bytes]]]:
        """Tags [steps, 3], where each step's records begin [steps + 1], and the records, of some steps at a time.

        Runs in a thread of tf.data's; that it runs seldom leaves Python's lock to the training. An error ends it:
        tf.data would make a string of it, out of order.
        """
        readings = self._readings
        while (reading := readings.get()) is not None:
            try:
                for block in self._reader.blocks(reading.share, reading.left_out):
                    steps = [(at.step, count) for at, count in zip(block.begins, block.counts, strict=True) if count]
                    if steps:
                        numbers, counts = zip(*steps, strict=True)
                        tags = np.array([(*reading.tag, number) for number in numbers], np.int64)
                        yield tags, np.cumsum((0, *counts)), block.records
                    if not readings.empty():
                        break  # a newer one has begun
            except Exception as error:
                self._failure = (reading.tag, error)
                return


@not_converted
def _steps_of(*block: tf.Tensor) -> tf.data.Dataset:
    """Each step of a block, as its number and the block: the only function called for a step is the one that parses."""
    steps = tf.data.Dataset.range(tf.shape(block[0], tf.int64)[0])
    return tf.data.Dataset.zip(steps, tf.data.Dataset.from_tensors(block).repeat())


def _cores() -> int:
    """This worker's share of the machine's, as its process was told at its start."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or os.cpu_count() or 1


def _rows(batch: Batch, rows: Any) -> Batch:
    return tf.nest.map_structure(lambda each: tf.gather(each, rows), batch)  # type: ignore[no-any-return]
