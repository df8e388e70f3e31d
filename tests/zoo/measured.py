"""A digits model with metrics that must not be averaged, and one that does not even add up."""

from __future__ import annotations

import os
from typing import Any

import keras

from edl_allreduce.contracts import Mode, vectorised
from model_zoo.digits import Classifier as Good


class ForThree:
    """Makes a metric ask: is it a 3?"""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        threes = keras.ops.cast(keras.ops.equal(keras.ops.reshape(y_true, [-1]), 3), "float32")
        return super().update_state(threes, keras.ops.softmax(y_pred)[:, 3], sample_weight)  # type: ignore[misc]


class AUC(ForThree, keras.metrics.AUC):
    """The area under the curve."""


class Precision(ForThree, keras.metrics.Precision):
    """Of those that were called a 3."""


class Recall(ForThree, keras.metrics.Recall):
    """Of those that are a 3."""


class Widest(keras.metrics.Metric):
    """The largest logit."""

    def __init__(self) -> None:
        super().__init__(name="widest")
        self.largest = self.add_variable(shape=(), initializer="zeros", name="largest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(y_pred)))

    def result(self) -> Any:
        return self.largest.value


class Measured(Good):
    """The digits with more metrics."""

    def default_metrics(self) -> list[Any]:
        metrics = ["accuracy", AUC(name="auc"), Precision(name="precision"), Recall(name="recall")]
        return [*metrics, Widest()] if os.environ.get("EDL_TEST_WIDEST") else metrics

    @staticmethod
    @vectorised
    def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """A line of this file, for errors to name."""
        return Good.default_input(records, mode)
