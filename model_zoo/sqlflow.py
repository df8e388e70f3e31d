"""The standard input function for tables: tf.Examples of any columns become one dense vector of features, and a label.

SQLFlow turns `SELECT … TRAIN regressor.DNN` into tf.Examples with one feature per column; `edl convert` makes the same
of CSV files. The models `regressor.DNN` and `classifier.DNN` take them with this input function:

    edl convert employees.csv --output=data/employees --label=salary
    edl train --model_zoo=model_zoo --model_def=regressor.DNN --input_fn=sqlflow.elasticdl_input_function \\
        --params="hidden_units=[10, 100, 20, 5], learning_rate=0.01, label_mean=50000.0, label_std=20000.0" \\
        --data='data/employees/*.recordio' --output=out/salary --num_epochs=20

Without `columns`, every column but the label is used, whatever it holds: each number and each text has a place in a
vector of `hash_width` numbers that follows from a hash of the column's name (feature hashing; Weinberger et al.,
"Feature Hashing for Large Scale Multitask Learning", ICML 2009). Two columns may meet in one place; a greater
`hash_width` makes that rarer. As nobody says how large the numbers are, x becomes sign(x) log(1 + |x|).

With `columns`, the vector has exactly those, in that order, and numbers as they are:

    --params="columns=['age', 'pixels:64', 'role:hash32'], label='salary'"

where `age` is one number, `pixels:64` are 64 numbers, and `role:hash32` is a text, as ones in 32 places by its hash.

With `schema`, which `edl sql` gives, features are what `edl_allreduce.contracts.schema_features.parse` says: numbers
normalised, texts as places in their vocabularies, NULLs known as such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from edl_allreduce.contracts import Mode, schema_features, vectorised
from edl_allreduce.schema import Schema


class Column(NamedTuple):
    """A wanted column: `width` numbers, or texts as ones in `width` places."""

    name: str
    width: int
    text: bool


class Cells(NamedTuple):
    """All columns of n records; k is the largest number of columns in a record.

    Attributes:
        names: the columns' names [n, k]; "" where a record has fewer.
        floats, whole, texts: values [n, k, most values in a cell], and how many of them each cell has [n, k].
    """

    names: Any
    floats: tuple[Any, Any]
    whole: tuple[Any, Any]
    texts: tuple[Any, Any]


@vectorised
def elasticdl_input_function(
    records: Any,
    mode: Mode = Mode.TRAINING,
    columns: Sequence[str] = (),
    label: str = "label",
    missing: float | None = None,
    hash_width: int = 1024,
    schema: Mapping[str, Any] | None = None,
) -> Any:
    """Features [n, width] and labels [n], float32, of n serialized tf.Examples; for prediction the features alone.

    With a schema they are those of `schema_features.parse`, and the arguments before it mean nothing.

    Args:
        records: a string tensor [n].
        mode: what the records are read for; a label is needed unless it is prediction.
        columns: those to use; empty: all but the label, hashed.
        label: the label's column; a number.
        missing: what stands for a number of `columns` that a record does not have (a text then has no place); None:
            that is an error. Without `columns`, what a record does not have adds nothing.
        hash_width: width of the vector when there are no `columns`.
        schema: of the table, as `Schema.to_params` has it.
    """
    if schema is not None:
        return schema_features.parse(records, Schema.from_params(schema), mode)
    wanted = [parse_column(column) for column in columns]
    cells = _cells(records)
    if wanted:
        features = tf.concat([_column(cells, column, missing) for column in wanted], axis=1)
    else:
        features = _hashed(cells, label, hash_width)
    if mode == Mode.PREDICTION:
        return features
    return features, _label(cells, label)


def parse_column(text: str) -> Column:
    """`age`, `pixels:64` or `role:hash32`.

    Raises:
        ValueError: the width is not of that form.
    """
    name, _, kind = text.rpartition(":") if ":" in text else (text, "", "1")
    found = re.fullmatch(r"(hash)?([1-9]\d*)", kind)
    if not name or not found:
        raise ValueError(f"columns: expected NAME, NAME:64 or NAME:hash32, got {text!r}")
    return Column(name, int(found[2]), bool(found[1]))


def _cells(records: Any) -> Cells:
    """Reads tf.Examples without knowing their columns, by the messages they are made of (tensorflow/core/example)."""
    begin = tf.strings.substr(records, 0, 1)  # the tag of an Example's only field; a row of CSV does not begin so
    told = "a record is no tf.Example; `edl convert` makes them of CSV files"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all((begin == "\n") | (begin == "")), [told])]):
        records = tf.identity(records)
    entries, _ = _decode(_message(records, "Example", "features"), "Features", "feature")
    names, values = (_message(entries, "Features.FeatureEntry", field) for field in ("key", "value"))
    kinds = (("Float", tf.float32), ("Int64", tf.int64), ("Bytes", tf.string))
    floats, whole, texts = (
        _decode(_message(values, "Feature", f"{kind.lower()}_list"), f"{kind}List", "value", dtype)
        for kind, dtype in kinds
    )
    return Cells(names, floats, whole, texts)


def _decode(messages: Any, name: str, field: str, dtype: Any = tf.string) -> tuple[Any, Any]:
    """A repeated field of each message: values [..., most values in a message], and how many each message has [...]."""
    flat = tf.pad(tf.reshape(messages, [-1]), [[0, 1]])  # the operation refuses to decode nothing
    counts, [values] = tf.io.decode_proto(flat, f"tensorflow.{name}", [field], [dtype])
    shape = tf.shape(messages)
    return tf.reshape(values[:-1], tf.concat([shape, tf.shape(values)[1:]], 0)), tf.reshape(counts[:-1], shape)


def _message(messages: Any, name: str, field: str) -> Any:
    """A field that each message has once or not at all; then it is empty."""
    return tf.strings.reduce_join(_decode(messages, name, field)[0], axis=-1)


def _hashed(cells: Cells, label: str, width: int) -> Any:
    n = tf.shape(cells.names, tf.int64)[0]
    names = cells.names[..., None]
    known = tf.not_equal(names, label)
    total = tf.zeros([n, width])
    for values, counts in (cells.floats, cells.whole):
        numbers = tf.cast(values, tf.float32)
        places = tf.strings.as_string(tf.range(tf.shape(values)[-1]))
        numbers = tf.sign(numbers) * tf.math.log1p(tf.abs(numbers))
        total += _scattered(names + "#" + places, numbers, known, counts, width)
    texts, counts = cells.texts
    total += _scattered(names + "=" + texts, tf.ones_like(texts, tf.float32), known, counts, width)
    return tf.ensure_shape(total, [None, width])


def _scattered(keys: Any, weights: Any, known: Any, counts: Any, width: int) -> Any:
    """Adds each weight at the place that its key's hash says, or subtracts it, in n vectors of `width`."""
    n = tf.shape(keys, tf.int64)[0]
    weights = tf.where(known & tf.sequence_mask(counts, tf.shape(keys)[-1]), weights, 0.0)
    hashes = tf.strings.to_hash_bucket_fast(keys, 2 * width)
    weights = tf.where(hashes % 2 == 0, weights, -weights)
    places = tf.range(n)[:, None, None] * width + hashes // 2
    return tf.reshape(tf.math.unsorted_segment_sum(weights, places, n * width), [n, width])


