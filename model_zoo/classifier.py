"""A deep neural network for classes from tables, as SQLFlow's `TRAIN classifier.DNN`; try it on the wine table.

    python -m model_zoo.tables make data
    edl train --model_zoo=model_zoo --model_def=classifier.DNN --params="n_features=13, n_classes=3" \\
        --data='data/wine/train/*.recordio' --output=out/wine --num_epochs=50 --batch_size=32
    edl evaluate --trained_model=out/wine --data='data/wine/test/*.recordio'

Tables of any columns: `--input_fn=sqlflow.elasticdl_input_function` (`sqlflow.py` beside this file).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised


class DNN(keras.Model):
    """Hidden layers with GELU; gives one logit per class.

    Smooth, so that runs with different numbers of workers can be laid over each other (see `digits.Classifier`), and
    that no narrow layer dies.

    Args:
        hidden_units: width of each hidden layer.
        n_classes: number of classes.
        n_features: length of a record's `features`, for `default_input`.
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
        self.hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
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

    def default_metrics(self) -> list[Any]:
        """The share of records told right."""
        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    @vectorised
    def default_input(self, records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """Features [n, n_features] and labels [n] of n tf.Examples; for prediction the features alone."""
        example = {"features": tf.io.FixedLenFeature([self.n_features], tf.float32)}
        if mode == Mode.PREDICTION:
            return tf.io.parse_example(records, example)["features"]
        parsed = tf.io.parse_example(records, example | {"label": tf.io.FixedLenFeature([], tf.int64)})
        return parsed["features"], parsed["label"]
