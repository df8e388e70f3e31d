"""Gives examples the weights of their classes, as the `class_weight` of Keras's `fit` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from edl_allreduce.errors import ModelError


def weighted(batch: tuple[Any, ...], class_weights: Mapping[int, float]) -> tuple[Any, Any, Any]:
    """(features, labels, weights) of (features, labels) or (features, labels, weights).

    Args:
        class_weights: the weight of each class, for labels [n] or [n, 1] of class numbers or [n, classes] one-hot;
            classes that are not in it weigh 1. Empty: the weights are the batch's own, or None.

    Raises:
        ModelError: there are weights of both kinds, or the labels are several tensors.
    """
    features, labels, weights = (*batch, None)[:3]
    if not class_weights:
        return features, labels, weights
    if weights is not None:
        raise ModelError("--class_weight: the input function gives a weight for every example; there can be only one")
    if not tf.is_tensor(labels):
        raise ModelError("--class_weight: works for one output only, and the labels here are several tensors")
    return features, labels, _weights_of(_classes(labels), class_weights)


def _classes(labels: tf.Tensor) -> tf.Tensor:
    if labels.shape.rank is not None and labels.shape.rank > 1:
        if labels.shape[-1] != 1:
            return tf.argmax(labels, axis=-1, output_type=tf.int32)
        labels = tf.squeeze(labels, axis=-1)
    return tf.cast(tf.round(labels) if labels.dtype.is_floating else labels, tf.int32)


def _weights_of(classes: tf.Tensor, class_weights: Mapping[int, float]) -> tf.Tensor:
    beyond = max(class_weights) + 1
    table = tf.constant([float(class_weights.get(number, 1.0)) for number in range(beyond)] + [1.0])
    return tf.gather(table, tf.where((classes >= 0) & (classes < beyond), classes, beyond))
