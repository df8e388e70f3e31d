# ruff: noqa: E501 (what users read stands here unbroken)
"""Losses, weights and metrics of one and of several outputs are what Keras's `compile` and `evaluate` make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.contracts import TrainingModel, load
from edl_allreduce.errors import ModelError
from tests.zoo import spec_of, write_zoo
from tests.zoo.against_keras import by_contract, by_keras

RANDOM = np.random.default_rng(3)
FEATURES = RANDOM.normal(size=[9, 2]).astype("float32")
A = RANDOM.integers(0, 2, [9]).astype("float32")
B = RANDOM.integers(0, 3, [9]).astype("int32")
WEIGHTS = RANDOM.uniform(0, 3, [9]).astype("float32")

FUNCTIONAL = """
def net():
    inputs = keras.Input([2])
    a = keras.layers.Dense(1, "sigmoid", name="a")(inputs)
    b = keras.layers.Dense(3, "softmax", name="b")(inputs)
    return keras.Model(inputs, OUTPUTS)
"""
SUBCLASS = """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.one = keras.layers.Dense(1, "sigmoid")
        self.other = keras.layers.Dense(3, "softmax")

    def call(self, inputs):
        a, b = self.one(inputs), self.other(inputs)
        return OUTPUTS

def net():
    return Net()
"""
LABELS_A = "tf.strings.to_number(record)"
LABELS_B = "tf.strings.to_number(record, tf.int32)"
LABELS_ONE_HOT = "tf.fill([3], 0.5)"


def net(
    folder: Path,
    outputs: str = "a",
    labels: str = LABELS_A,
    code: str = FUNCTIONAL,
    features: str = "tf.fill([2], 1.0)",
    **parts: Any,
) -> TrainingModel:
    """A model with the outputs a [n, 1] and b [n, 3], or one of them; parts are strings, or lists or dicts of them."""
    defaults = "".join(f"\ndefault_{name} = {value!r}" for name, value in {"optimizer": "sgd", **parts}.items())
    reader = f"\ndef default_input(record):\n    return {features}, {labels}\n"
    zoo = write_zoo(folder, net=code.replace("OUTPUTS", outputs) + reader + defaults)
    keras.utils.set_random_seed(7)
    return load(spec_of(zoo, "net.net"))


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize(
    ("output", "loss", "metrics", "labels", "values", "weights"),
    [
        ("a", "binary_crossentropy", ["accuracy", "AUC", "mae"], LABELS_A, A, WEIGHTS),
        ("a", "BinaryFocalCrossentropy", ["acc"], f"{LABELS_A}[None]", A[:, None], WEIGHTS),
        ("a", "crossentropy", {"a": ["Recall"]}, LABELS_A, A, None),
        ("b", "ce", ["accuracy"], LABELS_B, B, WEIGHTS),
        ("b", "SparseCategoricalCrossentropy", ["acc"], f"{LABELS_B}[None]", B[:, None], WEIGHTS),
        ("b", "crossentropy", ["accuracy"], LABELS_ONE_HOT, np.eye(3, dtype="float32")[B], None),
        ("b", ["mse"], [["mae"]], LABELS_ONE_HOT, np.eye(3, dtype="float32")[B], WEIGHTS),
    ],
)
def test_one_output(
    tmp_path: Path, output: str, loss: Any, metrics: Any, labels: str, values: Any, weights: Any
) -> None:
    training = net(tmp_path, output, labels, loss=loss, metrics=metrics)
    ours = by_contract(training, FEATURES, values, weights)
    same(ours, by_keras(training, FEATURES, values, weights, loss=loss, metrics=metrics))


TWO = {"loss": ["mse", "sparse_categorical_crossentropy"]}
NAMED = {"loss": {"b": "ce", "a": "mse"}}


PAIR = f"({LABELS_A}, {LABELS_B})"
NAMED_PAIR = f"{{'a': {LABELS_A}, 'b': {LABELS_B}}}"


@pytest.mark.parametrize(
    ("code", "outputs", "labels", "weights", "parts"),
    [
        (FUNCTIONAL, "[a, b]", PAIR, WEIGHTS, TWO | {"metrics": [["mae", "AUC"], "accuracy"]}),
        (FUNCTIONAL, "[a, b]", PAIR, None, NAMED | {"metrics": {"b": ["acc"]}, "loss_weights": {"a": 0.5, "b": 3.0}}),
        (
            FUNCTIONAL,
            "[a, b]",
            PAIR,
            WEIGHTS,
            TWO | {"loss_weights": [0.25, 2.0], "weighted_metrics": [["mae"], "acc"]},
        ),
        (FUNCTIONAL, "{'b': b, 'a': a}", NAMED_PAIR, WEIGHTS, NAMED | {"loss_weights": {"a": 0.5, "b": 3.0}}),
        (FUNCTIONAL, "[a, b]", PAIR, WEIGHTS, {"loss": ["mse", None], "metrics": [None, ["acc"]]}),
        (SUBCLASS, "(a, b)", PAIR, WEIGHTS, TWO),
        (SUBCLASS, "{'b': b, 'a': a}", NAMED_PAIR, WEIGHTS, NAMED | {"metrics": {"b": ["acc"]}}),
    ],
)
def test_several_outputs(
    tmp_path: Path, code: str, outputs: str, labels: str, weights: Any, parts: dict[str, Any]
) -> None:
    training = net(tmp_path, outputs, labels, code, **parts)
    values = {"a": A, "b": B} if labels == NAMED_PAIR else (A, B)
    same(by_contract(training, FEATURES, values, weights), by_keras(training, FEATURES, values, weights, **parts))


def test_metrics_that_are_objects_classes_and_functions(tmp_path: Path) -> None:
    code = """
