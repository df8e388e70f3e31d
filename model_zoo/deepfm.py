"""DeepFM for click-through rates: a factorisation machine and a deep network that share their embeddings.

Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.

    python -m model_zoo.deepfm make data/ctr
    edl train --model_zoo=model_zoo --model_def=deepfm.DeepFM --data='data/ctr/train/*.recordio' \\
        --output=out/ctr --num_epochs=5 --batch_size=256
    edl evaluate --trained_model=out/ctr --data='data/ctr/test/*.recordio'

The data made here are synthetic: clicks drawn from a factorisation machine with random weights. A record is a
tf.Example with `ids`, one number per field (user, item, hour, …), distinct over all fields as in ElasticDL's own
DeepFM example, and `label`, 1 for a click. An advertiser's own logs become that by numbering each field's values; `edl
sql` does it for a table (TRAIN classifier.DeepFM).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts import Mode, schema_features, vectorised
from edl_allreduce.schema import Schema

N_FIELDS, IDS_PER_FIELD = 10, 50


class DeepFM(keras.Model):
    """First-order weights, pairwise products of embeddings, and a deep network on them; gives one logit.

    As published (ReLU, dropout, Adam), but smaller by default; the paper has embeddings of 10 numbers, 3 hidden layers
    of 400, and drops half of each.

    Args:
        n_ids: how many ids there are in all fields together.
        n_fields: ids per record.
        embedding_dim: length of an id's vector.
        hidden_units: width of each hidden layer.
        dropout: share of each hidden layer that is left out while training.
        learning_rate: Adam's.
        schema: of a table's columns, as `edl sql` gives it; each is a field, a number one whose vector is multiplied by
            it. There are then two logits, one per class.

    Raises:
        ValueError: the schema's label has not two classes.
    """

    def __init__(
        self,
        n_ids: int = N_FIELDS * IDS_PER_FIELD,
        n_fields: int = N_FIELDS,
        embedding_dim: int = 8,
        hidden_units: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        learning_rate: float = 0.005,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name="deepfm")
        self.n_fields, self.learning_rate = n_fields, learning_rate
        self.schema = Schema.from_params(schema) if schema else None
        if self.schema is not None:
            self._check_classes(self.schema)
            self.numbers = schema_features.number_width(self.schema)
            sizes = [1] * self.numbers + [size + 1 for size in schema_features.text_sizes(self.schema)]
            self.offsets = [sum(sizes[:field]) for field in range(len(sizes))]
            n_ids = sum(sizes)
        self.weight = keras.layers.Embedding(n_ids, 1, embeddings_initializer="zeros")
        self.embedding = keras.layers.Embedding(n_ids, embedding_dim)
        self.hidden: list[Any] = []
        for units in hidden_units:
            self.hidden += [keras.layers.Dense(units, activation="relu"), keras.layers.Dropout(dropout)]
        self.deep = keras.layers.Dense(1)

    @staticmethod
    def _check_classes(schema: Schema) -> None:
        if len(schema.classes) != 2:
            told = f"its label {schema.label!r} has {len(schema.classes)}: {', '.join(schema.classes[:20])}"
            raise ValueError(f"schema: DeepFM tells two classes apart, {told}; classifier.DNN takes any number")

    def call(self, ids: Any, training: bool = False) -> Any:
        """Logits [n, 1] of ids [n, n_fields]; of a schema's features, logits [n, 2]."""
        if self.schema is None:
            return self._logits(ids, None, training)
        numbers, places = ids["numbers"], tf.cast(ids["places"], tf.int64) + 1  # when it saves, Keras gives floats
        fields = tf.concat([tf.zeros_like(numbers, tf.int64), places], axis=1) + tf.constant(self.offsets, tf.int64)
        weights = tf.concat([numbers, tf.ones_like(places, tf.float32)], axis=1)
        logits = self._logits(fields, weights, training)
        return keras.ops.concatenate([keras.ops.zeros_like(logits), logits], axis=1)

    def _logits(self, ids: Any, weights: Any | None, training: bool) -> Any:
        vectors, first_order = self.embedding(ids), self.weight(ids)
        if weights is not None:
            vectors, first_order = vectors * weights[:, :, None], first_order * weights[:, :, None]
        # Half of (square of the sum − sum of the squares) is the sum of all pairs' products (Rendle, 2010).
        squares = keras.ops.square(keras.ops.sum(vectors, axis=1)) - keras.ops.sum(keras.ops.square(vectors), axis=1)
        x = keras.ops.reshape(vectors, [-1, vectors.shape[1] * vectors.shape[2]])
        for layer in self.hidden:
            x = layer(x, training=training) if isinstance(layer, keras.layers.Dropout) else layer(x)
        return keras.ops.sum(first_order, axis=1) + keras.ops.sum(squares, axis=1, keepdims=True) / 2 + self.deep(x)

    def default_loss(self) -> Any:
        """Cross entropy of the logits."""
        if self.schema is not None:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.BinaryCrossentropy(from_logits=True)

    def default_optimizer(self) -> Any:
        """Adam."""
        return keras.optimizers.Adam(self.learning_rate)

    def default_metrics(self) -> list[Any]:
        """The area under the ROC curve, which is what click-through models are compared by; with a schema, accuracy."""
        if self.schema is not None:
            return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        return [keras.metrics.AUC(from_logits=True, name="auc")]

    @vectorised
    def default_input(self, records: Any, mode: Mode = Mode.TRAINING) -> Any:
        """Ids [n, n_fields] and labels [n] of n tf.Examples; for prediction the ids alone."""
        if self.schema is not None:
            return schema_features.parse(records, self.schema, mode)
        example = {"ids": tf.io.FixedLenFeature([self.n_fields], tf.int64)}
        if mode != Mode.PREDICTION:
            example["label"] = tf.io.FixedLenFeature([], tf.int64)
        parsed = tf.io.parse_example(records, example)
        return parsed["ids"] if mode == Mode.PREDICTION else (parsed["ids"], tf.cast(parsed["label"], tf.float32))


def make(folder: str, *, records: int = 20000) -> str:
    """Writes synthetic clicks into FOLDER/train and FOLDER/test, the same at every call; says what was done."""
    import numpy as np

    from model_zoo.data import cut, write_splits

    random = np.random.default_rng(0)
    weights = random.normal(0, 0.5, N_FIELDS * IDS_PER_FIELD)
    vectors = random.normal(0, 0.3, [N_FIELDS * IDS_PER_FIELD, 4])
    ids = random.integers(0, IDS_PER_FIELD, [records, N_FIELDS]) + np.arange(N_FIELDS) * IDS_PER_FIELD
    chosen = vectors[ids]
    pairs = (np.square(chosen.sum(axis=1)) - np.square(chosen).sum(axis=1)).sum(axis=1) / 2
    logits = weights[ids].sum(axis=1) + pairs - 1
    labels = random.random(records) < 1 / (1 + np.exp(-logits))
    examples = [{"ids": row, "label": int(label)} for row, label in zip(ids, labels, strict=True)]
    return write_splits(folder, "ctr", cut(examples))


if __name__ == "__main__":
    from model_zoo.command import run

    run("deepfm", make)
