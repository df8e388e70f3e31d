"""Little model zoos, written where a test wants them, so that code and expectation stand side by side."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from edl_allreduce.spec import ModelSpec

HEAD = """\
import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

"""
HEAD_LINES = HEAD.count("\n")

GOOD = """
    def default_loss(self):
        return "mse"

    def default_optimizer(self):
        return keras.optimizers.SGD(0.5)

    def default_input(self, record):
        number = tf.strings.to_number(record)
        return tf.stack([number, 1.0]), number
"""
"""The three defaults of a class, for models that take [n, 2] and give [n, 1]."""


def write_zoo(folder: Path, **files: str) -> str:
    """Writes `name="code"` as name.py (`a__b` as a/b.py), with the usual imports in front; returns the folder."""
    for name, code in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + textwrap.dedent(code).lstrip("\n"), encoding="utf-8")
    return str(folder)


def line_of(zoo: str, name: str, marker: str) -> int:
    """The number of the line with `marker` in name.py."""
    lines = Path(zoo, f"{name}.py").read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if marker in line)


def spec_of(zoo: str, model_def: str, params: str = "", **overrides: Any) -> ModelSpec:
    """The settings of a model."""
    return ModelSpec(model_zoo=zoo, model_def=model_def, params=params, **overrides)
