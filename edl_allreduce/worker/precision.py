"""Computing with 16 bits: the policy that models are made with, and the loss scale that float16 needs."""

from __future__ import annotations

from typing import Any

import keras

from edl_allreduce.contracts.base import TrainingModel


def use_precision(policy: str) -> None:
    """Models that are made from now on compute with this precision; their weights stay float32.

    Args:
        policy: mixed_float16, mixed_bfloat16, or "" for what Keras is set to.
    """
    if policy:
        keras.config.set_dtype_policy(policy)


def optimizer_of(training: TrainingModel) -> Any:
    """The model's optimizer; for mixed_float16 with a loss scale, as `compile` wraps it."""
    optimizer = training.optimizer
    if training.model.dtype_policy.name != "mixed_float16" or isinstance(
        optimizer, keras.optimizers.LossScaleOptimizer
    ):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
