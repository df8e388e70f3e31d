"""A deep neural network for classes from tables, as SQLFlow's `TRAIN classifier.DNN`; try it on the wine table.

    python -m model_zoo.tables make data
    edl train --model_zoo=model_zoo --model_def=classifier.DNN --params="n_features=13, n_classes=3" \\
        --data='data/wine/train/*.recordio' --output=out/wine --num_epochs=50 --batch_size=32
    edl evaluate --trained_model=out/wine --data='data/wine/test/*.recordio'

Tables of any columns: `edl sql`, or `--input_fn=sqlflow.elasticdl_input_function` (`sqlflow.py` beside this file).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, schema_features, vectorised
from edl_allreduce.schema import Schema

DeepFM: Any = import_module(f"{__package__}.deepfm" if __package__ else "deepfm").DeepFM
"""For two classes; see `deepfm.py`."""


class DNN(keras.Model):
    """Hidden layers with GELU; gives one logit per class.

    Smooth, so that runs with different numbers of workers can be laid over each other (see `digits.Classifier`), and
    that no narrow layer dies.

    Args:
        hidden_units: width of each hidden layer.
        n_classes: number of classes; None: those of the schema, or 3.
        n_features: length of a record's `features`, for `default_input`.
        learning_rate: Adam's.
        schema: of a table's columns, as `edl sql` gives it.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (32, 16),
        n_classes: int | None = None,
        n_features: int = 4,
        learning_rate: float = 0.01,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name="dnn")
        self.schema = Schema.from_params(schema) if schema else None
        n_classes = n_classes or (len(self.schema.classes) if self.schema else 3)
        self.n_features, self.learning_rate = n_features, learning_rate
        self.hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
        self.logits = keras.layers.Dense(n_classes)

    def call(self, features: Any) -> Any:
        """Logits [n, n_classes] of features [n, n_features], or of those of a schema."""
        if self.schema is not None:
            features = schema_features.dense(features, self.schema)
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
        if self.schema is not None:
            return schema_features.parse(records, self.schema, mode)
        example = {"features": tf.io.FixedLenFeature([self.n_features], tf.float32)}
        if mode == Mode.PREDICTION:
            return tf.io.parse_example(records, example)["features"]
        parsed = tf.io.parse_example(records, example | {"label": tf.io.FixedLenFeature([], tf.int64)})
        return parsed["features"], parsed["label"]
