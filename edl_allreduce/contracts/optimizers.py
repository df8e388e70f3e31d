"""Accepts what users call an optimizer when Keras has it, and says what to write when it is not."""

from __future__ import annotations

from typing import Any

import keras

from edl_allreduce.contracts.tf1_optimizers import is_tf1, translated
from edl_allreduce.errors import ModelError


def optimizer_from(value: Any, where: str) -> Any:
    """A Keras optimizer from one, from the name of one, or from one of `tf.compat.v1.train`.

    Args:
        value: what the user gave or returned.
        where: what to call it in an error.

    Raises:
        ModelError: it is nothing of the kind.
    """
    if isinstance(value, str):
        return keras_optimizer_class(value, where)()
    if isinstance(value, keras.optimizers.Optimizer):
        return value
    if is_tf1(value):
        return translated(value, where)
    kind = value if isinstance(value, type) else type(value)
    got = f"{kind.__module__}.{kind.__name__}".removeprefix("builtins.")
    raise ModelError(f"{where}: expected a Keras optimizer such as keras.optimizers.SGD(0.1), got {got}")


def keras_optimizer_class(name: str, where: str) -> Any:
    """The class of the Keras optimizer of that name, in any case ("adam", "Adam").

    Raises:
        ModelError: there is none of that name.
    """
    try:
        return type(keras.optimizers.get(name))
    except ValueError:
        known = "neither in the model's file nor a Keras optimizer such as Adam or SGD"
        raise ModelError(f"{where}: {name!r} is {known}") from None
