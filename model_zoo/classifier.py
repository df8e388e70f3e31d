"""A deep neural network for tables of numbers, as SQLFlow's `TRAIN classifier.DNN`; try it on `model_zoo.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import vectorised


class DNN(keras.Model):
    """Hidden layers with ReLU; gives one logit per class.

    Args:
        hidden_units: width of each hidden layer.
        n_classes: number of classes.
        n_features: length of a record's `features`.
        learning_rate: Adam's.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (32, 16),
        n_classes: int = 3,
        n_features: int = 4,
        learning_rate: float = 0.01,
    ) -> None:
        super().__init__(name="dnn")
        self.n_features, self.learning_rate = n_features, learning_rate
        self.hidden = [keras.layers.Dense(units, activation="relu") for units in hidden_units]
        self.logits = keras.layers.Dense(n_classes)

    def call(self, features: Any) -> Any:
        """Logits [n, n_classes] of features [n, n_features]."""
        for layer in self.hidden:
            features = layer(features)
        return self.logits(features)

    def default_loss(self) -> Any:
        """Cross entropy of the logits."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def default_optimizer(self) -> Any:
        """Adam."""
        return keras.optimizers.Adam(self.learning_rate)

    @vectorised
    def default_input(self, records: Any) -> tuple[Any, Any]:
        """Features [n, n_features] and labels [n] of n tf.Examples."""
        example = {
            "features": tf.io.FixedLenFeature([self.n_features], tf.float32),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }
        parsed = tf.io.parse_example(records, example)
        return parsed["features"], parsed["label"]
