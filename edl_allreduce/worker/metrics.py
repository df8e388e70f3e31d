"""Counts Keras metrics over many workers exactly: as sums of their state, which are read only when all is added.

An average of averages is wrong for an AUC. What can be added is a metric's *state*, wherever that is itself a sum over
the examples (true positives, totals, counts). Each worker computes by how much its own examples change the state; these
changes are added up; and the metric is read from the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edl_allreduce.contracts.base import Metric

Arguments = tuple[Any, ...]
"""What `update_state` is called with: (y_true, y_pred) or (y_true, y_pred, weights)."""

_ADDITIVE = (
    keras.metrics.Mean,
    keras.metrics.Sum,
    keras.metrics.TruePositives,
    keras.metrics.TrueNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.FalseNegatives,
    keras.metrics.Precision,
    keras.metrics.Recall,
    keras.metrics.AUC,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.IoU,
    keras.metrics.FBetaScore,
    keras.metrics.R2Score,
)
_RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE = 1e-4, 1e-5


def arguments(metric: Metric, labels: Any, outputs: Any, weights: Any = None) -> Arguments:
    """What the metric's `update_state` gets of a batch."""
    chosen = metric.of(labels, outputs)
    return (*chosen, weights) if metric.weighted and weights is not None else tuple(chosen)


def contribution(metric: Metric, labels: Any, outputs: Any, weights: Any = None) -> list[tf.Tensor]:
    """By how much a batch changes the metric's state, one tensor per variable; changes nothing, eagerly or traced.

    Args:
        labels, outputs: of the batch.
        weights: one number per example, or None.
    """
    given = arguments(metric, labels, outputs, weights)
    with tf.init_scope():
        _build(metric.metric, given)
        initial = initial_state(metric.metric)
    return _change(metric.metric, initial, given)


def result(metric: Metric, sums: Sequence[Any]) -> Any:
    """The metric's value, when the contributions of all batches add up to `sums`.

    Args:
        sums: tensors or arrays, as `contribution` gives them.

    Returns:
        A number; a list of them, as of several thresholds; or a dict of either, by name.
    """
    return plain(value_of(metric, sums))


def value_of(metric: Metric, sums: Sequence[Any]) -> Any:
    """As `result`, in tensors: it can be traced."""
    initial = initial_state(metric.metric)
    state = [tf.cast(each, start.dtype) + start for each, start in zip(sums, initial, strict=True)]
    return metric.metric.stateless_result(state)


def plain(value: Any) -> Any:
    """A metric's value in Python's own numbers and lists."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return np.asarray(keras.ops.convert_to_numpy(value), np.float64).tolist()


def initial_state(metric: keras.metrics.Metric) -> list[Any]:
    """The state of a metric that has seen nothing, as arrays; its own state stays what it is."""
    with tf.init_scope():
        return [keras.ops.convert_to_numpy(each) for each in metric.stateless_reset_state()]


def adds_up(metric: keras.metrics.Metric, batches: Sequence[Arguments] = ()) -> bool:
    """Whether the metric's state is a sum over the examples, however they are split.

    Keras's own classes are known. Any other is tried: what all the examples of `batches` together contribute must be
    what two parts of them contribute, for several splits, each part by itself and one after the other.

    Args:
        batches: what `update_state` gets (see `arguments`), two examples at least; without them, only Keras's own
            metrics are known to add up.
    """
    if _is_known(metric):
        return True
    try:
        return bool(batches) and all(_is_sum(metric, first, second) for first, second in _splits(batches))
    except Exception:  # it cannot even be computed; whoever uses it will tell why
        return False


def _is_known(metric: keras.metrics.Metric) -> bool:
    if not _is_keras(type(metric)) or not isinstance(metric, _ADDITIVE):
        return False
    if not isinstance(metric, keras.metrics.MeanMetricWrapper):
        return True
    function, options = getattr(metric, "_fn", None), getattr(metric, "_fn_kwargs", {})
    return _is_keras(function) and options.get("axis", -1) == -1  # it looks along the examples with another axis


def _is_keras(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "keras"


def _splits(batches: Sequence[Arguments]) -> Iterator[tuple[Arguments, Arguments]]:
    """All examples in two parts, cut at several places; then the same with labels and outputs in new pairs."""
    parts = zip(*(tf.nest.map_structure(tf.convert_to_tensor, batch) for batch in batches), strict=True)
    joined = [tf.nest.map_structure(lambda *each: tf.concat(each, axis=0), *part) for part in parts]
    rows = int(tf.nest.flatten(joined[0])[0].shape[0])
    for shift in (0, 1):
        moved = [joined[0], *(_rolled(each, shift) for each in joined[1:])]
        for cut in sorted({1, rows // 3, rows // 2, rows - 1} & set(range(1, rows))):
            yield _rows(moved, 0, cut), _rows(moved, cut, rows)


def _rolled(values: Any, shift: int) -> Any:
    return tf.nest.map_structure(lambda each: tf.roll(each, shift, axis=0), values)


def _rows(values: Any, begin: int, end: int) -> Arguments:
    return tuple(tf.nest.map_structure(lambda each: each[begin:end], values))


def _is_sum(metric: keras.metrics.Metric, first: Arguments, second: Arguments) -> bool:
    _build(metric, first)
    initial = initial_state(metric)
    both = tuple(
        tf.nest.map_structure(lambda *each: tf.concat(each, axis=0), *pair) for pair in zip(first, second, strict=True)
    )
    after_first = metric.stateless_update_state([tf.constant(each) for each in initial], *first)
    in_turn = metric.stateless_update_state(after_first, *second)
    whole = _change(metric, initial, both)
    parts = zip(_change(metric, initial, first), _change(metric, initial, second), strict=True)
    return all(
        _equal(one + other, at_once) and _equal(one + other, tf.convert_to_tensor(later) - start)
        for (one, other), at_once, later, start in zip(parts, whole, in_turn, initial, strict=True)
    )


def _equal(one: Any, other: Any) -> bool:
    return np.shape(one) == np.shape(other) and np.allclose(one, other, _RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE)


def _change(metric: keras.metrics.Metric, initial: Sequence[Any], given: Arguments) -> list[tf.Tensor]:
    after = metric.stateless_update_state([tf.constant(each) for each in initial], *given)
    return [tf.convert_to_tensor(each) - start for each, start in zip(after, initial, strict=True)]


def _build(metric: keras.metrics.Metric, given: Arguments) -> None:
    """Makes the variables of metrics that do so only when they see shapes (F1Score, R2Score, AUC of many labels)."""
    if metric.variables and getattr(metric, "_built", True):
        return

    def one_row(each: Any) -> tf.Tensor:
        shape = [1, *(size or 1 for size in each.shape[1:])]
        return tf.zeros(shape, each.dtype)

    metric.update_state(*tf.nest.map_structure(one_row, given))
    metric.reset_state()
