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

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, schema_features, vectorised
from edl_allreduce.schema import Schema

NUMBERS = ("age:int64", "education_num:int64", "hours_per_week:int64")
TEXTS = ("workclass", "education", "marital_status", "occupation", "sex")
_MIX = 1_000_003  # a prime
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
        label_mean: about what the labels are on average; None: what the schema says, or 40.
        label_std: about how far they lie from it; the loss is in units of it. None: what the schema says, or 20.
        schema: of a table's columns, as `edl sql` gives it; numbers, texts and label then come from it, and there are
            no crosses but those that are named here.
    """

    def __init__(
        self,
        numbers: Sequence[str] = NUMBERS,
        texts: Sequence[str] = TEXTS,
        crosses: Sequence[Sequence[str]] | None = None,
        label: str = "income",
        n_buckets: int = 512,
        embedding_dim: int = 8,
        hidden_units: Sequence[int] = (64, 32),
        learning_rate: float = 0.02,
        label_mean: float | None = None,
        label_std: float | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name="wide_and_deep")
        self.schema = Schema.from_params(schema) if schema else None
        texts = [column.name for column in self.schema.inputs if column.places] if self.schema else texts
        crosses = crosses if crosses is not None else () if self.schema else CROSSES
        mean, std = self.schema.label_scale if self.schema else (40.0, 20.0)
        sizes = [size + 1 for size in schema_features.text_sizes(self.schema)] if self.schema else None
        sizes = sizes or [n_buckets] * len(texts)
        self.types = {
            name: tf.int64 if kind == "int64" else tf.float32
            for name, _, kind in (each.partition(":") for each in numbers)
        }
        self.texts, self.label, self.n_buckets = list(texts), label, n_buckets
        self.crosses = [[text] for text in texts] + [list(cross) for cross in crosses]
        self.learning_rate = learning_rate
        self.label_mean = mean if label_mean is None else label_mean
        self.label_std = std if label_std is None else label_std
        wide = [*sizes, *(n_buckets for _ in crosses)]
        self.wide = [keras.layers.Embedding(size, 1, embeddings_initializer="zeros") for size in wide]
        self.embeddings = [keras.layers.Embedding(size, embedding_dim) for size in sizes]
        self.hidden = [keras.layers.Dense(units, activation="gelu") for units in hidden_units]
        self.deep = keras.layers.Dense(1)

    def call(self, features: Any) -> Any:
        """Numbers [n, 1] of `numbers` [n, …], `texts` and `crosses` (places [n, …], int64), or of those of a schema."""
        if self.schema is not None:
            features = self._with_crosses(features)
        wide = [layer(features["crosses"][:, i]) for i, layer in enumerate(self.wide)]
        embedded = [layer(features["texts"][:, i]) for i, layer in enumerate(self.embeddings)]
        x = keras.ops.concatenate([features["numbers"], *embedded], axis=-1)
        for layer in self.hidden:
            x = layer(x)
        return self.label_mean + self.label_std * sum(wide, self.deep(x))

    def _with_crosses(self, features: Any) -> Any:
        """What `default_input` gives without a schema, of a schema's features; a text that is NULL is in place 0."""
        places = tf.cast(features["places"], tf.int64) + 1  # when it saves, Keras gives floats
        crosses = []
        for cross in self.crosses:
            columns = [places[:, self.texts.index(name)] for name in cross]
            mixed = columns[0]
            for column in columns[1:]:
                mixed = (mixed * _MIX + column) % self.n_buckets
            crosses.append(mixed)
        stacked = keras.ops.stack(crosses, axis=1) if crosses else places
        return {"numbers": features["numbers"], "texts": places, "crosses": stacked}

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
        if self.schema is not None:
            return schema_features.parse(records, self.schema, mode)
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
