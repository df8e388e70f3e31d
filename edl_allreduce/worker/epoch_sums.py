"""What `fit` shows while it trains: the mean loss and the metrics of the epoch so far, as state that all members share.

All of it is one vector of sums, [loss · records, records, states of the metrics…], so that a step adds to it with one
operation, and newcomers and checkpoints get it as one more variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edl_allreduce.contracts.base import Metric
from edl_allreduce.worker.metrics import contribution, initial_state, plain, value_of


class EpochSums:
    """The sums over an epoch.

    Args:
        metrics: those to follow; their states must add up (`metrics.adds_up`).

    Attributes:
        variable: the sums, float64 [2 + numbers in the metrics' states]; made when `add` is traced.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = tuple(metrics)
        self._results: Any = None  # traced when it is needed
        self.variable: keras.Variable = None

    def changes(self, labels: Any, outputs: Any, weights: Any) -> tf.Tensor:
        """By how much a batch changes the metrics' states: one vector, float32."""
        changes = [contribution(metric, labels, outputs, weights) for metric in self._metrics]
        flat = [tf.cast(tf.reshape(each, [-1]), tf.float32) for change in changes for each in change]
        return tf.concat(flat, axis=0) if flat else tf.zeros([0])

    def add(self, loss: tf.Tensor, records: tf.Tensor, changes: tf.Tensor) -> None:
        """Counts a step of all members; to be traced.

        Args:
            loss: the step's, as `fit` has it.
            records: their number.
            changes: the sum of what `changes` gave each member.
        """
        if self.variable is None:
            with tf.init_scope():
                zeros = np.zeros(2 + changes.shape[0])
                self.variable = keras.Variable(
                    zeros, dtype="float64", trainable=False, autocast=False, name="epoch_sums"
                )
        self.variable.assign_add(tf.cast(tf.concat([[loss * records, records], changes], axis=0), tf.float64))

    def reset(self) -> None:
        """An epoch begins."""
        self.variable.assign(np.zeros(self.variable.shape))

    def results(self) -> dict[str, Any]:
        """The mean loss and the metrics by name, as `fit` logs them."""
        if self._results is None:
            self._results = tf.function(self._values, autograph=False).get_concrete_function()
        named: dict[str, Any] = {}
        for name, value in self._results().items():
            given = plain(value)
            named |= given if isinstance(given, dict) else {name: given}
        return named

    def _values(self) -> dict[str, Any]:
        sums = tf.convert_to_tensor(self.variable.value)
        values = {"loss": tf.math.divide_no_nan(sums[0], sums[1])}
        at = 2
        for metric in self._metrics:
            state = []
            for start in initial_state(metric.metric):
                state.append(tf.reshape(sums[at : at + start.size], start.shape))
                at += start.size
            values[metric.name] = value_of(metric, state)
        return values
