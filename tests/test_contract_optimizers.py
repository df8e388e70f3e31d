# ruff: noqa: E501 (what users read stands here unbroken)
"""Optimizers of `tf.compat.v1.train` become Keras's and take the very same steps, or are refused by name."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.contracts.optimizers import optimizer_from
from edl_allreduce.errors import ModelError

v1 = tf.compat.v1
RANDOM = np.random.default_rng(5)
START = RANDOM.normal(size=[3, 2]).astype("float32")
GRADIENTS = RANDOM.normal(size=[6, 3, 2]).astype("float32")


def steps_of_tensorflow_1(make: Any) -> np.ndarray[Any, Any]:
    """The weights after each step, in a session, as TensorFlow 1 has it."""
    with tf.Graph().as_default(), v1.Session() as session:
        weights = v1.get_variable("weights", initializer=START, use_resource=True)
        gradient = v1.placeholder(tf.float32, START.shape)
        step = make().apply_gradients([(gradient, weights)])
        session.run(v1.global_variables_initializer())
        seen = []
        for each in GRADIENTS:
            session.run(step, {gradient: each})
            seen.append(session.run(weights))
        return np.array(seen)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: v1.train.GradientDescentOptimizer(0.1), keras.optimizers.SGD),
        (lambda: v1.train.MomentumOptimizer(0.1, 0.9), keras.optimizers.SGD),
        (lambda: v1.train.MomentumOptimizer(0.1, 0.9, use_nesterov=True), keras.optimizers.SGD),
        (lambda: v1.train.AdamOptimizer(0.01), keras.optimizers.Adam),
        (lambda: v1.train.AdamOptimizer(0.01, beta1=0.8, beta2=0.9, epsilon=0.1), keras.optimizers.Adam),
        (lambda: v1.train.AdagradOptimizer(0.1, initial_accumulator_value=0.3), keras.optimizers.Adagrad),
        (lambda: v1.train.AdadeltaOptimizer(0.5, rho=0.9, epsilon=1e-3), keras.optimizers.Adadelta),
        (lambda: v1.train.RMSPropOptimizer(0.01), keras.optimizers.RMSprop),
        (lambda: v1.train.RMSPropOptimizer(0.01, 0.8, momentum=0.5, epsilon=1e-3, centered=True), keras.optimizers.RMSprop),
        (lambda: v1.train.FtrlOptimizer(0.1), keras.optimizers.Ftrl),
        (lambda: v1.train.FtrlOptimizer(0.1, l1_regularization_strength=0.02, l2_regularization_strength=0.03), keras.optimizers.Ftrl),
    ],
)  # fmt: skip
def test_same_steps(make: Any, kind: Any) -> None:
    optimizer = optimizer_from(make(), "here")
    assert isinstance(optimizer, kind)
    weights = keras.Variable(START)
    seen = []
    for each in GRADIENTS:
        optimizer.apply([tf.constant(each)], [weights])
        seen.append(weights.numpy())
    np.testing.assert_allclose(np.array(seen), steps_of_tensorflow_1(make), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: v1.train.ProximalAdagradOptimizer(0.1),
            ("here: tf.compat.v1.train.ProximalAdagradOptimizer is not supported; write a Keras optimizer such as "
            "keras.optimizers.SGD(0.1) (translated are GradientDescentOptimizer, MomentumOptimizer, AdamOptimizer, "
            "AdagradOptimizer, AdadeltaOptimizer, RMSPropOptimizer, FtrlOptimizer)"),
        ),
        (
            lambda: v1.train.AdamOptimizer(len),
            ("here: expected a number as tf.compat.v1.train.AdamOptimizer's lr, got <built-in function len>; write a "
            "Keras optimizer with a schedule of keras.optimizers.schedules"),
        ),
        (lambda: keras.losses.MeanSquaredError(), "here: expected a Keras optimizer such as keras.optimizers.SGD(0.1), got keras.src.losses.losses.MeanSquaredError"),
    ],
)  # fmt: skip
def test_others_are_refused_by_name(make: Any, told: str) -> None:
    with pytest.raises(ModelError) as error:
        optimizer_from(make(), "here")
    assert str(error.value) == told


def test_a_rate_that_is_a_tensor_with_a_value_is_a_number() -> None:
    made = optimizer_from(v1.train.GradientDescentOptimizer(tf.constant(0.25)), "here")
    assert float(made.learning_rate) == 0.25
