"""The digits model, each step of which takes its time: long enough for something to happen to the job."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf

from model_zoo.digits import Classifier as Good


class Classifier(Good):
    """Sleeps `pause` seconds whenever it is called; computes the same."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause

    def call(self, images: Any) -> Any:
        if self.pause:

            def sleep() -> Any:
                time.sleep(self.pause)
                return np.float32(0)

            images = images + tf.ensure_shape(tf.numpy_function(sleep, [], tf.float32), [])
        return super().call(images)
