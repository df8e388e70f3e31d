"""Brings what an input function gives into the one shape that the worker expects: weights as one number per example.

Features and labels stay what they are; for prediction only the features are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts.base import Input, Mode
from edl_allreduce.errors import ModelError


def check_elements(spec: Any, where: str) -> None:
    """Refuses an input function for training that gives neither (features, labels) nor (features, labels, weights).

    Raises:
        ModelError: says what it gives.
    """
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        kind = "tensor" if isinstance(spec, tf.TypeSpec) else f"{type(spec).__name__} of {len(spec)}"
        raise ModelError(f"{where}: expected it to return (features, labels), got a {kind}")


def with_weights(input: Input, where: str) -> Input:
    """The same input; its weights, if there are any, as float32 [n].

    Raises:
        ModelError: the weights are not one number per record.
    """
    spec = input.element_spec
    if len(spec) == 2:
        return input
    weights = spec[2]
    numbers = isinstance(weights, tf.TensorSpec) and (weights.dtype.is_floating or weights.dtype.is_integer)
    if not numbers or weights.shape[1:].as_list() not in ([], [1]):
        single = isinstance(weights, tf.TensorSpec)
        got = f"{weights.dtype.name} of shape {tuple(weights.shape)}" if single else f"a {type(weights).__name__}"
        raise ModelError(f"{where}: expected one number per record as its weight, got {got}")
    if weights.dtype == tf.float32 and weights.shape.rank == 1:
        return input

    def convert(features: Any, labels: Any, weights: Any) -> Any:
        return features, labels, tf.cast(tf.reshape(weights, [-1] if input.vectorised else []), tf.float32)

    return _then(input, convert, (*spec[:2], tf.TensorSpec([None], tf.float32)))


def features_only(input: Input, of_training: Callable[[], Input]) -> Input:
    """An input for prediction: what the function gives, without labels if it gives them all the same.

    Args:
        input: traced for prediction.
        of_training: the same function, traced for training; tells labels from a second tensor of features.
    """
    spec = input.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2 or not _alike(spec, of_training().element_spec):
        return input
    return _then(input, lambda features, *_: features, spec[0])


def lists_to_tuples(value: Any) -> Any:
    """Several inputs in a list, as Keras's models may take them; tf.data would make one tensor of it."""
    if isinstance(value, Mapping):
        return {name: lists_to_tuples(each) for name, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value
    return tuple(map(lists_to_tuples, value)) if isinstance(value, (list, tuple)) else value


def features_by_name(input: Input, model: Any) -> Input:
    """The same input; a dict of features becomes what a functional model takes that has its inputs not in a dict.

    ElasticDL's models give {"image": …} to a single `Input(name="image")`. Keras would go by the order of the keys.
    """
    inputs = lists_to_tuples(_inputs_of(model))
    features = input.specs[0]
    names = [each.name for each in tf.nest.flatten(inputs)]
    if isinstance(inputs, Mapping) or not isinstance(features, Mapping) or not set(names) <= set(features):
        return input

    def chosen(features: Any) -> Any:
        return tf.nest.map_structure(lambda each: features[each.name], inputs)

    if input.mode is Mode.PREDICTION:
        return _then(input, chosen, chosen(features))
    rest = input.element_spec[1:]
    return _then(input, lambda features, *rest: (chosen(features), *rest), (chosen(features), *rest))


def _inputs_of(model: Any) -> Any:
    """What a functional or sequential model takes, in the structure it takes it in; {} of models that do not say."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return {}
    return inputs[0] if isinstance(model, keras.Sequential) else model.input  # a sequential one has no `input` yet


def _alike(one: Any, other: Any) -> bool:
    try:
        tf.nest.assert_same_structure(one, other)
    except (ValueError, TypeError):
        return False
    return all(first.dtype == second.dtype for first, second in zip(*map(tf.nest.flatten, (one, other)), strict=True))


def _then(input: Input, convert: Callable[..., Any], spec: Any) -> Input:
    """The input with `convert` applied to what it gives, of n records or of each one; the parts of a tuple each."""
    convert = tf.autograph.experimental.do_not_convert(convert)

    @tf.autograph.experimental.do_not_convert
    def apply(records: Any) -> Any:
        given = input.apply(records)
        if not input.vectorised:
            return given.map(convert, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return convert(*given) if isinstance(given, tuple) else convert(given)

    return dataclasses.replace(input, apply=apply, element_spec=spec)
