"""Finds out by trying a model on a few records what its code does not tell: what of it can be added up over workers.

Every worker tries the same records on the same initial weights, so all come to the same answer: it must be the same,
since it decides what a step reduces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from edl_allreduce.contracts.base import Metric, TrainingModel
from edl_allreduce.notices import notices
from edl_allreduce.worker.local_part import call_arguments, values_of
from edl_allreduce.worker.metrics import adds_up, arguments


def metrics_that_add_up(training: TrainingModel, batch: tuple[Any, ...]) -> list[Metric]:
    """The model's metrics without those whose state is no sum over the records; the log names these.

    Args:
        training: the model, with variables.
        batch: features, labels and perhaps weights of a few records.
    """
    left_out = not_adding_up(training, lambda: batch)
    if left_out:
        names = ", ".join(metric.name for metric in left_out)
        notices.warning("not shown while training, since it cannot be added up over workers: %s", names)
    return [metric for metric in training.metrics if metric not in left_out]


def not_adding_up(training: TrainingModel, sample: Callable[[], tuple[Any, ...]]) -> list[Metric]:
    """The model's metrics whose state is no sum over the records; those that are not Keras's own are tried.

    Args:
        training: as above.
        sample: gives features, labels and perhaps weights of a few records; asked only when something is to be tried.
    """
    unknown = [metric for metric in training.metrics if not adds_up(metric.metric)]
    if not unknown:
        return []
    batch = sample()
    outputs = _outputs(training, batch[0])
    if outputs is None:
        return unknown
    return [metric for metric in unknown if not adds_up(metric.metric, _arguments(metric, batch, outputs))]


def losses_that_are_sums(training: TrainingModel, batch: tuple[Any, ...]) -> set[int]:
    """Which of the model's additional losses double when the records are doubled, by their places.

    Regularisers of weights do not, those of activities did before Keras divided them by the number of records; what
    `add_loss` adds may be of either kind.

    Args:
        training, batch: as above.
    """
    few = tf.nest.map_structure(lambda each: each[:2], batch[0])
    twice = tf.nest.map_structure(lambda each: tf.concat([each, each], axis=0), few)
    once = _additional_losses(training, few)
    if not once:
        return set()
    pairs = zip(once, _additional_losses(training, twice), strict=False)
    return {i for i, (one, two) in enumerate(pairs) if abs(two - 2 * one) < abs(two - one)}


def _outputs(training: TrainingModel, features: Any) -> Any:
    try:
        return training.model(features, training=False)
    except Exception:  # the step will meet it, too, and tells where it is from
        return None


def _arguments(metric: Metric, batch: tuple[Any, ...], outputs: Any) -> list[tuple[Any, ...]]:
    try:
        return [arguments(metric, batch[1], outputs, *batch[2:])]
    except Exception:  # as above
        return []


def _additional_losses(training: TrainingModel, features: Any) -> list[float]:
    model = training.model
    state = (values_of(model.trainable_variables), values_of(model.non_trainable_variables))
    try:
        _, _, losses = model.stateless_call(*state, features, return_losses=True, **call_arguments(model))
        return [float(tf.reduce_sum(tf.cast(each, tf.float32))) for each in losses]
    except Exception:  # as above
        return []
