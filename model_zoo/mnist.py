"""MNIST's convolutional network, as a function and as a class; the network of ElasticDL's and Keras's first examples.

Two convolutions, batch normalisation, maximum pooling and dropout, as in ElasticDL's model zoo
(`mnist_functional_api`, `mnist_subclass`). `elasticdl_mnist.py` has it once more, as an `ElasticDLSpec`.

    python -m model_zoo.mnist make data/mnist
    edl train --model_zoo=model_zoo --model_def=mnist.functional_model --data='data/mnist/train/*.recordio' \\
        --output=out/mnist --num_epochs=10 --batch_size=32
    edl evaluate --trained_model=out/mnist --data='data/mnist/test/*.recordio'

The data made here are real digits in MNIST's form, but not MNIST, which would have to be downloaded: the 1,797 images
of 8x8 pixels that scikit-learn ships, enlarged to 20x20 and centred in 28x28 as MNIST's are. Who has Keras's
`mnist.npz` adds `--npz=mnist.npz` and gets the 60,000 and 10,000 of the original.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

IMAGE = {"image": tf.io.FixedLenFeature([28, 28], tf.float32)}
LABEL = {"label": tf.io.FixedLenFeature([1], tf.int64)}
"""A record: a tf.Example with grey values from 0 to 255, row by row, and the digit."""


def functional_model() -> Any:
    """Logits [n, 10] of images [n, 28, 28] from 0 to 1."""
    images = keras.Input([28, 28], name="image")
    x = keras.layers.Reshape([28, 28, 1])(images)
    x = keras.layers.Conv2D(32, 3, activation="relu")(x)
    x = keras.layers.Conv2D(64, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Dropout(0.25)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(images, keras.layers.Dense(10, name="logits")(x), name="mnist_model")


def default_loss() -> Any:
    """Cross entropy of the logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def default_optimizer(learning_rate: float = 0.01) -> Any:
    """Plain gradient descent."""
    return keras.optimizers.SGD(learning_rate)


def default_metrics() -> list[Any]:
    """The share of images told right."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


@vectorised
def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
    """Images [n, 28, 28] from 0 to 1 and digits [n, 1] of n records; for prediction the images alone."""
    if mode == Mode.PREDICTION:
        return tf.io.parse_example(records, IMAGE)["image"] / 255
    parsed = tf.io.parse_example(records, IMAGE | LABEL)
    return parsed["image"] / 255, parsed["label"]


class CustomModel(keras.Model):
    """The same network as a class.

    Args:
        learning_rate: of plain gradient descent.
    """

    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__(name="mnist_model")
        self.learning_rate = learning_rate
        self.reshape = keras.layers.Reshape([28, 28, 1])
        self.conv1 = keras.layers.Conv2D(32, 3, activation="relu")
        self.conv2 = keras.layers.Conv2D(64, 3, activation="relu")
        self.batch_norm = keras.layers.BatchNormalization()
        self.pooling = keras.layers.MaxPooling2D(2)
        self.dropout = keras.layers.Dropout(0.25)
        self.flatten = keras.layers.Flatten()
        self.logits = keras.layers.Dense(10)

    def call(self, images: Any, training: bool = False) -> Any:
        """Logits [n, 10] of images [n, 28, 28] from 0 to 1."""
        x = self.conv2(self.conv1(self.reshape(images)))
        x = self.pooling(self.batch_norm(x, training=training))
        return self.logits(self.flatten(self.dropout(x, training=training)))

    def default_loss(self) -> Any:
        """That of `functional_model`."""
        return default_loss()

    def default_optimizer(self) -> Any:
        """Plain gradient descent."""
        return default_optimizer(self.learning_rate)

    def default_metrics(self) -> list[Any]:
        """Those of `functional_model`."""
        return default_metrics()

    @staticmethod
    @vectorised
    def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """That of `functional_model`."""
        return default_input(records, mode)


def make(folder: str, *, npz: str = "") -> str:
    """Writes FOLDER/train and FOLDER/test; says what was done. NPZ is a file mnist.npz, as Keras has it, to use."""
    from model_zoo.data import split, write_splits

    if npz:
        return write_splits(folder, "mnist", _from_npz(npz))
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    enlarged = tf.image.resize(small.reshape(-1, 8, 8, 1) / 16 * 255, [20, 20])
    images = tf.image.pad_to_bounding_box(enlarged, 4, 4, 28, 28).numpy()
    examples = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    return write_splits(folder, "mnist", split(examples, labels))


def _from_npz(path: str) -> dict[str, list[dict[str, Any]]]:
    import numpy as np

    from edl_allreduce.errors import DataError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                part: [
                    {"image": image.astype("float32"), "label": int(label)}
                    for image, label in zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)
                ]
                for part in ("train", "test")
            }
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"--npz: {path}: expected Keras's mnist.npz with x_train, y_train, x_test, y_test: {error}"
        ) from None


if __name__ == "__main__":
    from model_zoo.command import run

    run("mnist", make, at_least=0.97)
