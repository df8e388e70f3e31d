"""Iris, written as ElasticDL's models are: a file with `custom_model`, `loss`, `optimizer`, `feed`, `eval_metrics_fn`.

    python -m model_zoo.tables make data
    edl train --model_zoo=model_zoo --model_def=elasticdl_iris --data='data/iris/train/*.recordio' \\
        --output=out/iris --num_epochs=50 --batch_size=32
    python -m model_zoo.tables evaluate out/iris data/iris/test/*.recordio
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode


def custom_model(hidden_units: int = 16) -> Any:
    """Four features to three logits."""
    features = keras.Input([4], name="features")
    hidden = keras.layers.Dense(hidden_units, activation="relu")(features)
    return keras.Model({"features": features}, keras.layers.Dense(3, name="logits")(hidden), name="iris")


def loss(labels: Any, predictions: Any) -> Any:
    """Mean cross entropy of a batch."""
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, predictions))


def optimizer(lr: float = 0.1) -> Any:
    """Plain gradient descent; gets `lr` from the params."""
    return keras.optimizers.SGD(lr)


def feed(dataset: Any, mode: Mode, metadata: Any) -> Any:
    """({"features": [4]}, label), or the features alone for prediction, of each record."""

    def parse(record: Any) -> Any:
        example = {"features": tf.io.FixedLenFeature([4], tf.float32)}
        if mode != Mode.PREDICTION:
            example["label"] = tf.io.FixedLenFeature([1], tf.int64)
        parsed = tf.io.parse_single_example(record, example)
        features = {"features": parsed["features"]}
        return features if mode == Mode.PREDICTION else (features, parsed["label"])

    dataset = dataset.map(parse)
    if mode == Mode.TRAINING:
        dataset = dataset.shuffle(buffer_size=1024)
    return dataset


def eval_metrics_fn() -> dict[str, Callable[[Any, Any], Any]]:
    """Accuracy of each record."""
    return {
        "accuracy": lambda labels, predictions: tf.equal(
            tf.argmax(predictions, 1, output_type=tf.int32), tf.cast(tf.reshape(labels, [-1]), tf.int32)
        )
    }
