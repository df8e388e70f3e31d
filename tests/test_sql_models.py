"""Models of the zoo on any table, by its schema: what the graph makes of the columns, and what training gives."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce import contracts, recordio, storage
from edl_allreduce.contracts import Mode, TrainingModel, schema_features
from edl_allreduce.contracts.user_errors import explain
from edl_allreduce.errors import DataError, ModelError
from edl_allreduce.schema import Schema, SchemaColumn
from edl_allreduce.spec import ModelSpec
from edl_allreduce.tf_example import example_bytes
from launcher.sqlflow.extract import Extracted, extract

pytest.importorskip("sqlalchemy", reason="not installed: pip install 'edl_allreduce[sql]'")
datasets: Any = pytest.importorskip("sklearn.datasets", reason="not installed: pip install 'edl_allreduce[demo]'")

ZOO = str(Path(__file__).parent.parent / "model_zoo")
SCHEMA = Schema(
    (
        SchemaColumn("age", "number", "integer", nulls=2, mean=40.0, std=10.0),
        SchemaColumn("when", "number", "timestamp", mean=1.6e15, std=2e6),
        SchemaColumn("role", "vocabulary", "text", vocabulary=("a", "boss", "élan")),
        SchemaColumn("note", "hash", "text", size=16),
        SchemaColumn("flat", "number", "float", mean=3.0, std=0.0),
        SchemaColumn("class", "vocabulary", "integer", vocabulary=("2", "10")),
    ),
    "class",
    100,
)
ROWS: list[dict[str, Any]] = [
    {"age": 50, "when": 1_600_000_003_000_000, "role": "élan", "note": "x", "flat": 3.0, "class": "10"},
    {"when": 1_600_000_000_000_000, "role": "nobody", "flat": 5.0, "class": "2"},
    {"age": 35, "when": 1_599_999_998_000_000, "note": "x", "class": "2"},
]
MODELS = ("classifier.DNN", "classifier.DeepFM")


def load(
    model_def: str, schema: Schema, mode: Mode = Mode.TRAINING, params: str = "", input_fn: str = ""
) -> TrainingModel:
    given = ", ".join(filter(None, [f"schema={schema.to_params()}", params]))
    chosen = {"input_fn": input_fn} if input_fn else {}
    return contracts.load(ModelSpec(model_zoo=ZOO, model_def=model_def, params=given, **chosen), mode)


def parse(training: TrainingModel, rows: Sequence[dict[str, Any]]) -> Any:
    return training.parse_batch(tf.constant([example_bytes(row) for row in rows], tf.string))


def test_what_the_columns_become() -> None:
    for input_fn in ("", "sqlflow.elasticdl_input_function"):
        features, labels = parse(load("classifier.DNN", SCHEMA, input_fn=input_fn), ROWS)
        expected = [[1.0, 1.5, 0.0, 0.0], [0.0, 0.0, 2.0, 1.0], [-0.5, -1.0, 0.0, 0.0]]
        np.testing.assert_array_equal(features["numbers"], expected)
        places = features["places"].numpy()
        assert places[:, 0].tolist() == [2, 3, -1] and places[1, 1] == -1
        assert places[0, 1] == places[2, 1] and 0 <= places[0, 1] < 16
        assert labels.numpy().tolist() == [1, 0, 0]  # the classes are sorted as numbers
    vector = schema_features.dense(features, SCHEMA).numpy()
    assert vector.shape == (3, 4 + 4 + 16) and vector[:, 4:].sum(axis=1).tolist() == [2, 1, 1]
    unlabelled = [{name: value for name, value in row.items() if name != "class"} for row in ROWS]
    alone = parse(load("classifier.DNN", SCHEMA, Mode.PREDICTION), unlabelled)
    np.testing.assert_array_equal(alone["numbers"], features["numbers"])
    np.testing.assert_array_equal(alone["places"], places)
    assert parse(load("classifier.DNN", SCHEMA, Mode.PREDICTION), [])["numbers"].shape == [0, 4]


def test_a_class_that_training_did_not_have_and_a_label_that_is_missing() -> None:
    training = load("classifier.DNN", SCHEMA)
    for row, told in (
        (ROWS[0] | {"class": "3"}, "column class holds a class that training did not have"),
        ({"age": 1}, "a record has no value in the label column class"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            parse(training, [ROWS[1], row])
        assert told in explain(raised.value, ZOO, training.graphs)


@pytest.mark.parametrize("model_def", ["classifier.DNN", "classifier.DeepFM", "regressor.DNN", "wide"])
def test_tables_of_numbers_alone_and_of_texts_alone(model_def: str) -> None:
    model_def = "regressor.wide_and_deep.MagicalWAD" if model_def == "wide" else model_def
    label = SchemaColumn("y", "number", "float", mean=100.0, std=10.0)
    label = (
        label if model_def.startswith("regressor") else SchemaColumn("y", "vocabulary", "text", vocabulary=("a", "b"))
    )
    for column, value in ((SCHEMA.columns[0], 30), (SCHEMA.columns[2], "boss")):
        schema = Schema((column, label), "y", 5)
        training = load(model_def, schema)
        rows = [{column.name: value, "y": 90.0 if label.kind == "number" else "b"}, {"y": 1.0 if label.mean else "a"}]
        features, labels = parse(training, rows)
        outputs = training.model(features)
        width = 1 if label.kind == "number" else 2
        assert outputs.shape == (2, width) and np.isfinite(training.loss(labels, outputs)).all()
        if width == 1:
            assert abs(float(outputs[0, 0]) - 100) < 50  # the untrained network gives numbers around the mean


@pytest.mark.parametrize(
    ("model_def", "schema", "problem"),
    [
        (
            "classifier.DNN",
            Schema(SCHEMA.columns[:2], "age"),
            "label 'age' is a number, so there are no classes; ",
        ),
        ("regressor.DNN", SCHEMA, "schema: the label 'class' names classes, so there is no mean; use a classifier"),
        (
            "classifier.DeepFM",
            Schema((*SCHEMA.columns[:2], SCHEMA.columns[2]), "role"),
            "DeepFM tells two classes apart, its label 'role' has 3: a, boss, élan; classifier.DNN takes any number",
        ),
    ],
)
def test_a_label_that_does_not_suit_the_model(model_def: str, schema: Schema, problem: str) -> None:
    with pytest.raises((ModelError, DataError)) as raised:
        load(model_def, schema)
    assert problem in str(raised.value)


@pytest.mark.parametrize("model_def", MODELS)
def test_keras_can_save_it_for_serving(model_def: str, tmp_path: Path) -> None:
    training = load(model_def, SCHEMA)
    training.build()
    training.model.export(str(tmp_path / "saved"), verbose=False)
    assert (tmp_path / "saved" / "saved_model.pb").is_file()


def test_wide_and_deep_crosses_texts() -> None:
    columns = (SCHEMA.columns[2], SCHEMA.columns[3], SchemaColumn("y", "number", "float", mean=0.0, std=1.0))
    schema = Schema(columns, "y", 3)
    training = load("regressor.wide_and_deep.MagicalWAD", schema, params="crosses=[['role', 'note']], n_buckets=64")
    features, _ = parse(training, [row | {"y": 1.0} for row in ROWS])
    training.build()
    assert [layer.input_dim for layer in training.model.wide] == [5, 17, 64]
    made = training.model._with_crosses(features)
    crossed = made["crosses"].numpy()[:, 0]
    assert crossed.min() >= 0 and crossed.max() < 64 and len(set(crossed)) == 3
    assert made["texts"].numpy()[:, 0].tolist() == [3, 4, 0]


def table(name: str, path: Path) -> Extracted:
    """One of scikit-learn's tables by way of SQLite; classes are there by their names."""
    data = getattr(datasets, f"load_{name}")()
    labels = map(float, data.target) if name == "diabetes" else (str(data.target_names[each]) for each in data.target)
    with sqlite3.connect(path / "t.db") as connection:
        columns = ", ".join(f'"{each}" REAL' for each in data.feature_names)
        connection.execute(f"CREATE TABLE t ({columns}, target)")
        marks = ", ".join("?" * (len(data.feature_names) + 1))
        rows = [(*map(float, row), label) for row, label in zip(data.data, labels, strict=True)]
        connection.executemany(f"INSERT INTO t VALUES ({marks})", rows)
    connection.close()
    target: Any = "number" if name == "diabetes" else "class"
    url = f"sqlite:///{path / 't.db'}"
    asked: dict[str, Any] = {"label": None, "columns": {}, "schema": None, "tell": lambda line: None}
    return extract(url, "SELECT * FROM t", str(path / "out"), target=target, **asked)