def default_metrics(threshold):
    auc = keras.metrics.AUC(name="area")
    return [keras.metrics.BinaryAccuracy(threshold=threshold), auc, keras.losses.mean_absolute_error, swapped, keras.metrics.Recall]

def swapped(outputs, labels):
    return outputs[:, 0] - labels
"""
    zoo = write_zoo(
        tmp_path,
        net=FUNCTIONAL.replace("OUTPUTS", "a")
        + f"def default_input(record):\n    return tf.fill([2], 1.0), {LABELS_A}\n"
        + "default_loss, default_optimizer = 'mse', 'sgd'\n"
        + code,
    )
    keras.utils.set_random_seed(7)
    training = load(spec_of(zoo, "net.net", "threshold=0.7"))
    metrics = [
        keras.metrics.BinaryAccuracy(threshold=0.7),
        keras.metrics.AUC(name="area"),
        keras.losses.mean_absolute_error,
        keras.metrics.MeanMetricWrapper(lambda labels, outputs: outputs[:, 0] - labels, name="swapped"),
        keras.metrics.Recall(name="recall"),
    ]
    same(by_contract(training, FEATURES, A), by_keras(training, FEATURES, A, loss="mse", metrics=metrics))


def test_a_metric_that_learns_its_shape_late_is_built_when_the_model_is_loaded(tmp_path: Path) -> None:
    training = net(tmp_path, "b", LABELS_ONE_HOT, loss="mse", metrics=["F1Score", "R2Score"])
    shapes = [[tuple(variable.shape) for variable in each.metric.variables] for each in training.metrics]
    assert shapes[0] == [(3,)] * 4 and (3,) in shapes[1]
    assert all(not np.any(variable.numpy()) for metric in training.metrics for variable in metric.metric.variables)


def test_a_function_with_one_value_per_batch_counts_by_examples(tmp_path: Path) -> None:
    top = "\ndef top(k):\n    return keras.metrics.BinaryAccuracy(threshold=k, name='top')\n"
    code = FUNCTIONAL + "\ndef gap(labels, outputs):\n    return tf.reduce_mean(outputs) - tf.reduce_mean(labels)\n"
    training = net(tmp_path, "a", code=code + "\nmean = gap\n" + top, loss="mse")
    training = load(spec_of(str(tmp_path), "net.net", "k=0.25", metrics="gap, net.mean,mse,top"))
    assert [each.name for each in training.metrics] == ["gap", "gap_1", "mse", "top"]
    assert training.metrics[-1].metric.get_config()["threshold"] == 0.25
    metric = training.metrics[0].metric
    outputs = training.model(FEATURES)
    for rows in (slice(0, 7), slice(7, 9)):
        metric.update_state(tf.constant(A[rows]), outputs[rows])
    assert float(metric.result()) == pytest.approx(float(np.mean(outputs) - np.mean(A)), abs=1e-6)
    assert float(metric.count) == 9


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weights"])
def test_a_sum_and_a_loss_of_many_values_per_example(tmp_path: Path, weights: Any) -> None:
    code = """
def net():
    inputs = keras.Input([2])
    return keras.Model(inputs, keras.layers.Reshape([2, 3])(keras.layers.Dense(6)(inputs)))

def summed():
    return keras.losses.MeanAbsoluteError(reduction="sum")

def own(labels, outputs):
    return tf.square(outputs - labels)

def asks(labels, outputs, sample_weight=None):
    return tf.reduce_mean(tf.abs(outputs - labels)) * (1.0 if sample_weight is None else tf.reduce_mean(sample_weight))
"""
    labels = RANDOM.normal(size=[9, 2, 3]).astype("float32")
    theirs = None if weights is None else weights[:, None]  # Keras does not spread weights [n] over [n, 2] itself
    for loss, same_in_keras in (
        ("summed", keras.losses.MeanAbsoluteError(reduction="sum")),
        ("own", lambda labels, outputs: keras.ops.square(outputs - labels)),
        ("asks", None),
    ):
        training = net(tmp_path / loss, "", "tf.zeros([2, 3])", code, loss="mse")
        training = load(spec_of(str(tmp_path / loss), "net.net", loss=loss))
        ours = by_contract(training, FEATURES, labels, weights)
        if same_in_keras is None:
            mean = float(np.mean(np.abs(training.model(FEATURES) - labels)))
            assert ours["loss"] == pytest.approx(mean * (1 if weights is None else np.mean(weights)), rel=1e-5)
        else:
            spread = theirs[:, None] if loss == "own" and theirs is not None else theirs
            same(ours, by_keras(training, FEATURES, labels, spread, loss=same_in_keras))


def test_names_of_metrics_do_not_depend_on_what_the_process_did_before(tmp_path: Path) -> None:
    code = (
        FUNCTIONAL
        + """
