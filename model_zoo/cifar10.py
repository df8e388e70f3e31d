"""ResNet-20 for CIFAR-10, with the layers, the augmentation and the schedule of the paper: 0.27 million parameters.

He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2: three stages of 16, 32 and 64 filters,
shortcuts without parameters (option A), weight decay 1e-4, momentum 0.9, learning rate 0.1, divided by 10 after 32,000
and 48,000 steps of 128 images; images are shifted by up to 4 pixels and mirrored. The paper has 91.25% after 64,000.

    python -m model_zoo.cifar10 make data/cifar10
    edl train --model_zoo=model_zoo --model_def=cifar10.resnet20 --data='data/cifar10/train/*.recordio' \\
        --output=out/cifar10 --num_epochs=5
    edl evaluate --trained_model=out/cifar10 --data='data/cifar10/test/*.recordio'

The data made here are synthetic: ten random colour patterns, shifted and noisy. Who has CIFAR-10's "binary version"
(cifar-10-batches-bin; A. Krizhevsky, 2009) adds `--binary=cifar-10-batches-bin` and gets the real 50,000 and 10,000;
then `--num_epochs=164` are the paper's 64,000 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

IMAGE = {"image": tf.io.FixedLenFeature([], tf.string)}
LABEL = {"label": tf.io.FixedLenFeature([], tf.int64)}
"""A record: a tf.Example with 32x32x3 bytes, row by row, each pixel red, green, blue; and the class."""

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's training images, for each colour."""


def resnet20(blocks_per_stage: int = 3, augment: bool = True, weight_decay: float = 1e-4) -> Any:
    """Logits [n, 10] of standardised images [n, 32, 32, 3].

    Args:
        blocks_per_stage: n of the paper: the network has 6n + 2 layers; 18 gives ResNet-110.
        augment: shift and mirror images while training.
        weight_decay: L2 penalty, halved as usual: the penalty's gradient is weight_decay times the weight.
    """
    images = keras.Input([32, 32, 3], name="image")
    x: Any = images
    if augment:
        x = keras.layers.RandomTranslation(4 / 32, 4 / 32, fill_mode="constant", interpolation="nearest")(x)
        x = keras.layers.RandomFlip("horizontal")(x)
    x = keras.layers.ReLU()(_conv_norm(x, 16, 1, weight_decay))
    for filters in (16, 32, 64):
        for block in range(blocks_per_stage):
            x = _block(x, filters, 2 if filters > 16 and block == 0 else 1, weight_decay)
    x = keras.layers.GlobalAveragePooling2D()(x)
    decay = keras.regularizers.L2(weight_decay / 2)
    outputs = keras.layers.Dense(10, kernel_initializer="he_normal", kernel_regularizer=decay, name="logits")(x)
    return keras.Model(images, outputs, name=f"resnet{6 * blocks_per_stage + 2}")


def _conv_norm(x: Any, filters: int, strides: int, weight_decay: float) -> Any:
    decay = keras.regularizers.L2(weight_decay / 2)
    x = keras.layers.Conv2D(
        filters, 3, strides, "same", use_bias=False, kernel_initializer="he_normal", kernel_regularizer=decay
    )(x)
    return keras.layers.BatchNormalization(momentum=0.9)(x)  # Torch's default, as in fb.resnet.torch


def _block(x: Any, filters: int, strides: int, weight_decay: float) -> Any:
    shortcut = x
    if strides > 1:  # every second pixel, and zeros for the new filters
        shortcut = keras.layers.AveragePooling2D(1, strides)(x)
        new = filters - x.shape[-1]
        shortcut = keras.ops.pad(shortcut, [[0, 0], [0, 0], [0, 0], [new // 2, new - new // 2]])
    x = keras.layers.ReLU()(_conv_norm(x, filters, strides, weight_decay))
    x = _conv_norm(x, filters, 1, weight_decay)
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))


def default_loss() -> Any:
    """Cross entropy of the logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def default_optimizer(learning_rate: float = 0.1, boundaries: Sequence[int] = (32000, 48000)) -> Any:
    """Momentum; the learning rate is divided by 10 at each of the steps `boundaries`."""
    rates = [learning_rate / 10**i for i in range(len(boundaries) + 1)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(list(boundaries), rates)
    return keras.optimizers.SGD(schedule, momentum=0.9)


def default_metrics() -> list[Any]:
    """The share of images told right."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


@vectorised
def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
    """Standardised images [n, 32, 32, 3] and classes [n] of n records; for prediction the images alone."""
    parsed = tf.io.parse_example(records, IMAGE if mode == Mode.PREDICTION else IMAGE | LABEL)
    pixels = tf.io.decode_raw(parsed["image"], tf.uint8, fixed_length=32 * 32 * 3)
    images = (tf.cast(tf.reshape(pixels, [-1, 32, 32, 3]), tf.float32) / 255 - MEAN) / STD
    return images if mode == Mode.PREDICTION else (images, parsed["label"])


def make(folder: str, *, records: int = 2000, binary: str = "") -> str:
    """Writes FOLDER/train and FOLDER/test, the same at every call; says what was done.

    BINARY is a folder with CIFAR-10's binary version; without it, RECORDS synthetic images are made.
    """
    from model_zoo.data import cut, write_splits

    return write_splits(folder, "cifar10", _from_binary(Path(binary)) if binary else cut(_synthetic(records)))


def _synthetic(records: int) -> list[dict[str, Any]]:
    import numpy as np

    random = np.random.default_rng(0)
    patterns = np.kron(random.uniform(40, 215, [10, 4, 4, 3]), np.ones([1, 8, 8, 1]))
    examples = []
    for label in random.integers(0, 10, records):
        image = np.roll(patterns[label], random.integers(-2, 3, 2), axis=(0, 1)) + random.normal(0, 25, [32, 32, 3])
        examples.append({"image": image.clip(0, 255).astype("uint8").tobytes(), "label": int(label)})
    return examples


def _from_binary(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Each record of a file is a label, then 1,024 bytes each of red, green and blue."""
    import numpy as np

    from edl_allreduce.errors import DataError

    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for part, names in files.items():
        for name in names:
            try:
                rows = np.fromfile(folder / name, np.uint8).reshape(-1, 1 + 3072)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"--binary: {folder / name}: is no file of CIFAR-10's binary version: {error}"
                ) from None
            images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            parts[part] += [
                {"image": image.tobytes(), "label": int(row[0])} for row, image in zip(rows, images, strict=True)
            ]
    return parts


if __name__ == "__main__":
    from model_zoo.command import run

    run("cifar10", make, at_least=0.8)
