"""Wine, written as a `TrainSpec`: a class whose properties are the model and its parts.

    python -m model_zoo.tables make data
    edl train --model_zoo=model_zoo --model_def=train_spec_wine.Wine --data='data/wine/train/*.recordio' \\
        --output=out/wine-spec --num_epochs=50 --batch_size=32
    edl evaluate --trained_model=out/wine-spec --data='data/wine/test/*.recordio'

Each property must be the same object whenever it is asked for, so `__init__` makes them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, TrainSpec


class Wine(TrainSpec):
    """Thirteen features of a wine to one logit for each of three growers.

    Args:
        hidden_units: width of the hidden layer.
        learning_rate: Adam's.
    """

    def __init__(self, hidden_units: int = 16, learning_rate: float = 0.01) -> None:
        features = keras.Input([13], name="features")
        hidden = keras.layers.Dense(hidden_units, activation="gelu")(features)
        self._model = keras.Model(features, keras.layers.Dense(3, name="logits")(hidden), name="wine")
        self._optimizer = keras.optimizers.Adam(learning_rate, epsilon=1e-4)
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._metrics = {"accuracy": keras.metrics.SparseCategoricalAccuracy(name="accuracy")}

    @property
    def model(self) -> Any:
        """A functional model."""
        return self._model

    @property
    def optimizer(self) -> Any:
        """Adam."""
        return self._optimizer

    @property
    def loss(self) -> Any:
        """Cross entropy of the logits."""
        return self._loss

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The share of wines told right."""
        return self._metrics

    @property
    def dataset(self) -> Any:
        """The function that reads records."""
        return read


def read(dataset: Any, mode: Mode) -> Any:
    """(Features [13], grower) of each record; for prediction the features alone."""

    def parse(record: Any) -> Any:
        example = {"features": tf.io.FixedLenFeature([13], tf.float32)}
        if mode == Mode.PREDICTION:
            return tf.io.parse_single_example(record, example)["features"]
        parsed = tf.io.parse_single_example(record, example | {"label": tf.io.FixedLenFeature([], tf.int64)})
        return parsed["features"], parsed["label"]

    return dataset.map(parse)
