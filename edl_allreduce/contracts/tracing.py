"""Traces a model on the shapes of its input, which makes its variables and shows what it gives; nothing is computed."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def output_spec(model: Any, features: Any) -> Any:
    """What the model gives, as `tf.TensorSpec`s of a batch; afterwards the model has all its variables.

    Args:
        model: a `keras.Model`.
        features: specs of a batch.
    """
    call = tf.function(lambda features: model(features, training=False), autograph=False)
    outputs = call.get_concrete_function(features).structured_outputs
    return tf.nest.map_structure(tf.type_spec_from_value, outputs)
