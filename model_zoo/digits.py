"""Handwritten digits, the project's first example: a small convolutional network on real data that needs no download.

The data are the 1,797 images of 8x8 pixels that scikit-learn ships (`sklearn.datasets.load_digits`; the test set of
E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).

    python -m model_zoo.digits make data/digits
    edl train --model_zoo=model_zoo --model_def=digits.Classifier --data='data/digits/train/*.recordio' \\
        --output=out/digits --num_epochs=20
    python -m model_zoo.digits evaluate out/digits data/digits/test/*.recordio

Three ways to write the same model are shown: the class `Classifier`; the function `functional_classifier`, whose
`default_…` functions stand beside it; and, for both, an input function of one record instead of a batch
(`--input_fn=digits.per_record_input`, slower).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

IMAGE = {"image": tf.io.FixedLenFeature([64], tf.float32)}
EXAMPLE = IMAGE | {"label": tf.io.FixedLenFeature([], tf.int64)}
"""A record: a tf.Example with 64 grey values from 0 to 16, row by row, and the digit."""


class Classifier(keras.Model):
    """Two convolutions and a hidden layer; gives 10 logits.

    No dropout, and smooth on purpose (GELU, average pooling, smoothed labels, an epsilon of 1e-4 in Adam): the last
    digits of float sums, which depend on how a batch is split, then stay last digits, and runs with different numbers
    of workers can be laid over each other. With ReLU, maximum pooling and Keras's epsilon the same noise grows to
    percents in 100 steps.

    Args:
        hidden_units: width of the hidden layer.
        learning_rate: Adam's.
    """

    def __init__(self, hidden_units: int = 64, learning_rate: float = 0.006) -> None:
        super().__init__(name="digits")
        self.hidden_units, self.learning_rate = hidden_units, learning_rate
        self.body = keras.Sequential(_layers(hidden_units))

    def call(self, images: Any) -> Any:
        """Logits [n, 10] of images [n, 8, 8]."""
        return self.body(images)

    def default_loss(self, labels: Any, outputs: Any) -> Any:
        """The loss [n] of each image; see `smoothed_cross_entropy`."""
        return smoothed_cross_entropy(labels, outputs)

    def default_optimizer(self) -> Any:
        """Adam."""
        return keras.optimizers.Adam(self.learning_rate, epsilon=1e-4)

    def default_metrics(self) -> list[Any]:
        """The share of digits told right."""
        return default_metrics()

    @staticmethod
    @vectorised
    def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """Images [n, 8, 8] from 0 to 1, and digits [n], of n records; for prediction the images alone."""
        if mode == Mode.PREDICTION:
            return tf.reshape(tf.io.parse_example(records, IMAGE)["image"], [-1, 8, 8]) / 16
        parsed = tf.io.parse_example(records, EXAMPLE)
        return tf.reshape(parsed["image"], [-1, 8, 8]) / 16, parsed["label"]


def smoothed_cross_entropy(labels: Any, outputs: Any) -> Any:
    """Cross entropy [n] of logits [n, 10], a tenth of each label spread over all digits; 0.50 is the least it can be.

    Label smoothing (Szegedy et al., "Rethinking the Inception Architecture", 2016) is worth a percent of accuracy here.
    """
    digits = tf.one_hot(labels, 10)
    return keras.losses.categorical_crossentropy(digits, outputs, from_logits=True, label_smoothing=0.1)


def functional_classifier(hidden_units: int = 64) -> Any:
    """The same network as a functional model."""
    images = keras.Input([8, 8])
    outputs = images
    for layer in _layers(hidden_units):
        outputs = layer(outputs)
    return keras.Model(images, outputs, name="digits")


def default_loss() -> Any:
    """The loss of `functional_classifier`."""
    return smoothed_cross_entropy


def default_optimizer(learning_rate: float = 0.006) -> Any:
    """The optimizer of `functional_classifier`; gets `learning_rate` from the params."""
    return keras.optimizers.Adam(learning_rate, epsilon=1e-4)


def default_metrics() -> list[Any]:
    """The metrics of `functional_classifier`."""
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


@vectorised
def default_input(records: Any, mode: Mode = Mode.TRAINING) -> Any:
    """The input function of `functional_classifier`."""
    return Classifier.default_input(records, mode)


def per_record_input(record: Any, mode: Mode = Mode.TRAINING) -> Any:
    """Image [8, 8] from 0 to 1, and digit, of one record; for prediction the image alone."""
    if mode == Mode.PREDICTION:
        return tf.reshape(tf.io.parse_single_example(record, IMAGE)["image"], [8, 8]) / 16
    parsed = tf.io.parse_single_example(record, EXAMPLE)
    return tf.reshape(parsed["image"], [8, 8]) / 16, parsed["label"]


def _layers(hidden_units: int) -> list[Any]:
    return [
        keras.layers.Reshape([8, 8, 1]),
        keras.layers.Conv2D(32, 3, padding="same", activation="gelu"),
        keras.layers.Conv2D(64, 3, padding="same", activation="gelu"),
        keras.layers.AveragePooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(hidden_units, activation="gelu"),
        keras.layers.Dense(10),
    ]


def make(folder: str) -> str:
    """Writes the digits as RecordIO, FOLDER/train and FOLDER/test, the same at every call; says what was done."""
    from sklearn.datasets import load_digits

    from model_zoo.data import split, write_splits

    images, labels = load_digits(return_X_y=True)
    examples = [
        {"image": image.astype("float32"), "label": int(label)} for image, label in zip(images, labels, strict=True)
    ]
    return write_splits(folder, "digits", split(examples, labels))


if __name__ == "__main__":
    from model_zoo.command import run

    run("digits", make, at_least=0.97)
