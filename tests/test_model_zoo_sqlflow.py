"""SQLFlow's input function makes one dense vector of any columns, or says which column is not what it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce import contracts
from edl_allreduce.contracts import Mode, TrainingModel
from edl_allreduce.contracts.user_errors import explain
from edl_allreduce.errors import ModelError
from edl_allreduce.params import format_params
from edl_allreduce.spec import ModelSpec
from edl_allreduce.tf_example import example_bytes

ZOO = str(Path(__file__).parent.parent / "model_zoo")
INPUT = "sqlflow.elasticdl_input_function"

EMPLOYEES: list[Mapping[str, Any]] = [
    {"name": "Ann", "role": "boss", "age": 51, "shoe": 38.5, "salary": 90.0},
    {"name": "Bob", "role": "clerk", "age": 33.0, "shoe": 44.0, "salary": 40},
    {"name": "Cai", "role": ["clerk", "cook"], "age": 29, "shoe": 41.0, "salary": 45.0},
]


def load(mode: Mode = Mode.TRAINING, model_def: str = "regressor.DNN", **params: Any) -> TrainingModel:
    spec = ModelSpec(model_zoo=ZOO, model_def=model_def, input_fn=INPUT, params=format_params(params))
    return contracts.load(spec, mode)


def parse(training: TrainingModel, rows: Sequence[Mapping[str, Any]]) -> Any:
    return training.parse_batch(tf.constant([example_bytes(row) for row in rows]))


def test_named_columns_are_the_vector_in_their_order() -> None:
    training = load(columns=["shoe", "age", "role:hash8"], label="salary")
    features, labels = parse(training, EMPLOYEES)
    assert training.input.element_spec[0].shape == [None, 10]
    np.testing.assert_array_equal(features[:, :2], [[38.5, 51], [44, 33], [41, 29]])
    np.testing.assert_array_equal(labels, [90, 40, 45])
    boss, clerk, both = features[:, 2:].numpy()
    assert boss.sum() == clerk.sum() == 1 and both.sum() == 2 and both[clerk.argmax()] >= 1


def test_columns_of_several_numbers() -> None:
    training = load(Mode.PREDICTION, columns=["a:3", "b:2"])
    rows: list[Mapping[str, Any]] = [{"a": [1, 2, 3], "b": [0.5, 0.25]}, {"a": [4.0, 5.0, 6.0], "b": [7, 8], "c": "x"}]
    np.testing.assert_array_equal(parse(training, rows), [[1, 2, 3, 0.5, 0.25], [4, 5, 6, 7, 8]])


def test_columns_nobody_has_named_are_found_and_hashed() -> None:
    training = load(label="salary", hash_width=4096)
    features, labels = (each.numpy() for each in parse(training, EMPLOYEES))
    assert training.input.element_spec[0].shape == [None, 4096] and labels.tolist() == [90, 40, 45]
    assert [np.count_nonzero(row) for row in features] == [4, 4, 5]  # the salary is not among them
    age = [column for column in features.T if np.allclose(np.abs(column), np.log1p([51, 33, 29]))]
    clerk = [column for column in features.T if np.array_equal(np.abs(column), [0, 1, 1])]
    assert len(age) == len(clerk) == 1
    alone = load(Mode.PREDICTION, label="salary", hash_width=4096)
    unlabelled = [{name: value for name, value in row.items() if name != "salary"} for row in EMPLOYEES]
    np.testing.assert_allclose(parse(alone, unlabelled), features, rtol=1e-6)
    np.testing.assert_allclose(parse(alone, EMPLOYEES), features, rtol=1e-6)


def test_a_record_is_the_same_whatever_is_beside_it() -> None:
    training = load(label="salary")
    together = parse(training, EMPLOYEES)[0]
    alone = tf.concat([parse(training, [row])[0] for row in EMPLOYEES], 0)
    np.testing.assert_allclose(together, alone, rtol=1e-6)  # vectorised logarithms differ in the last digit
    assert parse(load(Mode.PREDICTION), [{}, {}]).numpy().any() == 0
    assert load(Mode.PREDICTION).parse_batch(tf.constant([], tf.string)).shape == [0, 1024]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"columns": ["role"]}, "column role holds text; role:hash32 among the columns gives it 32 places"),
        ({"columns": ["agee"]}, "a record does not have one number in column agee; its columns are: age, name, role, "),
        ({"columns": ["age:2"]}, "a record does not have 2 numbers in column age; its columns are: "),
        ({"columns": ["roll:hash4"]}, "a record does not have a value in column roll; its columns are: "),
        ({"columns": ["shoe:hash4"]}, "column shoe holds fractions, which have no places by hash"),
        ({"columns": ["age"], "label": "name"}, "column name holds text; `edl convert --label` numbers texts"),
        ({"columns": ["age"], "label": "label"}, "a record does not have one number in column label; its columns "),
        ({"label": "pay"}, "a record does not have one number in column pay; its columns are: age, name, role, "),
    ],
)
def test_what_does_not_fit_is_told_by_column(params: dict[str, Any], told: str) -> None:
    training = load(**({"label": "salary"} | params))
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        parse(training, EMPLOYEES)
    assert told in explain(raised.value, ZOO, training.graphs)


@pytest.mark.parametrize("column", ["a:", "a:0", "a:hash", ":3", "a:x"])
def test_a_column_of_no_known_form_is_refused(column: str) -> None:
    with pytest.raises(ModelError, match=r"sqlflow\.py:\d+ in .*: expected NAME, NAME:64 or NAME:hash32, got"):
        load(columns=[column])


def test_a_number_that_is_missing_may_be_replaced() -> None:
    rows: list[Mapping[str, Any]] = [{"age": 3.0}, {"other": 1}]
    training = load(Mode.PREDICTION, columns=["age", "role:hash2"], missing=-1.0)
    np.testing.assert_array_equal(parse(training, rows), [[3, 0, 0], [-1, 0, 0]])


def test_what_is_no_example_is_an_error() -> None:
    training = load(Mode.PREDICTION)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a record is no tf.Example; `edl convert` "):
        training.parse_batch(tf.constant([b"Ann,boss,51"]))
    with pytest.raises(tf.errors.DataLossError):
        training.parse_batch(tf.constant([example_bytes({"age": 1.5})[:-1]]))


@pytest.mark.parametrize(
    ("model_def", "params"),
    [
        (
            "regressor.DNN",
            {"hidden_units": [10, 100, 20, 5], "learning_rate": 0.01, "label_mean": 58.0, "label_std": 22.0},
        ),
        ("classifier.DNN", {"hidden_units": [10, 100, 20, 5], "learning_rate": 0.01, "n_classes": 3}),
    ],
)
def test_the_statements_of_the_specification_train(model_def: str, params: dict[str, Any]) -> None:
    keras.utils.set_random_seed(0)
    training = load(model_def=model_def, label="label", **params)
    rows = [{**row, "label": row["salary"] if model_def == "regressor.DNN" else i} for i, row in enumerate(EMPLOYEES)]
    features, labels = parse(training, rows)
    training.build()
    training.optimizer.build(training.model.trainable_variables)
    losses = []
    for _ in range(30):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(training.loss(labels, training.model(features, training=True)))
        training.optimizer.apply(tape.gradient(loss, training.model.trainable_variables))
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]
