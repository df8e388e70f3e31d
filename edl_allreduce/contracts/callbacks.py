"""Collects a model's Keras callbacks, and makes one of ElasticDL's `learning_rate_scheduler`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from edl_allreduce.errors import ModelError


class LearningRateByVersion(keras.callbacks.Callback):
    """Sets the learning rate before each step to what ElasticDL's `learning_rate_scheduler(model_version)` says.

    Args:
        rate: of the model's version, the number of steps done so far (in all rounds and before a restart as well).
        where: what to call it in an error.
    """

    def __init__(self, rate: Callable[[int], Any], where: str) -> None:
        super().__init__()
        self._rate, self._where = rate, where

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sets the rate. Raises ModelError: it is no number, or the optimizer has a schedule of its own."""
        optimizer = self.model.optimizer
        version = int(optimizer.iterations)
        rate = self._rate(version)
        try:
            rate = float(rate)
        except (TypeError, ValueError):
            raise ModelError(f"{self._where}({version}): expected a learning rate, got {rate!r}") from None
        try:
            optimizer.learning_rate = rate
        except TypeError:
            problem = "the optimizer's learning rate is a schedule already; remove one of them"
            raise ModelError(f"{self._where}: {problem}") from None


def callbacks_from(value: Any, where: str) -> tuple[Any, ...]:
    """Keras callbacks from one, or a list of them.

    Raises:
        ModelError: something is no Keras callback.
    """
    values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    for each in values:
        if not isinstance(each, keras.callbacks.Callback):
            raise ModelError(f"{where}: expected a list of keras.callbacks.Callback, got {each!r}")
    return tuple(values)


def outputs_processor_from(value: Any, where: str) -> Any:
    """An instance of ElasticDL's `PredictionOutputsProcessor`.

    Raises:
        ModelError: it has no method `process(predictions, worker_id)`.
    """
    made = value() if isinstance(value, type) else value
    if not callable(getattr(made, "process", None)):
        raise ModelError(f"{where}: expected a method process(self, predictions, worker_id), got none")
    return made
