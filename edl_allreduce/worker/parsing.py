"""Turns records into batches outside of the training pipeline: for tasks, and to find a record that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from edl_allreduce.contracts.base import TrainingModel


def parser_of(training: TrainingModel) -> Callable[[tf.Tensor], Any]:
    """The input function of either kind as a function of n serialized records, a string tensor [n]."""
    if training.vectorised:
        return training.parse_batch
    parse = tf.function(lambda records: parse_each(training, records).get_single_element(), autograph=False)
    return parse.get_concrete_function(tf.TensorSpec([None], tf.string))  # type: ignore[no-any-return]


def parse_each(training: TrainingModel, records: tf.Tensor) -> tf.data.Dataset:
    """One element: what an input function of one record makes of n records, a string tensor [n]."""
    elements = training.parse(tf.data.Dataset.from_tensor_slices(records))
    return elements.batch(tf.shape(records, tf.int64)[0])
