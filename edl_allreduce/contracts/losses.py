"""Makes one kind of loss out of the many that users write: a function of (labels, outputs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts.arguments import outputs_come_first
from edl_allreduce.errors import ModelError


@dataclass(frozen=True)
class Loss:
    """A loss as the worker calls it.

    Attributes:
        function: of (labels, outputs); gives a scalar, or a vector with one value per example.
        is_sum: whether a scalar is the sum over the batch; else it is the mean.
    """

    function: Callable[[Any, Any], Any]
    is_sum: bool = False


def loss_from(value: Any, where: str) -> Loss:
    """A loss from a Keras loss, the name of one, or a function of (labels, outputs).

    Args:
        value: what the user gave or returned.
        where: what to call it in an error.

    Raises:
        ModelError: it is nothing of the kind.
    """
    if isinstance(value, (Mapping, list, tuple)):
        raise ModelError(f"{where}: one loss per output is not supported yet; give one function of (labels, outputs)")
    if isinstance(value, str):
        value = keras_loss(value, where)
    if isinstance(value, keras.losses.Loss):
        return Loss(lambda labels, outputs: per_example(value(labels, outputs)), value.reduction == "sum")
    if not callable(value) or isinstance(value, type):
        raise ModelError(f"{where}: expected a Keras loss or a function of (labels, outputs), got {value!r}")
    return Loss(_from_function(value))


def keras_loss(name: str, where: str) -> Any:
    """The Keras loss of that name.

    Raises:
        ModelError: there is none.
    """
    try:
        return keras.losses.get(name)
    except ValueError:
        known = "neither in the model's file nor a Keras loss such as sparse_categorical_crossentropy"
        raise ModelError(f"{where}: {name!r} is {known}") from None


def per_example(value: Any) -> Any:
    """A loss as a scalar or as a vector: all dimensions after the first are averaged."""
    value = tf.convert_to_tensor(value)
    if value.shape.rank is None or value.shape.rank <= 1:
        return value
    return tf.reduce_mean(value, axis=list(range(1, value.shape.rank)))


def _from_function(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    swapped = outputs_come_first(function)

    def loss(labels: Any, outputs: Any) -> Any:
        labels = _of_same_rank(labels, outputs)
        return per_example(function(outputs, labels) if swapped else function(labels, outputs))

    return loss


def _of_same_rank(labels: Any, outputs: Any) -> Any:
    """Labels [n] for outputs [n, 1] become [n, 1], and the reverse, as in Keras's `fit`: they must not broadcast."""
    if not tf.is_tensor(labels) or not tf.is_tensor(outputs) or None in (labels.shape.rank, outputs.shape.rank):
        return labels
    if labels.shape.rank == outputs.shape.rank - 1 and outputs.shape[-1] == 1:
        return tf.expand_dims(labels, -1)
    if labels.shape.rank == outputs.shape.rank + 1 and labels.shape[-1] == 1:
        return tf.squeeze(labels, -1)
    return labels
