"""A classifier of points in the plane, as a place to start: change all of it, but for the names with default_.

A model for `edl train` is a Keras model with what is needed to train it beside it. All parameters of `__init__` can be
set from the command line: --params="hidden_units=[64, 64], learning_rate=0.01".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

# What a record is: a tf.Example with these features. make_data.py writes them; so does `edl convert` from a CSV file,
# with one feature per column. Other names, other lengths than 2, texts (tf.string), whole numbers (tf.int64) go here.
FEATURES = {"point": tf.io.FixedLenFeature([2], tf.float32)}
LABEL = {"label": tf.io.FixedLenFeature([], tf.int64)}


class Classifier(keras.Model):
    """Hidden layers, and one logit per class.

    Args:
        hidden_units: width of each hidden layer.
        n_classes: number of classes.
        learning_rate: Adam's.
    """

    def __init__(self, hidden_units: Sequence[int] = (32, 32), n_classes: int = 3, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
        self.logits = keras.layers.Dense(n_classes)

    def call(self, points: Any) -> Any:
        """Logits [n, n_classes] of points [n, 2]; `call` gets what default_input gives as features."""
        for layer in self.hidden:
            points = layer(points)
        return self.logits(points)

    def default_loss(self) -> Any:
        """A Keras loss. A function of (labels, outputs) that gives one number per record works as well."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def default_optimizer(self) -> Any:
        """A Keras optimizer."""
        return keras.optimizers.Adam(self.learning_rate)

    def default_metrics(self) -> list[Any]:
        """What is told beside the loss; leave it out when the loss says it all."""
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    @staticmethod
    @vectorised  # gets a string tensor [n] of records; without this line it gets one record at a time, which is slower
    def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """(features, labels) of n records; for prediction the features alone, since nobody knows the labels then."""
        if mode == Mode.PREDICTION:
            return tf.io.parse_example(records, FEATURES)["point"]
        parsed = tf.io.parse_example(records, FEATURES | LABEL)
        return parsed["point"], parsed["label"]
