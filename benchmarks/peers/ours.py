"""The digits model for edl_allreduce, whose optimizer notes when each step was applied; nothing else is different."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.peers.stamp import Stamper
from model_zoo.digits import Classifier


class Stamped(Classifier):
    """The digits model.

    Args:
        stamps: folder in which every step's end is noted, by every worker; empty: nothing is noted.
        learning_rate: Adam's.
    """

    def __init__(self, stamps: str = "", learning_rate: float = 0.006) -> None:
        super().__init__(learning_rate=learning_rate)
        self.stamps = stamps

    def default_optimizer(self) -> Any:
        """Adam as in the digits model."""
        if not self.stamps:
            return super().default_optimizer()
        return StampingAdam(Stamper(self.stamps), self.learning_rate)


class StampingAdam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras is untyped
    """Adam that tells a stamper of each step as soon as it is applied."""

    def __init__(self, stamper: Stamper, learning_rate: float) -> None:
        super().__init__(learning_rate, epsilon=1e-4)
        self._stamper = stamper

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """One step."""
        result = super().apply(grads, trainable_variables)
        tf.numpy_function(self._stamp, [self.iterations.value], tf.bool)
        return result

    def _stamp(self, step: Any) -> Any:
        self._stamper(int(step))
        return np.True_
