"""What models make of a table's records by its schema, in the graph: numbers normalised, texts as places.

An input function uses `parse`, the model behind it `dense` or `number_width`; model_zoo/sqlflow.py shows how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from edl_allreduce.contracts.base import Mode
from edl_allreduce.schema import NUMBER, VOCABULARY, Schema, SchemaColumn

_HASHES = (1 << 63) - 1


def parse(records: Any, schema: Schema, mode: Mode) -> Any:
    """Features of n serialized tf.Examples, and labels [n]; for prediction the features alone.

    Features are `numbers` [n, number_width(schema)], float32: each number by its mean and deviation, 0 where there is
    none; then, for those columns that had NULLs in training, 1 where there is none, else 0. And `places` [n, texts],
    int64: the place of each text in the vocabulary, the place after it for one that is not there, or its hash; -1 for
    NULL. Labels are float32, or the numbers (int64) of classes.
    """
    label = schema.label_column if mode != Mode.PREDICTION else None
    columns = [*schema.inputs, *([label] if label else [])]
    kinds = {"int64": tf.int64, "float": tf.float32, "bytes": tf.string}
    parsed = tf.io.parse_example(records, {each.name: tf.io.RaggedFeature(kinds[each.feature]) for each in columns})
    cells = {name: (_first(values), tf.equal(values.row_lengths(), 0)) for name, values in parsed.items()}
    numbers, missing, places = [], [], []
    for column in schema.inputs:
        values, absent = cells[column.name]
        if column.kind == NUMBER:
            numbers.append(tf.where(absent, 0.0, _normalised(values, column)))
            if column.nulls:
                missing.append(tf.cast(absent, tf.float32))
        else:
            places.append(tf.where(absent, tf.constant(-1, tf.int64), _places(values, column)))
    features = {
        "numbers": _columns([*numbers, *missing], records, tf.float32),
        "places": _columns(places, records, tf.int64),
    }
    return (features, _label(*cells[label.name], label)) if label else features


def number_width(schema: Schema) -> int:
    """The width of `numbers`."""
    return sum(1 + bool(column.nulls) for column in schema.inputs if column.kind == NUMBER)


def text_sizes(schema: Schema) -> list[int]:
    """How many places there are for each of the columns of `places`."""
    return [column.places for column in schema.inputs if column.kind != NUMBER]


def dense(features: Any, schema: Schema) -> Any:
    """One vector [n, width] of the features: the numbers, and a one at each text's place."""
    places = tf.cast(features["places"], tf.int64)  # Keras, when it saves a model, tries it with floats
    ones = [tf.one_hot(places[:, i], size, dtype=tf.float32) for i, size in enumerate(text_sizes(schema))]
    return tf.concat([features["numbers"], *ones], axis=1)


def _first(values: Any) -> Any:
    """The value of each record [n]; of a record that has none, a zero or an empty text."""
    return values.to_tensor(shape=[None, 1])[:, 0]


def _columns(values: list[Any], records: Any, dtype: Any) -> Any:
    return tf.stack(values, axis=1) if values else tf.zeros([tf.shape(records)[0], 0], dtype)


def _normalised(values: Any, column: SchemaColumn) -> Any:
    """In double precision: microseconds since 1970 have more digits than a float."""
    return tf.cast((tf.cast(values, tf.float64) - column.mean) / (column.std or 1.0), tf.float32)


def _places(texts: Any, column: SchemaColumn) -> Any:
    if column.kind != VOCABULARY:
        return tf.strings.to_hash_bucket_fast(texts, column.size)
    if not column.vocabulary:
        return tf.zeros_like(texts, tf.int64)
    with tf.init_scope():
        hashes = tf.strings.to_hash_bucket_fast(list(column.vocabulary), _HASHES).numpy()
    order = np.argsort(hashes)
    found = tf.searchsorted(hashes[order], tf.strings.to_hash_bucket_fast(texts, _HASHES))
    found = tf.gather(order, tf.minimum(found, len(order) - 1))
    known = tf.equal(tf.gather(list(column.vocabulary), found), texts)
    return tf.where(known, found, tf.constant(len(order), tf.int64))


def _label(values: Any, absent: Any, column: SchemaColumn) -> Any:
    told = f"a record has no value in the label column {column.name}"
    checks = [tf.debugging.Assert(~tf.reduce_any(absent), [told])]
    labels = tf.cast(values, tf.float32) if column.kind == NUMBER else _places(values, column)
    if column.kind == VOCABULARY:
        known = tf.reduce_all(labels < len(column.vocabulary))
        checks.append(tf.debugging.Assert(known, [f"column {column.name} holds a class that training did not have"]))
    with tf.control_dependencies(checks):
        return tf.identity(labels)
