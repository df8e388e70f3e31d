"""A digits model with callbacks that decide (a stop, a rate, the best weights) and one that notes all calls."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import keras

from model_zoo.digits import Classifier as Good


class Notes(keras.callbacks.Callback):
    """Writes every call as a line of JSON into a file; each line appears whole."""

    def __init__(self, path: str, steps_too: bool, pause: float) -> None:
        super().__init__()
        self.path, self.pause, self.epochs_seen = path, pause, 0
        if steps_too:
            self.on_train_batch_begin = self._on_train_batch_begin
            self.on_train_batch_end = self._on_train_batch_end

    def note(self, hook: str, number: int | None, logs: Any) -> None:
        rate = float(self.model.optimizer.learning_rate)
        line = {"hook": hook, "number": number, "logs": dict(logs or {}), "rate": rate, "seen": self.epochs_seen}
        with open(self.path, "ab", buffering=0) as file:
            file.write(json.dumps(line | {"pid": os.getpid()}).encode() + b"\n")

    def on_train_begin(self, logs: Any = None) -> None:
        self.note("train_begin", None, logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.note("epoch_begin", epoch, logs)

    def _on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.note("batch_begin", batch, logs)

    def _on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.note("batch_end", batch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        self.note("test_begin", None, logs)

    def on_test_end(self, logs: Any = None) -> None:
        self.note("test_end", None, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs_seen += 1
        self.note("epoch_end", epoch, logs)
        time.sleep(self.pause)

    def on_train_end(self, logs: Any = None) -> None:
        self.note("train_end", None, logs)


class Watched(Good):
    """The digits with callbacks.

    Args:
        notes: file for `Notes`.
        steps_too: also every step is noted.
        pause: seconds that an epoch's end takes.
    """

    def __init__(self, notes: str, steps_too: bool = False, pause: float = 0.0) -> None:
        super().__init__()
        self.notes, self.steps_too, self.pause = notes, steps_too, pause

    def default_metrics(self) -> list[Any]:
        return ["accuracy"]

    def default_callbacks(self) -> list[Any]:
        return [
            Notes(self.notes, self.steps_too, self.pause),
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=0.02),
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=3, min_delta=0.02, restore_best_weights=True, verbose=0
            ),
        ]
