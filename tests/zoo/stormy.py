"""The digits' model for the fault laboratory: its steps take as long as somebody wants, and it hangs when told to."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from model_zoo import digits

FOLDER = os.environ.get("STORM_FOLDER")  # where it is told so; without one it is the digits' model and nothing else


class Classifier(digits.Classifier):
    """The digits' model."""

    def call(self, images: Any) -> Any:
        """Logits [n, 10] of images [n, 8, 8]."""
        if FOLDER is not None:
            tf.py_function(_obstruct, [], [])
        return super().call(images)


def _obstruct() -> None:
    assert FOLDER is not None
    order = Path(FOLDER, f"hang-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        busy = order.read_text() == "busy"
        order.unlink()  # once; a worker that is started later must not hang as well
        while True:
            time.sleep(0 if busy else 3600)
    time.sleep(float(Path(FOLDER, "pace").read_text()))
