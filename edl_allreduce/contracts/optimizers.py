"""Accepts what users call an optimizer when it is one of Keras, and says what to write when it is not."""

from __future__ import annotations

from typing import Any

import keras

from edl_allreduce.errors import ModelError


def optimizer_from(value: Any, where: str) -> Any:
    """A Keras optimizer from one, or from the name of one.

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
    kind = value if isinstance(value, type) else type(value)
    got = f"{kind.__module__}.{kind.__name__}".removeprefix("builtins.")
    hint = "; those of tf.compat.v1.train are not supported" if got.startswith("tensorflow.") else ""
    raise ModelError(f"{where}: expected a Keras optimizer such as keras.optimizers.SGD(0.1), got {got}{hint}")


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
