"""The digits' model on CSV: a row is 64 grey values and the digit."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised
from model_zoo import digits

PIXELS = 64


class Classifier(digits.Classifier):
    """Takes rows of text."""

    @staticmethod
    @vectorised
    def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """Images [n, 8, 8] from 0 to 1, and digits [n], of n rows."""
        *pixels, label = tf.io.decode_csv(records, [[0.0]] * PIXELS + [[0]])
        return tf.reshape(tf.stack(pixels, axis=1), [-1, 8, 8]) / 16, label
