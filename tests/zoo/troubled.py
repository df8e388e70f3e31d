"""Digits models that get into trouble on one worker, as a user's code may: for the tests of faults."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised
from model_zoo.digits import Classifier as Good

SECONDS_PER_RECORD = 0.002
HELD_SECONDS = 0.3


class Held(Good):
    """Its steps take their time as long as a file is there, so that what the job waits for has the cores meanwhile.

    Args:
        held_by: the file.
    """

    def __init__(self, held_by: str) -> None:
        super().__init__()
        self.held_by = held_by

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        tf.py_function(lambda: time.sleep(HELD_SECONDS if os.path.exists(self.held_by) else 0), [], [])
        return super().call(inputs)


def _wait_while_wanted(images: tf.Tensor) -> tf.Tensor:
    """Loops for ever in the one process that takes the file named by TROUBLE away."""
    try:
        os.unlink(os.environ["TROUBLE"])
    except (KeyError, FileNotFoundError):
        return images
    while True:
        time.sleep(1)


class Looping(Held):
    """Its call never returns, once, on one worker, when the file TROUBLE is there."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        waited = tf.py_function(_wait_while_wanted, [inputs], inputs.dtype)
        waited.set_shape(inputs.shape)
        return super().call(waited)


def _take_time(records: tf.Tensor) -> tf.Tensor:
    if "--worker_id=1" in sys.argv and os.path.exists(os.environ["TROUBLE"]):
        time.sleep(SECONDS_PER_RECORD * len(records))
    return records


class Slow(Good):
    """Reading a record takes worker 1 some milliseconds, as long as the file TROUBLE is there."""

    @staticmethod
    @vectorised
    def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
        slowly = tf.py_function(_take_time, [records], tf.string)
        slowly.set_shape(records.shape)
        return Good.default_input(slowly, mode)
