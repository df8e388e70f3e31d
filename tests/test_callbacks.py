"""What callbacks decide and remember, outside of a job."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.contracts.base import Input, TrainingModel
from edl_allreduce.worker.callbacks import Callbacks
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import SMALLEST_RATE, TrainStep
from tests import step_cases

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


def kerass_own(folder: Path) -> list[Any]:
    """Callbacks that write; a LambdaCallback writes down its calls."""
    folder.mkdir()

    def note(*called: Any) -> None:
        with open(folder / "calls", "a") as file:
            file.write(f"{called}\n")

    installed = importlib.util.find_spec("tensorboard")  # Keras needs it for its own
    more = [keras.callbacks.TensorBoard(f"{folder}/board")] if installed else []
    return [
        *more,
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: note("epoch", epoch),
            on_epoch_end=lambda epoch, logs: note("end", epoch, sorted(logs)),
            on_train_batch_end=lambda batch, logs: note("batch", batch, sorted(logs)),
            on_train_begin=lambda logs: note("begin"),
            on_train_end=lambda logs: note("done", sorted(logs)),
        ),
        keras.callbacks.ModelCheckpoint(f"{folder}/{{epoch}}.weights.h5", save_weights_only=True),
        keras.callbacks.ModelCheckpoint(f"{folder}/best.keras", monitor="loss", save_best_only=True),
        keras.callbacks.CSVLogger(f"{folder}/log.csv"),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
    ]


def board(folder: Path) -> dict[tuple[str, int], float]:
    """The scalars of TensorBoard's event files by name and step."""
    found = {}
    for file in sorted(folder.rglob("events.*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_keras_own_write_what_they_write_under_fit(tmp_path: Path) -> None:
    case = step_cases.CASES["class_weight"]
    data, losses = case.data(), {"optimizer": case.optimizer(), "loss": case.loss}
    keras.utils.set_random_seed(3)
    model = case.model()
    model.compile(**losses, jit_compile=False)
    dataset = tf.data.Dataset.from_generator(lambda: iter(data), output_signature=step_cases.specs(data))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(data)))
    model.fit(dataset, epochs=3, shuffle=False, verbose=0, callbacks=kerass_own(tmp_path / "fit"))

    keras.utils.set_random_seed(3)
    training = replace(step_cases.training_of(case, data), callbacks=tuple(kerass_own(tmp_path / "step")), metrics=())
    callbacks = Callbacks(training, num_epochs=3, steps=len(data), model_zoo="zoo")
    ring = Ring("127.0.0.1", spared=0)
    ring.join()
    step = TrainStep(training, steered=True)
    callbacks.lead(True)
    for epoch in range(3):
        step.reset_metrics()
        callbacks.epoch_begins(epoch)
        for number, batch in enumerate(data):
            callbacks.step_begins(number)
            step.train(*map(tf.constant, batch), part=False, stop=False, learning_rate=callbacks.learning_rate)
            callbacks.step_ended(number, step.metric_results())
        callbacks.epoch_ended(epoch, step.metric_results(), last=epoch == 2)
    ring.leave()

    ours, theirs = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("step", "fit"))
    assert ours == theirs and {"calls", "best.keras", "log.csv", "3.weights.h5"} <= set(ours)
    assert (tmp_path / "step/calls").read_text() == (tmp_path / "fit/calls").read_text()
    for name in ("best.keras", "2.weights.h5"):
        kept = []
        for folder in ("step", "fit"):
            again = case.model()
            again.load_weights(tmp_path / folder / name)
            kept.append(again.get_weights())
        for one, other in zip(*kept, strict=True):
            np.testing.assert_allclose(one, other, 1e-5, 1e-6, err_msg=name)
    one, other = (
        np.loadtxt(tmp_path / name / "log.csv", delimiter=",", skiprows=1, usecols=(0, 1)) for name in ("step", "fit")
    )
    np.testing.assert_allclose(one, other, 1e-5)
    one, other = board(tmp_path / "step"), board(tmp_path / "fit")
    assert one == pytest.approx(other, rel=1e-5)
    assert not (tmp_path / "fit/board").exists() or ("epoch_learning_rate", 2) in one