def default_metrics():
    return [keras.metrics.AUC(), keras.metrics.AUC(num_thresholds=10), keras.metrics.BinaryAccuracy(), keras.metrics.AUC(name="auc_mine")]
"""
    )
    for _ in range(2):
        training = net(tmp_path, "a", code=code, loss="mse")
        assert [each.name for each in training.metrics] == ["auc", "auc_1", "binary_accuracy", "auc_mine"]


MASKED = """
def net():
    words = keras.Input([4], dtype="int32")
    embedded = keras.layers.Embedding(9, 3, mask_zero=True)(words)
    return words, keras.layers.Dense(5, "softmax")(keras.layers.LSTM(3, return_sequences=True)(embedded))
"""


@pytest.mark.parametrize("weights", [None, WEIGHTS[:3]], ids=["plain", "weights"])
@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"])
def test_masks_of_sequences(tmp_path: Path, loss: str, weights: Any) -> None:
    training = net(
        tmp_path,
        code=MASKED,
        features="tf.ones([4], tf.int32)",
        labels="tf.zeros([4])",
        loss=loss,
        metrics=["accuracy"],
    )
    words, tags = np.array([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0]]), RANDOM.integers(0, 5, [3, 4])
    spread = None if weights is None else weights[:, None]
    ours = by_contract(training, words, tags, weights)
    same(ours, by_keras(training, words, tags, spread, loss=loss, metrics=["accuracy"]))
    traced = tf.function(lambda words, tags: training.loss(tags, training.model(words)), autograph=False)
    assert weights is not None or float(tf.reduce_mean(traced(words, tags))) == pytest.approx(ours["loss"], rel=1e-6)


def test_a_metric_that_fails_is_named(tmp_path: Path) -> None:
    net(tmp_path, loss="mse")
    with pytest.raises(ModelError, match=r"^--metrics=top_k_categorical_accuracy: ValueError: Shape must be rank"):
        load(spec_of(str(tmp_path), "net.net", metrics="mae,top_k_categorical_accuracy"))


@pytest.mark.parametrize(
    ("outputs", "parts", "told"),
    [
        ("a", {"metrics": ["acuracy"]}, "net.py: default_metrics: neither in the model's file nor a Keras metric (did you mean 'Accuracy'?); got 'acuracy'"),
        ("a", {"metrics": [0.5]}, "net.py: default_metrics: expected a Keras metric, the name of one, or a function of (labels, outputs); got 0.5"),
        ("[a, b]", {"metrics": ["accuracy"]}, "net.py: default_metrics: expected a dict or list with the metrics of each of 2 outputs; got ['accuracy']"),
        ("[a, b]", {"metrics": {"c": "acc"}}, "net.py: default_metrics: 'c' is none of the model's outputs ['a', 'b']; got 'acc'"),
        ("[a, b]", {"loss": {"a": "mse", "c": "ce"}}, "net.py: default_loss: there is no output 'c'; the model has 'a', 'b'"),
        ("[a, b]", {"loss_weights": {"d": 1.0}}, "net.py: default_loss: weights of the losses: there is no output 'd'; the model has 'a', 'b'"),
        ("[a, b]", {"loss": ["mse"]}, "net.py: default_loss: expected one for each of the model's 2 outputs, got 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(tmp_path: Path, outputs: str, parts: dict[str, Any], told: str) -> None:
    labels = f"({LABELS_A}, {LABELS_B})" if "[" in outputs else LABELS_A
    with pytest.raises(ModelError) as error:
        net(tmp_path, outputs, labels, **{"loss": "mse", **parts})
    assert str(error.value) == f"{tmp_path}/{told}"


def test_weights_that_a_loss_cannot_respect_are_refused(tmp_path: Path) -> None:
    code = """
def scalar(labels, outputs):
    return tf.reduce_mean(outputs - labels)

def shared():
    return keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
"""
    net(tmp_path, code=FUNCTIONAL + code, loss="mse")
    for loss, told in (
        ("scalar", "--loss=scalar: with sample weights, a loss must give one value per example, or take sample_weight; it gives one value for the whole batch"),
        ("shared", "--loss=shared: reduction 'mean_with_sample_weight' makes an example's part depend on who shares its batch; use the default, 'sum_over_batch_size'"),
    ):  # fmt: skip
        training = load(spec_of(str(tmp_path), "net.net", loss=loss))
        training.loss(tf.constant(A), tf.constant(A[:, None]))
        with pytest.raises(ModelError) as error:
            training.loss(tf.constant(A), tf.constant(A[:, None]), tf.constant(WEIGHTS))
        assert str(error.value) == told
