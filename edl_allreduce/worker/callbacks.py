"""Runs a model's Keras callbacks on rank 0 only, and lets their decisions and their memory travel with the weights.

A callback decides once, for all: what it sets (a stop, a learning rate, weights) reaches every worker. What it
remembers (how long it has waited, the best weights so far) is plain data: it is kept by every worker and in
checkpoints, so that the next rank 0 goes on where the last one was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import safetensors.numpy
import tensorflow as tf

from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.worker.step import SMALLEST_RATE

Logs = Mapping[str, float]

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_NOT_MEMORY = frozenset({"params", "_model"})
_ARRAY, _OP = "__array__", "__op__"


class Memory:
    """What callbacks remember, as bytes; takes part in checkpoints like a variable of the model."""

    path, dtype, shape = "callbacks/memory", "uint8", (None,)

    def __init__(self) -> None:
        with tf.device("CPU:0"):
            self._variable = tf.Variable(np.zeros(0, np.uint8), shape=tf.TensorShape([None]), trainable=False)

    @property
    def value(self) -> tf.Tensor:
        """The bytes, a tensor [n]."""
        return self._variable.read_value()

    def assign(self, value: Any) -> None:
        """Replaces the bytes."""
        self._variable.assign(np.asarray(value, np.uint8))

    def read(self) -> bytes:
        """The bytes."""
        return bytes(self._variable.numpy().tobytes())

    def write(self, data: bytes) -> None:
        """Replaces the bytes."""
        self.assign(np.frombuffer(data, np.uint8))


class Callbacks:
    """The callbacks of one model.

    Args:
        training: the model; its callbacks see its optimizer as `self.model.optimizer`.
        num_epochs, steps: as Keras tells them in `params`; steps None: not known.
        model_zoo: the user's folder, to name their line in an error.
    Attributes:
        memory: what they remember, as of the newest epoch's end.
        each_step: whether they want to hear of every step.
    """

    def __init__(self, training: TrainingModel, num_epochs: int, steps: int | None, model_zoo: str) -> None:
        self._model, self._optimizer, self._zoo = training.model, training.optimizer, model_zoo
        self._callbacks: Sequence[keras.callbacks.Callback] = training.callbacks
        self._params = {"verbose": 0, "epochs": num_epochs, "steps": steps}
        self._active = False
        self._stopped = ""
        self.memory = Memory()
        self.each_step = any(_overrides(each, name) for each in self._callbacks for name in _BATCH_HOOKS)

    @property
    def stopped(self) -> str:
        """Which callback wants training to end; empty: none."""
        return self._stopped

    @property
    def learning_rate(self) -> float:
        """The rate for the next step; 0 where a schedule decides it."""
        if isinstance(self._optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return 0.0
        return float(self._optimizer.learning_rate) or SMALLEST_RATE

    def lead(self, leads: bool) -> None:
        """A round begins in which this worker is rank 0, or is not."""
        if leads and not self._active:
            self._model.optimizer, self._model.stop_training = self._optimizer, False
            for callback in self._callbacks:
                callback.set_params(self._params)
                callback.set_model(self._model)
            self._all("on_train_begin", {})
            _remember(self._callbacks, self.memory.read())
            self._stopped = ""
        self._active = leads

    def epoch_begins(self, epoch: int) -> None:
        """Before the first step of an epoch, or of this worker as rank 0 in it."""
        self._all("on_epoch_begin", epoch, {})

    def step_begins(self, number: int) -> None:
        """Before a step; `number` counts from 0 in the epoch."""
        self._all("on_train_batch_begin", number, {})

    def step_ended(self, number: int, logs: Logs) -> None:
        """After a step."""
        self._all("on_train_batch_end", number, dict(logs))

    def evaluation_begins(self) -> None:
        """Before an evaluation."""
        self._all("on_test_begin", {})

    def evaluation_ended(self, logs: Logs) -> None:
        """After an evaluation."""
        self._all("on_test_end", dict(logs))

    def epoch_ended(self, epoch: int, logs: Logs, last: bool) -> bool:
        """After an epoch's last step and evaluation; says whether weights or the learning rate have been changed.

        Args:
            last: nothing comes after it, even if no callback wants to stop.
        """
        before, rate = [tf.convert_to_tensor(each.value) for each in self._model.weights], self.learning_rate
        self._all("on_epoch_end", epoch, dict(logs))
        if last or self._stopped:
            self._all("on_train_end", dict(logs))
        self.memory.write(_memory_of(self._callbacks))
        after = [tf.convert_to_tensor(each.value) for each in self._model.weights]
        same = all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
        return not same or rate != self.learning_rate

    def _all(self, hook: str, *arguments: Any) -> None:
        """Calls a hook of each; all get the same logs, so that one sees what another has added, as under `fit`."""
        for callback in self._callbacks:
            with user_code(self._zoo, f"{type(callback).__name__}.{hook}"):
                getattr(callback, hook)(*arguments)
            if self._model.stop_training and not self._stopped:
                self._stopped = type(callback).__name__


def _overrides(callback: keras.callbacks.Callback, name: str) -> bool:
    own = name in vars(callback)  # as LambdaCallback does it
    return own or getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name)


def _memory_of(callbacks: Sequence[keras.callbacks.Callback]) -> bytes:
    """All plain attributes of the callbacks: numbers, texts, arrays, Keras's operations, lists and dicts of them."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    kept = []
    for callback in callbacks:
        own = {name: value for name, value in vars(callback).items() if name not in _NOT_MEMORY}
        kept.append({name: _packed(value, arrays) for name, value in own.items() if _is_plain(value)})
    text = json.dumps(kept).encode()
    return len(text).to_bytes(8, "little") + text + safetensors.numpy.save(arrays)


def _remember(callbacks: Sequence[keras.callbacks.Callback], memory: bytes) -> None:
    if not memory:
        return
    end = 8 + int.from_bytes(memory[:8], "little")
    arrays = safetensors.numpy.load(memory[end:])
    for callback, kept in zip(callbacks, json.loads(memory[8:end]), strict=True):
        for name, value in kept.items():
            setattr(callback, name, _unpacked(value, arrays))


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if callable(value):  # such as the comparison that Keras's own choose by the metric's name
        return getattr(keras.ops, getattr(value, "__name__", ""), None) is value
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        names_fit = all(isinstance(name, str) and name not in (_ARRAY, _OP) for name in value)
        return names_fit and all(map(_is_plain, value.values()))
    return False


def _packed(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[str(len(arrays))] = np.ascontiguousarray(value)
        return {_ARRAY: str(len(arrays) - 1)}
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        return {_OP: value.__name__}
    if isinstance(value, (list, tuple)):
        return [_packed(each, arrays) for each in value]
    if isinstance(value, dict):
        return {name: _packed(each, arrays) for name, each in value.items()}
    return value


def _unpacked(value: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, arrays) for each in value]
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        if _OP in value:
            return getattr(keras.ops, value[_OP])
        return {name: _unpacked(each, arrays) for name, each in value.items()}
    return value
