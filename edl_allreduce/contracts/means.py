"""Metrics that are means over all examples, however these are split into batches and over workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts.losses import OutputLoss, per_example


class MeanOverExamples(keras.metrics.Mean):
    """A function of (labels, outputs) as a metric: its mean over all examples.

    Unlike Keras's `MeanMetricWrapper`, a function that gives one value for a whole batch counts as often as the batch
    has examples, so that batches of different sizes, and those of different workers, are averaged rightly.

    Args:
        function: of keyword arguments `labels`, `outputs`; gives a scalar, or one value per example, of any type.
        name: in logs.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__(name=name)
        self._function = function

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch; weights are one number per example."""
        values = per_example(tf.cast(self._function(labels=y_true, outputs=y_pred), self.dtype))
        if values.shape.rank == 0:
            values = tf.fill([tf.shape(tf.nest.flatten(y_pred)[0])[0]], values)
        super().update_state(values, sample_weight)


class LossOfOutput(keras.metrics.Mean):
    """The loss of one of several outputs, as `fit` tells it beside the whole; weights count as they do in the loss.

    Args:
        loss: what it is.
        name: in logs.
    """

    def __init__(self, loss: OutputLoss, name: str) -> None:
        super().__init__(name=name)
        self._loss = loss.term.function

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch; the mean is over the examples, not over the sum of their weights."""
        values = self._loss(y_true, y_pred, sample_weight)
        examples = tf.cast(tf.shape(y_pred)[0], self.dtype)
        self.total.assign_add(tf.cast(tf.reduce_mean(values), self.dtype) * examples)
        self.count.assign_add(examples)
