"""Finds out by trying a model on a few records what its code does not tell: what of it can be added up over workers.

Every worker tries the same records on the same initial weights, so all come to the same answer: it must be the same,
since it decides what a step reduces.
"""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

from edl_allreduce.contracts.base import Metric, TrainingModel
from edl_allreduce.worker.local_part import call_arguments
from edl_allreduce.worker.metrics import adds_up, arguments

log = logging.getLogger(__name__)


def metrics_that_add_up(training: TrainingModel, batch: tuple[Any, ...]) -> list[Metric]:
    """The model's metrics without those whose state is no sum over the records; the log names these.

    Args:
        training: the model, with variables.
        batch: features, labels and perhaps weights of a few records.
    """
    chosen: list[Metric] = []
    left_out: list[Metric] = []
    outputs: Any = None
    for metric in training.metrics:
        good = adds_up(metric.metric)
        if not good:
            outputs = _outputs(training, batch[0]) if outputs is None else outputs
            good = outputs is not None and adds_up(metric.metric, _arguments(metric, batch, outputs))
        (chosen if good else left_out).append(metric)
    if left_out:
        names = ", ".join(metric.name for metric in left_out)
        log.warning("not shown while training, since it cannot be added up over workers: %s", names)
    return chosen


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
    state = ([tf.convert_to_tensor(each.value) for each in group] for group in _variables(model))
    try:
        _, _, losses = model.stateless_call(*state, features, return_losses=True, **call_arguments(model))
        return [float(tf.reduce_sum(tf.cast(each, tf.float32))) for each in losses]
    except Exception:  # as above
        return []


def _variables(model: Any) -> tuple[Any, Any]:
    return model.trainable_variables, model.non_trainable_variables
