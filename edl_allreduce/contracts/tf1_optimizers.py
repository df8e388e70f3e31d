"""Translates optimizers of `tf.compat.v1.train`, which cannot train Keras 3 models, to Keras's of the same update rule.

Source of the rules: the kernels in tensorflow/core/kernels/training_ops.cc. The steps are the same as long as the
learning rate is; Keras's momentum includes it, TensorFlow's does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.errors import ModelError

_train = tf.compat.v1.train


class RMSpropFromOnes(keras.optimizers.RMSprop):
    """RMSprop whose mean square starts at one, as TensorFlow 1's does; Keras's starts at zero."""

    def build(self, variables: Any) -> None:
        """Makes the slots."""
        built = self.built
        super().build(variables)
        if not built:
            for each in self._velocities:
                each.assign(keras.ops.ones(each.shape, each.dtype))


def is_tf1(value: Any) -> bool:
    """Whether it is an optimizer of `tf.compat.v1.train`."""
    return isinstance(value, _train.Optimizer)


def translated(optimizer: Any, where: str) -> Any:
    """The Keras optimizer that takes the same steps.

    Raises:
        ModelError: there is none, or the learning rate is computed; says what to write.
    """
    kind = type(optimizer)
    translate = _TRANSLATIONS.get(kind)
    if translate is None:
        known = ", ".join(each.__name__ for each in _TRANSLATIONS)
        instead = f"write a Keras optimizer such as keras.optimizers.SGD(0.1) (translated are {known})"
        raise ModelError(f"{where}: tf.compat.v1.train.{kind.__name__} is not supported; {instead}")
    return translate(lambda name: _number(optimizer, name, where))


def _number(optimizer: Any, name: str, where: str) -> Any:
    value = getattr(optimizer, name)
    if isinstance(value, (bool, int, float)):
        return value
    if tf.is_tensor(value) and hasattr(value, "numpy"):
        return float(value)
    what = f"tf.compat.v1.train.{type(optimizer).__name__}'s {name.lstrip('_')}"
    instead = "write a Keras optimizer with a schedule of keras.optimizers.schedules"
    raise ModelError(f"{where}: expected a number as {what}, got {value!r}; {instead}")


_TRANSLATIONS: dict[type, Callable[[Callable[[str], Any]], Any]] = {
    _train.GradientDescentOptimizer: lambda of: keras.optimizers.SGD(of("_learning_rate")),
    _train.MomentumOptimizer: lambda of: keras.optimizers.SGD(
        of("_learning_rate"), momentum=of("_momentum"), nesterov=of("_use_nesterov")
    ),
    _train.AdamOptimizer: lambda of: keras.optimizers.Adam(
        of("_lr"), beta_1=of("_beta1"), beta_2=of("_beta2"), epsilon=of("_epsilon")
    ),
    _train.AdagradOptimizer: lambda of: keras.optimizers.Adagrad(
        of("_learning_rate"), initial_accumulator_value=of("_initial_accumulator_value"), epsilon=0.0
    ),
    _train.AdadeltaOptimizer: lambda of: keras.optimizers.Adadelta(of("_lr"), rho=of("_rho"), epsilon=of("_epsilon")),
    _train.RMSPropOptimizer: lambda of: RMSpropFromOnes(
        of("_learning_rate"),
        rho=of("_decay"),
        momentum=of("_momentum"),
        epsilon=of("_epsilon"),
        centered=of("_centered"),
    ),
    _train.FtrlOptimizer: lambda of: keras.optimizers.Ftrl(
        of("_learning_rate"),
        learning_rate_power=of("_learning_rate_power"),
        initial_accumulator_value=of("_initial_accumulator_value"),
        l1_regularization_strength=of("_l1_regularization_strength"),
        l2_regularization_strength=of("_l2_regularization_strength"),
        l2_shrinkage_regularization_strength=of("_l2_shrinkage_regularization_strength"),
    ),
}