def train(training: TrainingModel, records: Sequence[bytes], steps: int) -> list[float]:
    features, labels = training.parse_batch(tf.constant(records))
    training.build()
    training.optimizer.build(training.model.trainable_variables)
    losses = []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(training.loss(labels, training.model(features, training=True)))
        training.optimizer.apply(tape.gradient(loss, training.model.trainable_variables))
        losses.append(float(loss))
    return losses


def read(found: Extracted) -> list[bytes]:
    return [record for file in storage.expand(found.data) for record in recordio.Reader(file)]


@pytest.mark.parametrize("name", ["diabetes", "wine", "breast_cancer"])
def test_the_same_as_a_model_written_by_hand(name: str, tmp_path: Path) -> None:
    found, steps, rate = table(name, tmp_path), 30, 0.01
    is_number = name == "diabetes"
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    classes = sorted(map(str, getattr(datasets, f"load_{name}")().target_names)) if not is_number else []
    keras.utils.set_random_seed(1)
    training = load("regressor.DNN" if is_number else "classifier.DNN", found.schema, params="hidden_units=[8, 4]")
    training.build()
    by_hand = keras.Sequential(
        [
            keras.Input([x.shape[1]]),
            keras.layers.Dense(8, "gelu"),
            keras.layers.Dense(4, "gelu"),
            keras.layers.Dense(1 if is_number else len(classes)),
        ]
    )
    by_hand.set_weights(training.model.get_weights())
    losses = train(training, read(found), steps)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    if is_number:
        targets, loss, options = (y - y.mean()) / y.std(), "mse", {"epsilon": 1e-4}
    else:
        names = getattr(datasets, f"load_{name}")().target_names
        targets, options = np.array([classes.index(str(names[number])) for number in y]), {}
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    by_hand.compile(keras.optimizers.Adam(rate, **options), loss)
    expected = by_hand.fit(scaled, targets, batch_size=len(x), epochs=steps, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert losses[-1] < 0.7 * losses[0]
