"""Feeds the step: one tf.data pipeline for the life of the process that follows the worker from round to round.

Building a pipeline traces the user's input function, which would cost every reform far more than the reform itself. So
there is one pipeline; its elements carry the number of the round they were read for, and what was read ahead for an
earlier round is thrown away.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import explain, user_code
from edl_allreduce.dataset import Dataset
from edl_allreduce.errors import DataError, EdlError, ModelError
from edl_allreduce.position import Position, own_positions
from edl_allreduce.worker.reader import Share, StepReader, lane_mask

AHEAD = 4  # steps parsed ahead of the one in progress

Batch = tuple[Any, Any]


class Feed:
    """This worker's batches, one step after another.

    Args:
        training: says how records become features and labels.
        dataset, reader: where the records come from.
        model_zoo: the user's folder, to name their line in an error.
    """

    def __init__(self, training: TrainingModel, dataset: Dataset, reader: StepReader, model_zoo: str) -> None:
        self._training, self._dataset, self._reader, self._model_zoo = training, dataset, reader, model_zoo
        self._shares: queue.SimpleQueue[tuple[int, Share] | None] = queue.SimpleQueue()
        self._error: EdlError | None = None
        self._mine = lane_mask(dataset, ())
        self._round = 0
        with user_code(model_zoo, "making the input pipeline"):
            self._batches = iter(self._pipeline(training))

    def begin(self, number: int, share: Share) -> None:
        """Reads for round `number` from now on."""
        self._round, self._mine = number, lane_mask(self._dataset, share.lanes)
        self._shares.put((number, share))

    def next(self, at: Position, size: int) -> Batch | None:
        """The features and labels of this worker's records in the step at `at`; None: it has no record there.

        Raises:
            ModelError: the user's input function failed, or does not give one element per record.
            CorruptFile, StorageError: a chunk cannot be read.
        """
        count = len(own_positions(at.offset, size, self._mine))
        if count == 0:
            return None
        while True:
            tag, batch = self._next()
            number, step = tag.numpy().tolist()
            if number == self._round:
                break
        got = tf.nest.flatten(batch)[0].shape[0]
        if step != at.step or got != count:
            raise DataError(
                f"the input function made {got if step == at.step else 'no'} elements of {count} records; "
                "it must give one element per record (no filter, no batch, no repeat)"
            )
        return batch

    def close(self) -> None:
        """Ends the pipeline's generator."""
        self._shares.put(None)

    def _next(self) -> tuple[tf.Tensor, Batch]:
        try:
            return next(self._batches)  # type: ignore[no-any-return]
        except Exception as error:
            if self._error is not None:
                raise self._error from None
            raise ModelError(explain(error, self._model_zoo, self._training.graphs)) from error

    def _pipeline(self, training: TrainingModel) -> tf.data.Dataset:
        signature = (tf.TensorSpec([2], tf.int64), tf.TensorSpec([None], tf.string))
        steps = tf.data.Dataset.from_generator(self._steps, output_signature=signature)
        if training.vectorised:
            parsed = steps.map(lambda tag, records: (tag, training.parse_batch(records)), num_parallel_calls=2)
        else:
            parsed = steps.flat_map(lambda tag, records: _parse_each(training, tag, records))
        options = tf.data.Options()
        options.threading.private_threadpool_size = 3  # the generator may block one of them
        options.autotune.enabled = False
        return parsed.prefetch(AHEAD).with_options(options)

    def _steps(self) -> Iterator[tuple[tuple[int, int], list[bytes]]]:
        while (work := self._shares.get()) is not None:
            number, share = work
            try:
                for at, records in self._reader.steps(share):
                    if records:
                        yield (number, at.step), records
                    if not self._shares.empty():
                        break  # a newer round has begun
            except EdlError as error:  # tf.data would turn it into a string
                self._error = error
                raise


def _parse_each(training: TrainingModel, tag: tf.Tensor, records: tf.Tensor) -> tf.data.Dataset:
    elements = training.parse(tf.data.Dataset.from_tensor_slices(records))
    batch = elements.batch(tf.shape(records, tf.int64)[0])
    return batch.map(lambda *batch: (tag, batch if len(batch) > 1 else batch[0]))
