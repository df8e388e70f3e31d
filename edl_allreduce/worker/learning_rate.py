"""The learning rate of each step: the optimizer's own, for more workers scaled, at the beginning warmed up.

Both follow Goyal et al. 2017, "Accurate, Large Minibatch SGD". The optimizer's own rate stays what the model's author,
a schedule or a callback has set: what is multiplied is only the rate that the optimizer applies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.spec import TrainingSpec


class LearningRate:
    """The learning rate of one optimizer.

    Args:
        optimizer: with a number, a schedule or a function as its rate.
        spec: whether and how the rate is multiplied.
    """

    def __init__(self, optimizer: Any, spec: TrainingSpec) -> None:
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._scaled, self._warmup_steps = spec.scale_learning_rate, spec.warmup_steps

    def set(self, rate: tf.Tensor) -> None:
        """From now on the optimizer's own rate is `rate`, where that is greater than 0; to be traced.

        Schedules are left alone.
        """
        variable = self._optimizer.learning_rate
        if isinstance(variable, keras.Variable):
            variable.assign(tf.where(rate > 0, tf.cast(rate, variable.dtype), variable.value))

    def of_step(self, workers: Callable[[], Any]) -> tf.Tensor:
        """The rate with which the next step is applied, eagerly or traced.

        Args:
            workers: tells how many take part.
        """
        rate = tf.convert_to_tensor(self._optimizer.learning_rate)
        if self._scaled:
            rate *= tf.cast(workers(), rate.dtype)
        if self._warmup_steps:
            done = tf.cast(tf.convert_to_tensor(self._optimizer.iterations), rate.dtype)
            rate *= tf.minimum((done + 1) / self._warmup_steps, 1.0)
        return rate

    @contextlib.contextmanager
    def applied(self, workers: Callable[[], Any]) -> Iterator[None]:
        """While the optimizer's application is traced, it takes `of_step` for its rate."""
        if not (self._scaled or self._warmup_steps):
            yield
            return
        own, rate = self._optimizer._learning_rate, self.of_step(workers)
        self._optimizer._learning_rate = lambda: rate  # by the property, Keras would forget the variable
        try:
            yield
        finally:
            self._optimizer._learning_rate = own
