"""The records that the training benchmarks read, as RecordIO for us and as TFRecord for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.records import write_recordio, write_tfrecord
from edl_allreduce.tf_example import example_bytes

FILES = 4
PIXELS = 32 * 32 * 3


def _digit(number: int, chance: np.random.Generator) -> Mapping[str, Any]:
    return {"image": (16 * chance.random(64)).round().astype(np.float32), "label": number % 10}


def _image(number: int, chance: np.random.Generator) -> Mapping[str, Any]:
    return {"image": chance.integers(0, 256, PIXELS, np.uint8).tobytes(), "label": number % 10}


def _click(number: int, chance: np.random.Generator) -> Mapping[str, Any]:
    return {"ids": chance.integers(0, 50, 10) + 50 * np.arange(10), "label": number % 2}


MAKERS: Mapping[str, tuple[int, Callable[[int, np.random.Generator], Mapping[str, Any]]]] = {
    "digits": (20_000, _digit),
    "resnet20": (10_000, _image),
    "deepfm": (50_000, _click),
}
"""Of each model: how many records, and what is in one; of the shapes that the models in model_zoo take."""


def write(model: str, folder: Path) -> None:
    """Writes random records for a model, the same ones in both formats."""
    number, make = MAKERS[model]
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for file in range(FILES):
        examples = [example_bytes(make(each, chance)) for each in range(file, number, FILES)]
        write_recordio(folder / f"{file}.recordio", examples)
        write_tfrecord(folder / f"{file}.tfrecord", examples)
