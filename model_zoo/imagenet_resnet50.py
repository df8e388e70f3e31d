"""ResNet-50 for ImageNet: Keras's own, with the paper's optimizer; reads ImageNet's usual TFRecords as they are.

He et al., "Deep Residual Learning for Image Recognition", 2015; the layers are those of `keras.applications.ResNet50`.
SGD with momentum 0.9, weight decay 1e-4 (decoupled), and a learning rate of 0.1 for a batch of 256, divided by 10 at
steps 150,000, 300,000 and 450,000 (30, 60 and 90 epochs of 1.28 million images).

    python -m model_zoo.imagenet_resnet50 make data/imagenet-like
    edl train --model_zoo=model_zoo --model_def=imagenet_resnet50.resnet50 \\
        --data='data/imagenet-like/train/*.recordio' --params="n_classes=10, image_size=64, learning_rate=0.01" \\
        --output=out/resnet50 --batch_size=32

The data made here are synthetic: small JPEGs of coloured stripes. A record is a tf.Example with the names that
ImageNet's TFRecords have: `image/encoded`, a JPEG or PNG of any size, and `image/class/label`, from 1 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode

IMAGE = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
LABEL = {"image/class/label": tf.io.FixedLenFeature([], tf.int64)}

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's training images, for red, green and blue from 0 to 255."""


def resnet50(n_classes: int = 1000, image_size: int = 224) -> Any:
    """Logits [n, n_classes] of standardised images [n, image_size, image_size, 3]; mirrors half of them in training.

    Args:
        n_classes: number of classes.
        image_size: width and height of the images, 32 or more.
    """
    images = keras.Input([image_size, image_size, 3], name="image")
    x = keras.layers.RandomFlip("horizontal")(images)
    body = keras.applications.ResNet50(
        weights=None, input_tensor=x, classes=n_classes, classifier_activation=None, name="resnet50"
    )
    return keras.Model(images, body.output, name="resnet50")


def default_loss() -> Any:
    """Cross entropy of the logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def default_optimizer(
    learning_rate: float = 0.1,
    boundaries: Sequence[int] = (150_000, 300_000, 450_000),
    weight_decay: float = 1e-4,
) -> Any:
    """Momentum; the learning rate is divided by 10 at each of the steps `boundaries`."""
    rates = [learning_rate / 10**i for i in range(len(boundaries) + 1)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(list(boundaries), rates)
    return keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=weight_decay)


def default_metrics() -> list[Any]:
    """The share of images whose class is the likeliest one, and whose class is among the five likeliest."""
    return [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top_5_accuracy"),
    ]


def default_input(record: Any, mode: Mode = Mode.TRAINING, image_size: int = 224) -> Any:
    """An image [image_size, image_size, 3] and its class from 0 on, of one record; for prediction the image alone.

    The largest square in the image's middle, less an eighth, resized: one fixed view, so that an epoch is the same
    whoever reads it.
    """
    parsed = tf.io.parse_single_example(record, IMAGE if mode == Mode.PREDICTION else IMAGE | LABEL)
    image = tf.io.decode_image(parsed["image/encoded"], channels=3, expand_animations=False)
    side = tf.cast(tf.reduce_min(tf.shape(image)[:2]), tf.float32) * 7 / 8
    square = tf.image.resize_with_crop_or_pad(image, tf.cast(side, tf.int32), tf.cast(side, tf.int32))
    image = (tf.image.resize(square, [image_size, image_size]) - MEAN) / STD
    image = tf.ensure_shape(image, [image_size, image_size, 3])
    return image if mode == Mode.PREDICTION else (image, parsed["image/class/label"] - 1)


def make(folder: str, *, records: int = 320, n_classes: int = 10, size: int = 80) -> str:
    """Writes synthetic JPEGs of SIZE x SIZE pixels into FOLDER/train and FOLDER/test; says what was done."""
    import numpy as np

    from model_zoo.data import cut, write_splits

    random = np.random.default_rng(0)
    colours = random.integers(0, 256, [n_classes, 2, 3])
    examples = []
    for label in random.integers(0, n_classes, records):
        stripes = np.arange(size + 8) // (2 + label) % 2
        image = colours[label][stripes][None].repeat(size, axis=0)[:, random.integers(0, 8) :][:, :size]
        noisy = (image + random.normal(0, 20, image.shape)).clip(0, 255).astype("uint8")
        jpeg = tf.io.encode_jpeg(noisy).numpy()
        examples.append({"image/encoded": jpeg, "image/class/label": int(label) + 1})
    return write_splits(folder, "imagenet-like", cut(examples))


if __name__ == "__main__":
    from model_zoo.command import run

    run("imagenet_resnet50", make, at_least=0.5)
