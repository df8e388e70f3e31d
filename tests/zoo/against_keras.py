"""What a model says of one batch: by our contracts, and by Keras's own `compile` and `evaluate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from edl_allreduce.contracts import TrainingModel


def by_contract(training: TrainingModel, features: Any, labels: Any, weights: Any = None) -> dict[str, float]:
    """The loss and all metrics of a batch, by name; changes nothing."""
    training.build()
    features, labels = tf.nest.map_structure(tf.constant, (features, labels))
    weights = None if weights is None else tf.constant(weights, tf.float32)
    outputs = training.model(features, training=False)
    loss = training.loss(labels, outputs, weights)
    told = {"loss": float(tf.reduce_sum(loss) if training.loss_is_sum else tf.reduce_mean(loss))}
    for each in training.metrics:
        given = {"sample_weight": weights} if each.weighted and weights is not None else {}
        before = [variable.value for variable in each.metric.variables]
        assert before, f"{each.name} was not built"
        after = each.metric.stateless_update_state(before, *each.of(labels, outputs), **given)
        told[each.name] = float(np.asarray(each.metric.stateless_result(after)))
    return told


def by_keras(
    training: TrainingModel, features: Any, labels: Any, weights: Any = None, **compiled: Any
) -> dict[str, float]:
    """The same, from `model.evaluate` of the model compiled with these arguments, in one batch."""
    training.model.compile(**compiled)
    count = len(tf.nest.flatten(features)[0])
    told: dict[str, float] = training.model.evaluate(
        features, labels, sample_weight=weights, batch_size=count, verbose=0, return_dict=True
    )
    return told
