"""What callbacks decide and remember, outside of a job."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from edl_allreduce.contracts.base import Input, TrainingModel
from edl_allreduce.worker.callbacks import Callbacks
from edl_allreduce.worker.step import SMALLEST_RATE

# Keras reads a variable in a way that NumPy 2 does not like any more.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Remembers(keras.callbacks.Callback):
    """Has attributes of every kind; the last two are no plain data."""

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.seen, self.names, self.best = seen, ["a", "b"], {"weights": [np.arange(3.0), np.float32(2)], "none": None}
        self.compare = keras.ops.less if seen else None
        self.open, self.call = object(), lambda: seen


def made(*callbacks: Any, rate: Any = 0.5) -> Callbacks:
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    training = TrainingModel(
        model, keras.optimizers.SGD(rate), lambda *_: 0.0, False, Input(True, lambda _: None, None), callbacks=callbacks
    )
    return Callbacks(training, num_epochs=3, steps=None, model_zoo="zoo")


def test_a_rate_of_zero_is_told_from_none() -> None:
    callbacks = made(keras.callbacks.LearningRateScheduler(lambda epoch: 0.0))
    callbacks.lead(True)
    assert callbacks.learning_rate == 0.5
    callbacks.epoch_begins(0)
    assert callbacks.learning_rate == SMALLEST_RATE > 0
    assert made(rate=keras.optimizers.schedules.CosineDecay(0.1, 10)).learning_rate == 0, "the schedule decides"


def test_what_a_callback_remembers_reaches_the_next_rank_0() -> None:
    first, second = made(Remembers(7)), made(Remembers(0))
    first.lead(True)
    assert first.epoch_ended(0, {"loss": 1.0}, last=False) is False
    second.memory.write(first.memory.read())
    second.lead(True)
    [old], [new] = first._callbacks, second._callbacks
    assert (new.seen, new.names, new.compare, new.best["none"]) == (7, ["a", "b"], keras.ops.less, None)
    np.testing.assert_array_equal(new.best["weights"][0], np.arange(3.0))
    assert new.best["weights"][1] == 2 and new.open is not old.open and new.call() == 0


def test_changed_weights_and_rates_are_noticed() -> None:
    def set_weights(epoch: int, logs: Any) -> None:
        if epoch == 1:
            callbacks._model.set_weights([np.ones((1, 1)), np.ones(1)])

    callbacks = made(keras.callbacks.LambdaCallback(on_epoch_end=set_weights))
    callbacks.lead(True)
    assert [callbacks.epoch_ended(epoch, {}, last=False) for epoch in range(3)] == [False, True, False]
    plateau = made(keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, mode="min"))
    plateau.lead(True)
    assert [plateau.epoch_ended(epoch, {"loss": 1.0}, last=False) for epoch in range(2)] == [False, True]
    assert plateau.learning_rate == pytest.approx(0.05)