def _column(cells: Cells, column: Column, missing: float | None) -> Any:
    if column.text:
        return _texts(cells, column, missing is not None)
    advice = f"; {column.name}:hash32 among the columns gives it 32 places"
    return _numbers(cells, column, missing, advice)


def _label(cells: Cells, label: str) -> Any:
    return tf.reshape(_numbers(cells, Column(label, 1, False), None, "; `edl convert --label` numbers texts"), [-1])


def _numbers(cells: Cells, column: Column, missing: float | None, advice: str) -> Any:
    """A column's numbers [n, width], floats or whole."""
    here = tf.equal(cells.names, column.name)
    found = tf.zeros([tf.shape(here)[0], column.width])
    for values, _ in (cells.floats, cells.whole):
        found += _cut(tf.reduce_sum(tf.where(here[..., None], tf.cast(values, tf.float32), 0.0), axis=1), column.width)
    count = _count(here, cells.floats) + _count(here, cells.whole)
    empty = tf.equal(count, 0) & (missing is not None)
    no_text = tf.equal(_count(here, cells.texts), 0)
    checks = [
        tf.debugging.Assert(tf.reduce_all(no_text), [f"column {column.name} holds text{advice}"]),
        _assert_there(cells, column, empty | ~no_text | tf.equal(count, column.width)),
    ]
    with tf.control_dependencies(checks):
        return tf.where(empty[:, None], missing or 0.0, found)


def _texts(cells: Cells, column: Column, may_miss: bool) -> Any:
    """A column's texts as ones [n, width], by their hashes; whole numbers count as texts."""
    here = tf.equal(cells.names, column.name)
    total = tf.zeros([tf.shape(here)[0], column.width])
    for values, counts in (cells.texts, (tf.strings.as_string(cells.whole[0]), cells.whole[1])):
        there = here[..., None] & tf.sequence_mask(counts, tf.shape(values)[-1])
        hashes = tf.strings.to_hash_bucket_fast(values, column.width)
        total += tf.reduce_sum(tf.where(there[..., None], tf.one_hot(hashes, column.width), 0.0), axis=[1, 2])
    no_fraction = tf.reduce_all(tf.equal(_count(here, cells.floats), 0))
    checks = [
        tf.debugging.Assert(no_fraction, [f"column {column.name} holds fractions, which have no places by hash"]),
        _assert_there(cells, column, tf.reduce_any(here, axis=1) | may_miss),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(total)


def _count(here: Any, values_and_counts: tuple[Any, Any]) -> Any:
    """How many values of a kind each record has in a column [n]."""
    return tf.reduce_sum(tf.where(here, values_and_counts[1], 0), axis=1)


def _cut(numbers: Any, width: int) -> Any:
    """The first `width` numbers of each row, with zeros for those that are missing."""
    lacking = tf.maximum(0, width - tf.shape(numbers)[1])
    return tf.ensure_shape(tf.pad(numbers[:, :width], [[0, 0], [0, lacking]]), [None, width])


def _assert_there(cells: Cells, column: Column, good: Any) -> Any:
    """Names the columns of the first record that is not good."""
    first = tf.argmin(tf.pad(tf.cast(good, tf.int32), [[0, 1]], constant_values=1))
    names = tf.gather(tf.pad(cells.names, [[0, 1], [0, 0]]), first)
    has = tf.strings.reduce_join(tf.boolean_mask(names, tf.not_equal(names, "")), separator=", ")
    wanted = "a value" if column.text else f"{column.width} numbers" if column.width > 1 else "one number"
    told = tf.strings.join([f"a record does not have {wanted} in column {column.name}; its columns are: ", has])
    return tf.debugging.Assert(tf.reduce_all(good), [told])
