"""Wide & Deep: a linear model of crossed columns and a deep one of embeddings, trained together, for tables with texts.

Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016. The wide part memorises which combinations of texts
go with which label; the deep part generalises. The paper trains the wide part by FTRL and the deep part by AdaGrad;
here one optimizer (Adagrad) does both.

    python -m model_zoo.census make data/census
    edl train --model_zoo=model_zoo --model_def=regressor.wide_and_deep.MagicalWAD \\
        --data='data/census/train/*.recordio' --output=out/income --num_epochs=10
    edl evaluate --trained_model=out/income --data='data/census/test/*.recordio'

The columns are those of the synthetic table of `census.py`; params name others:

    --params="numbers=['age:int64', 'height'], texts=['role'], crosses=[['role', 'town']], label='salary'"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, vectorised

NUMBERS = ("age:int64", "education_num:int64", "hours_per_week:int64")
TEXTS = ("workclass", "education", "marital_status", "occupation", "sex")
CROSSES = (("education", "occupation"), ("marital_status", "sex"))


class MagicalWAD(keras.Model):
    """Wide & Deep with one number as output; mean squared error.

    Args:
        numbers: the columns of numbers: NAME, or NAME:int64 for whole numbers, as `edl convert` has them.
        texts: the columns of texts.
        crosses: combinations of texts for the wide part; every text is in it on its own as well.
        label: the label's column, a float.
        n_buckets: places for the texts of one column, or for the pairs of one cross, by their hash.
        embedding_dim: length of the vector that stands for a text in the deep part.
        hidden_units: width of each hidden layer of the deep part.
        learning_rate: Adagrad's.
        label_mean: about what the labels are on average.
        label_std: about how far they lie from it; the loss is in units of it.
    """

    def __init__(
        self,
        numbers: Sequence[str] = NUMBERS,
        texts: Sequence[str] = TEXTS,
        crosses: Sequence[Sequence[str]] = CROSSES,
        label: str = "income",
        n_buckets: int = 512,
        embedding_dim: int = 8,
        hidden_units: Sequence[int] = (64, 32),
        learning_rate: float = 0.02,
        label_mean: float = 40.0,
        label_std: float = 20.0,
    ) -> None:
        super().__init__(name="wide_and_deep")
        self.types = {
            name: tf.int64 if kind == "int64" else tf.float32
            for name, _, kind in (each.partition(":") for each in numbers)
        }
        self.texts, self.label, self.n_buckets = list(texts), label, n_buckets
        self.crosses = [[text] for text in texts] + [list(cross) for cross in crosses]
        self.learning_rate, self.label_mean, self.label_std = learning_rate, label_mean, label_std
        self.wide = [keras.layers.Embedding(n_buckets, 1, embeddings_initializer="zeros") for _ in self.crosses]
        self.embeddings = [keras.layers.Embedding(n_buckets, embedding_dim) for _ in texts]
        self.hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
        self.deep = keras.layers.Dense(1)

    def call(self, features: Any) -> Any:
        """Numbers [n, 1] of `numbers` [n, …], `texts` and `crosses` (places [n, …], int64)."""
        wide = [layer(features["crosses"][:, i]) for i, layer in enumerate(self.wide)]
        embedded = [layer(features["texts"][:, i]) for i, layer in enumerate(self.embeddings)]
        x = keras.ops.concatenate([features["numbers"], *embedded], axis=-1)
        for layer in self.hidden:
            x = layer(x)
        return self.label_mean + self.label_std * (keras.ops.sum(keras.ops.stack(wide), axis=0) + self.deep(x))

    def default_loss(self, labels: Any, outputs: Any) -> Any:
        """The squared error [n] of each record, in units of label_std²."""
        return tf.square((tf.reshape(labels, [-1]) - tf.reshape(outputs, [-1])) / self.label_std)

    def default_optimizer(self) -> Any:
        """Adagrad."""
        return keras.optimizers.Adagrad(self.learning_rate)

    def default_metrics(self) -> list[Any]:
        """In the labels' units."""
        return [keras.metrics.MeanAbsoluteError(name="mae"), keras.metrics.RootMeanSquaredError(name="rmse")]

    @vectorised
    def default_input(self, records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """Features as `call` takes them, and labels [n], of n tf.Examples; for prediction the features alone.

        Numbers are divided by ten, so that ages and hours are about as large as embeddings; a text that is missing is
        an empty one.
        """
        example = {name: tf.io.FixedLenFeature([], kind) for name, kind in self.types.items()}
        example |= {name: tf.io.FixedLenFeature([], tf.string, "") for name in self.texts}
        if mode != Mode.PREDICTION:
            example[self.label] = tf.io.FixedLenFeature([], tf.float32)
        parsed = tf.io.parse_example(records, example)
        crossed = [tf.strings.join([parsed[name] for name in cross], "\n") for cross in self.crosses]
        features = {
            "numbers": tf.stack([tf.cast(parsed[name], tf.float32) / 10 for name in self.types], axis=1),
            "texts": self._places([parsed[name] for name in self.texts]),
            "crosses": self._places(crossed),
        }
        return features if mode == Mode.PREDICTION else (features, parsed[self.label])

    def _places(self, texts: list[Any]) -> Any:
        return tf.stack([tf.strings.to_hash_bucket_fast(text, self.n_buckets) for text in texts], axis=1)
