"""MNIST's network as an `ElasticDLSpec`, the class that ElasticDL's high-level API describes; its own example.

Taken from that document ("Model building phase"), with Keras's optimizer in place of TensorFlow 1's.

    python -m model_zoo.mnist make data/mnist
    edl train --model_zoo=model_zoo --model_def=elasticdl_mnist.MnistElasticDLSpec --params="lr=0.01" \\
        --data='data/mnist/train/*.recordio' --output=out/mnist-spec --num_epochs=10 --batch_size=32
    edl evaluate --trained_model=out/mnist-spec --data='data/mnist/test/*.recordio'
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import ElasticDLSpec, Mode


class MnistElasticDLSpec(ElasticDLSpec):
    """Two convolutions for images of 28x28 pixels; records as `mnist.py` makes them."""

    def create_model(self) -> Any:
        """Logits [n, 10] of {"image": [n, 28, 28]}."""
        inputs = keras.Input(shape=(28, 28), name="image")
        x = keras.layers.Reshape((28, 28, 1))(inputs)
        x = keras.layers.Conv2D(32, kernel_size=(3, 3), activation="relu")(x)
        x = keras.layers.Conv2D(64, kernel_size=(3, 3), activation="relu")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.MaxPooling2D(pool_size=(2, 2))(x)
        x = keras.layers.Dropout(0.25)(x)
        x = keras.layers.Flatten()(x)
        outputs = keras.layers.Dense(10)(x)
        return keras.Model(inputs={"image": inputs}, outputs=outputs, name="mnist_model")

    def create_optimizer(self, lr: float = 0.01) -> Any:
        """Plain gradient descent; gets `lr` from the params."""
        return keras.optimizers.SGD(learning_rate=lr)

    def create_loss(self, outputs: Any = None, labels: Any = None) -> Any:
        """Mean cross entropy of a batch."""
        labels = tf.reshape(labels, [-1])
        return tf.reduce_mean(
            input_tensor=tf.nn.sparse_softmax_cross_entropy_with_logits(logits=outputs, labels=labels)
        )

    def create_metrics(
        self, mode: Mode = Mode.TRAINING, outputs: Any = None, labels: Any = None, predictions: Any = None
    ) -> dict[str, Any]:
        """The share of images told right, in evaluations."""
        if mode == Mode.EVALUATION:
            labels = tf.reshape(labels, [-1])
            right = tf.equal(tf.argmax(outputs, 1, output_type=tf.int32), labels)
            return {"accuracy": tf.reduce_mean(input_tensor=tf.cast(right, tf.float32))}
        return {}

    def create_dataset(self, dataset: Any, mode: Mode) -> Any:
        """({"image": [28, 28] from 0 to 1}, digit [1]) of each record; for prediction the features alone."""

        def _parse_data(record: Any) -> Any:
            feature_description = {"image": tf.io.FixedLenFeature([28, 28], tf.float32)}
            if mode != Mode.PREDICTION:
                feature_description["label"] = tf.io.FixedLenFeature([1], tf.int64)
            r = tf.io.parse_single_example(record, feature_description)
            features = {"image": tf.math.divide(tf.cast(r["image"], tf.float32), 255.0)}
            if mode == Mode.PREDICTION:
                return features
            return features, tf.cast(r["label"], tf.int32)

        dataset = dataset.map(_parse_data)
        if mode != Mode.PREDICTION:
            dataset = dataset.shuffle(buffer_size=1024)
        return dataset
