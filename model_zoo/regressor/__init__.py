"""A deep neural network for numbers from tables, as SQLFlow's `TRAIN regressor.DNN`; try it on the diabetes table.

    python -m model_zoo.tables make data
    edl train --model_zoo=model_zoo --model_def=regressor.DNN --data='data/diabetes/train/*.recordio' \\
        --params="hidden_units=[16], label_mean=152.0, label_std=77.0" --output=out/diabetes \\
        --num_epochs=10 --batch_size=32
    edl evaluate --trained_model=out/diabetes --data='data/diabetes/test/*.recordio'

Tables of any columns: `edl sql`, or `--input_fn=sqlflow.elasticdl_input_function` (`sqlflow.py` beside this folder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, schema_features, vectorised
from edl_allreduce.schema import Schema


class DNN(keras.Model):
    """Hidden layers with GELU, one number as output, mean squared error.

    Smooth, so that runs with different numbers of workers can be laid over each other (see `digits.Classifier`).

    Args:
        hidden_units: width of each hidden layer.
        learning_rate: Adam's.
        label_mean: about what the labels are on average; the untrained network gives numbers around it. None: what
            the schema says, or 0.
        label_std: about how far they lie from it. The loss is in units of it; outputs are in the labels' own. None:
            what the schema says, or 1.
        n_features: length of a record's `features`, for `default_input`.
        schema: of a table's columns, as `edl sql` gives it.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (32, 16),
        learning_rate: float = 0.01,
        label_mean: float | None = None,
        label_std: float | None = None,
        n_features: int = 10,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name="dnn")
        self.learning_rate, self.n_features = learning_rate, n_features
        self.schema = Schema.from_params(schema) if schema else None
        mean, std = self.schema.label_scale if self.schema else (0.0, 1.0)
        self.label_mean = mean if label_mean is None else label_mean
        self.label_std = std if label_std is None else label_std
        self.hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
        self.number = keras.layers.Dense(1)

    def call(self, features: Any) -> Any:
        """Numbers [n, 1] of features [n, width], or of those of a schema."""
        if self.schema is not None:
            features = schema_features.dense(features, self.schema)
        for layer in self.hidden:
            features = layer(features)
        return self.label_mean + self.label_std * self.number(features)

    def default_loss(self, labels: Any, outputs: Any) -> Any:
        """The squared error [n] of each record, in units of label_std²."""
        return tf.square((tf.reshape(labels, [-1]) - tf.reshape(outputs, [-1])) / self.label_std)

    def default_optimizer(self) -> Any:
        """Adam."""
        return keras.optimizers.Adam(self.learning_rate, epsilon=1e-4)

    def default_metrics(self) -> list[Any]:
        """In the labels' units."""
        return [keras.metrics.MeanAbsoluteError(name="mae"), keras.metrics.RootMeanSquaredError(name="rmse")]

    @vectorised
    def default_input(self, records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """Features [n, n_features] and labels [n] of n tf.Examples; for prediction the features alone."""
        if self.schema is not None:
            return schema_features.parse(records, self.schema, mode)
        example = {"features": tf.io.FixedLenFeature([self.n_features], tf.float32)}
        if mode == Mode.PREDICTION:
            return tf.io.parse_example(records, example)["features"]
        parsed = tf.io.parse_example(records, example | {"label": tf.io.FixedLenFeature([], tf.float32)})
        return parsed["features"], parsed["label"]
