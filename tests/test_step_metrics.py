"""Metrics as sums of their state: which ones are, and that adding up contributions gives Keras's own figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.contracts.base import Metric
from edl_allreduce.worker.metrics import Arguments, adds_up, contribution, initial_state, result

ROWS, CLASSES = 40, 3
RANDOM = np.random.default_rng(7)

BINARY = (RANDOM.integers(0, 2, [ROWS, 1]).astype(np.float32), RANDOM.random([ROWS, 1]).astype(np.float32))
CLASS_NUMBERS = (RANDOM.integers(0, CLASSES, [ROWS]), RANDOM.random([ROWS, CLASSES]).astype(np.float32))
ONE_HOT = (np.eye(CLASSES, dtype=np.float32)[CLASS_NUMBERS[0]], CLASS_NUMBERS[1])
NUMBERS = (RANDOM.normal(size=[ROWS, 2]).astype(np.float32), RANDOM.normal(size=[ROWS, 2]).astype(np.float32))
LABEL_NUMBERS = (RANDOM.integers(0, CLASSES, [ROWS]), RANDOM.integers(0, CLASSES, [ROWS]))
WEIGHTS = RANDOM.random([ROWS]).astype(np.float32)

KERAS_OWN: list[tuple[Callable[[], keras.metrics.Metric], tuple[Any, Any]]] = [
    (lambda: keras.metrics.AUC(num_thresholds=20), BINARY),
    (lambda: keras.metrics.AUC(num_thresholds=20, multi_label=True), ONE_HOT),
    (lambda: keras.metrics.Precision(thresholds=[0.3, 0.6]), BINARY),
    (keras.metrics.Recall, BINARY),
    (keras.metrics.TruePositives, BINARY),
    (lambda: keras.metrics.SensitivityAtSpecificity(0.5, num_thresholds=20), BINARY),
    (lambda: keras.metrics.RecallAtPrecision(0.5, num_thresholds=20), BINARY),
    (keras.metrics.BinaryAccuracy, BINARY),
    (keras.metrics.SparseCategoricalAccuracy, CLASS_NUMBERS),
    (lambda: keras.metrics.SparseTopKCategoricalAccuracy(2), CLASS_NUMBERS),
    (keras.metrics.CategoricalCrossentropy, ONE_HOT),
    (lambda: keras.metrics.MeanIoU(CLASSES, dtype="float32"), LABEL_NUMBERS),
    (lambda: keras.metrics.IoU(CLASSES, [0, 2], dtype="float32"), LABEL_NUMBERS),
    (lambda: keras.metrics.F1Score(average="weighted"), ONE_HOT),
    (lambda: keras.metrics.FBetaScore(beta=2.0), ONE_HOT),
    (keras.metrics.R2Score, NUMBERS),
    (keras.metrics.RootMeanSquaredError, NUMBERS),
    (keras.metrics.CosineSimilarity, NUMBERS),
]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(("make", "data"), KERAS_OWN)
def test_contributions_of_parts_add_up_to_the_whole(
    make: Callable[[], keras.metrics.Metric], data: tuple[Any, Any], weights: Any
) -> None:
    assert adds_up(make())
    metric, own = Metric("m", make(), weighted=True), make()
    if weights is not None and isinstance(own, (keras.metrics.Precision, keras.metrics.IoU, keras.metrics.AUC)):
        weights = weights.reshape([-1, 1]) if data[0].ndim > 1 else weights
    own.update_state(*data, *([] if weights is None else [weights]))
    cuts = [slice(0, 7), slice(7, 30), slice(30, ROWS)]
    parts = [
        contribution(metric, data[0][cut], data[1][cut], None if weights is None else weights[cut]) for cut in cuts
    ]
    sums = [sum(np.asarray(each, np.float64) for each in changes) for changes in zip(*parts, strict=True)]
    np.testing.assert_allclose(result(metric, sums), own.result().numpy(), rtol=1e-6, atol=1e-6)
    assert not any(np.any(variable.numpy()) for variable in metric.metric.variables)


def test_a_contribution_is_traced_once_and_leaves_the_metric_alone() -> None:
    metric = Metric("f1", keras.metrics.F1Score(), of=lambda labels, outputs: (labels["a"], outputs * 2.0))
    traced = tf.function(lambda labels, outputs: contribution(metric, labels, outputs)).get_concrete_function(
        {"a": tf.TensorSpec([None, CLASSES])}, tf.TensorSpec([None, CLASSES])
    )
    sums = traced({"a": tf.constant(ONE_HOT[0])}, tf.constant(ONE_HOT[1]))
    own = keras.metrics.F1Score()
    own.update_state(*ONE_HOT)
    np.testing.assert_allclose(result(metric, sums), own.result().numpy(), rtol=1e-6)
    assert not any(np.any(each) for each in initial_state(metric.metric))


class Largest(keras.metrics.Metric):
    def __init__(self) -> None:
        super().__init__()
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(keras.ops.abs(y_pred))))

    def result(self) -> Any:
        return self.largest.value


class OwnMean(keras.metrics.Metric):
    """Additive, with a state that does not begin at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.add_variable((2,), "ones", name="total")
        self.count = self.add_variable((), "zeros", dtype="int64", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(keras.ops.sum(y_pred - y_true, axis=0))
        self.count.assign_add(keras.ops.cast(keras.ops.shape(y_pred)[0], "int64"))

    def reset_state(self) -> None:
        self.total.assign([1.0, 1.0])
        self.count.assign(0)

    def result(self) -> Any:
        return {"total": self.total.value, "count": self.count.value}


class OwnAccuracy(keras.metrics.Mean):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(keras.ops.abs(y_pred - y_true), sample_weight)


class Fails(Largest):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        raise RuntimeError("no")


def batch_mean(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


def own_error(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (OwnMean, True),
        (OwnAccuracy, True),
        (Largest, False),
        (Fails, False),
        (lambda: keras.metrics.MeanMetricWrapper(own_error), True),
        (lambda: keras.metrics.MeanMetricWrapper(batch_mean), False),
        (lambda: keras.metrics.CosineSimilarity(axis=0), False),
    ],
)
def test_a_metric_of_ones_own_is_tried(make: Callable[[], keras.metrics.Metric], expected: bool) -> None:
    batches: list[Arguments] = [tuple(each[:8] for each in NUMBERS), tuple(each[8:16] for each in NUMBERS)]
    assert adds_up(make(), batches) is expected
    assert adds_up(make(), batches[:1]) is expected
    assert not adds_up(make())


def test_a_state_that_begins_elsewhere_is_counted_from_there() -> None:
    metric = Metric("own", OwnMean())
    parts = [contribution(metric, NUMBERS[0][cut], NUMBERS[1][cut]) for cut in (slice(0, 9), slice(9, ROWS))]
    found = result(metric, [one + other for one, other in zip(*parts, strict=True)])
    np.testing.assert_allclose(found["total"], 1.0 + (NUMBERS[1] - NUMBERS[0]).sum(axis=0), rtol=1e-5)
    assert found["count"] == ROWS
