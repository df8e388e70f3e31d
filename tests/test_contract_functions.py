# ruff: noqa: E501 (what users read stands here unbroken)
"""ElasticDL's module functions, callbacks, outputs processors, and what input functions may give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.contracts import Mode, TrainingModel, load
from edl_allreduce.errors import ModelError
from edl_allreduce.worker.parsing import parser_of
from tests.zoo import GOOD, line_of, spec_of, write_zoo
from tests.zoo.against_keras import by_contract, by_keras

RECORDS = [b"1", b"2", b"3", b"4", b"5"]
NUMBERS = np.array([1.0, 2.0, 3.0, 4.0, 5.0], "float32")
FEATURES = np.stack([NUMBERS, np.ones(5, "float32")], axis=1)

ELASTICDL = """
from edl_allreduce.contracts import BasePredictionOutputsProcessor

def custom_model():
    inputs = keras.Input([2], name="x")
    logits = keras.layers.Dense(1)(inputs)
    probs = keras.layers.Activation("sigmoid")(logits)
    return keras.Model(inputs, {"logits": logits, "probs": probs})

def loss(labels, predictions):
    logits = predictions["logits"]
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(
        labels=tf.cast(tf.reshape(labels, (-1, 1)), tf.float32), logits=logits))

def optimizer(lr=0.001):
    return keras.optimizers.SGD(lr)

def dataset_fn(dataset, mode, _):
    def parse(record):
        number = tf.strings.to_number(record)
        features = {"x": tf.stack([number, 1.0])}
        return features if mode == Mode.PREDICTION else (features, tf.cast(number > 2, tf.int64))
    return dataset.map(parse)

def eval_metrics_fn():
    return {
        "logits": {
            "accuracy": lambda labels, predictions: tf.equal(
                tf.cast(tf.reshape(predictions, [-1]) > 0.5, tf.int32),
                tf.cast(tf.reshape(labels, [-1]), tf.int32),
            )
        },
        "probs": {"auc": keras.metrics.AUC()},
    }

def callbacks():
    return [keras.callbacks.TerminateOnNaN()]

def learning_rate_scheduler(model_version):
    if model_version < 2:
        return 0.5
    return 0.25 if model_version < 3 else 0.125

class PredictionOutputsProcessor(BasePredictionOutputsProcessor):
    def __init__(self):
        self.seen = []

    def process(self, predictions, worker_id):
        self.seen.append((predictions, worker_id))
"""


def elasticdl(folder: Path, code: str = ELASTICDL, mode: Mode = Mode.TRAINING) -> TrainingModel:
    keras.utils.set_random_seed(4)
    return load(spec_of(write_zoo(folder, wide=code), "wide"), mode)


def test_a_model_of_elasticdls_zoo(tmp_path: Path) -> None:
    training = elasticdl(tmp_path)
    labels = np.array([0, 0, 1, 1, 1])
    ours = by_contract(training, FEATURES, labels)
    theirs = by_keras(
        training, FEATURES, {"logits": labels, "probs": labels},
        loss={"logits": keras.losses.BinaryCrossentropy(from_logits=True), "probs": None},
        metrics={"logits": [keras.metrics.BinaryAccuracy(threshold=0.5, name="accuracy")], "probs": [keras.metrics.AUC(name="auc")]},
    )  # fmt: skip
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert [type(each).__name__ for each in training.callbacks] == ["TerminateOnNaN", "LearningRateByVersion"]
    assert training.outputs_processor is None


def test_what_dataset_fn_maps_may_branch_on_tensors_as_tf_data_allows(tmp_path: Path) -> None:
    branches = """        number = tf.strings.to_number(record)
        if number > 2:
            number = number * 10
"""
    training = elasticdl(tmp_path, ELASTICDL.replace("        number = tf.strings.to_number(record)\n", branches))
    (features, _) = parser_of(training)(tf.constant([b"2", b"3"]))
    assert features.numpy().tolist() == [[2.0, 1.0], [30.0, 1.0]]


def test_an_outputs_processor_is_made_for_prediction(tmp_path: Path) -> None:
    prediction = elasticdl(tmp_path, mode=Mode.PREDICTION)
    assert prediction.metrics == () and prediction.input.element_spec.shape == [None, 2]
    prediction.build()
    prediction.outputs_processor.process("predictions", 3)
    assert prediction.outputs_processor.seen == [("predictions", 3)]
    assert len(prediction.in_mode(Mode.EVALUATION).metrics) == 2
    code = ELASTICDL.replace("def process(", "def treat(").replace("(BasePredictionOutputsProcessor)", "")
    with pytest.raises(
        ModelError,
        match=r"/wide\.py: PredictionOutputsProcessor: expected a method process\(self, predictions, worker_id\), got none$",
    ):
        elasticdl(tmp_path / "other", code, Mode.PREDICTION)


def test_metrics_as_elasticdls_older_models_write_them(tmp_path: Path) -> None:
    older = """
def eval_metrics_fn(predictions, labels):
    right = tf.stack([labels > 0, labels > 9], axis=1)
    return {"gap": tf.reduce_mean(predictions["probs"]), "loss": labels, "right": right}
"""
    training = elasticdl(tmp_path, ELASTICDL.partition("def eval_metrics_fn")[0] + older)
    told = by_contract(training, FEATURES, np.array([0, 0, 1, 1, 1]))
    assert told["loss_1"] == pytest.approx(0.6) and told["right"] == pytest.approx(0.3)
    assert told["gap"] == pytest.approx(float(np.mean(training.model(FEATURES)["probs"])))


def test_the_learning_rate_scheduler_sets_the_rate_before_each_step_as_fit_calls_it(tmp_path: Path) -> None:
    training = elasticdl(tmp_path)
    training.model.compile(training.optimizer, loss={"logits": "mse", "probs": None})
    rates: list[float] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: rates.append(float(training.optimizer.learning_rate))
    )
    labels = {"logits": NUMBERS, "probs": NUMBERS}
    for _ in range(2):  # the version goes on counting
        training.model.fit(FEATURES, labels, batch_size=2, verbose=0, callbacks=[*training.callbacks, note])
    assert rates == [0.5, 0.5, 0.25, 0.125, 0.125, 0.125]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("return 0.25 if", "return 'x' if"), "learning_rate_scheduler(2): expected a learning rate, got 'x'"),
        (("SGD(lr)", "SGD(keras.optimizers.schedules.CosineDecay(lr, 9))"), "learning_rate_scheduler: the optimizer's learning rate is a schedule already; remove one of them"),
    ],
)  # fmt: skip
def test_a_learning_rate_that_cannot_be_set(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    training = elasticdl(tmp_path, ELASTICDL.replace(*change))
    training.model.compile(training.optimizer, loss={"logits": "mse", "probs": None})
    labels = {"logits": NUMBERS, "probs": NUMBERS}
    with pytest.raises(ModelError) as error:
        training.model.fit(FEATURES, labels, batch_size=2, verbose=0, callbacks=training.callbacks)
    assert str(error.value) == f"{tmp_path}/wide.py: {told}"


CLASS = (
    """
class Line(keras.Model):
    def __init__(self, patience=3):
        super().__init__()
        self.patience = patience
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def default_callbacks(self, monitor="loss"):
        return [keras.callbacks.EarlyStopping(monitor, patience=self.patience)]
"""
    + GOOD
)


def test_callbacks_of_a_class_get_params_and_are_made_for_training_only(tmp_path: Path) -> None:
    spec = spec_of(write_zoo(tmp_path, line=CLASS), "line.Line", "patience=5, monitor='val_loss'")
    (callback,) = load(spec).callbacks
    assert (callback.patience, callback.monitor) == (5, "val_loss")
    assert load(spec, Mode.EVALUATION).callbacks == load(spec, Mode.PREDICTION).callbacks == ()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (CLASS.replace("[keras.callbacks.EarlyStopping(monitor, patience=self.patience)]", "[3]"), "Line.default_callbacks: expected a list of keras.callbacks.Callback, got 3"),
        (CLASS + "\n    def train_step(self, data):\n        return {}\n", "Line.train_step would not be called: steps are made here, from the model's call, loss, add_loss and metrics; remove it"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told(tmp_path: Path, code: str, told: str) -> None:
    with pytest.raises(ModelError) as error:
        load(spec_of(write_zoo(tmp_path, line=code), "line.Line"))
    assert str(error.value) == f"{tmp_path}/line.py: {told}"


FUNCTION = """
def wide_and_deep(units=1):
    wide, deep = keras.Input([1], name="wide"), keras.Input([1], name="deep")
    joined = keras.layers.Concatenate()([2.0 * wide, deep])
    outputs = keras.layers.Dense(units, kernel_initializer="ones")(joined)
    return RETURNED

default_loss, default_optimizer, default_metrics = "mse", "sgd", ["mae"]

def default_input(record):
    number = tf.strings.to_number(record)
    features = FEATURES
    return features, number, tf.cast(number, tf.int64)[None]
"""


@pytest.mark.parametrize("mark", ["", "@vectorised\n"], ids=["record", "vectorised"])
@pytest.mark.parametrize(
    ("returned", "features"),
    [
        ("[wide, deep], outputs", "[number[None], 10 * number[None]]"),
        ("keras.Model([wide, deep], outputs)", "(number[None], 10 * number[None])"),
        ("keras.Model([wide, deep], outputs)", "{'wide': number[None], 'deep': 10 * number[None], 'other': number}"),
        ("{'wide': wide, 'deep': deep}, outputs", "{'wide': number[None], 'deep': 10 * number[None]}"),
    ],
)
def test_several_inputs_and_weights(tmp_path: Path, mark: str, returned: str, features: str) -> None:
    code = (
        FUNCTION.replace("RETURNED", returned)
        .replace("FEATURES", features)
        .replace("def default_input", f"{mark}def default_input")
    )
    if mark:
        code = code.replace("number[None]", "number[:, None]").replace("tf.int64)[None]", "tf.int64)[:, None]")
    zoo = write_zoo(tmp_path, regressor__wide_and_deep=code)
    training = load(spec_of(zoo, "regressor.wide_and_deep.wide_and_deep"))
    assert training.input.specs[2] == tf.TensorSpec([None], tf.float32)
    batch = next(iter(training.batches(tf.data.Dataset.from_tensor_slices(RECORDS), 8)))
    assert batch[2].dtype == tf.float32 and batch[2].numpy().tolist() == [1, 2, 3, 4, 5]
    assert training.model(batch[0])[:, 0].numpy().tolist() == [12, 24, 36, 48, 60]
    numpy = tf.nest.map_structure(lambda each: each.numpy(), batch)
    assert by_contract(training, *batch) == pytest.approx(
        by_keras(training, *numpy, loss="mse", metrics=["mae"]), rel=1e-6
    )
    prediction = training.in_mode(Mode.PREDICTION)
    tf.nest.assert_same_structure(prediction.input.element_spec, training.input.specs[0])
    alone = next(iter(prediction.batches(tf.data.Dataset.from_tensor_slices(RECORDS), 8)))
    assert training.model(alone)[:, 0].numpy().tolist() == [12, 24, 36, 48, 60]


def test_features_that_are_a_pair_are_told_from_features_with_labels(tmp_path: Path) -> None:
    code = FUNCTION.replace("RETURNED", "[wide, deep], outputs").replace("FEATURES", "(number[None], number[None])")
    code = code.replace("default_input(record)", "default_input(record, mode)").replace(
        "return features,", "if mode == Mode.PREDICTION:\n        return features\n    return features,"
    )
    prediction = load(spec_of(write_zoo(tmp_path, line=code), "line.wide_and_deep"), Mode.PREDICTION)
    assert [tuple(each.shape) for each in prediction.input.element_spec] == [(None, 1), (None, 1)]


def test_features_that_are_a_named_tuple_stay_one(tmp_path: Path) -> None:
    code = CLASS.replace("self.dense(inputs)", "self.dense(inputs.x)")
    code = "import collections\nPoint = collections.namedtuple('Point', ['x', 'y'])\n" + code
    code = code.replace("return tf.stack([number, 1.0]), number", "return Point([number], number), number")
    training = load(spec_of(write_zoo(tmp_path, line=code), "line.Line", metrics="mae"))
    features, _ = next(iter(training.batches(tf.data.Dataset.from_tensor_slices(RECORDS), 8)))
    assert features.x.shape == [5, 1] and training.output_spec.shape == [None, 1]


def test_a_class_in_a_file_in_a_folder(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path, regressor__wide_and_deep=CLASS.replace("class Line", "class MagicalWAD"))
    training = load(spec_of(zoo, "regressor.wide_and_deep.MagicalWAD"))
    assert type(training.model).__name__ == "MagicalWAD" and training.metrics == ()
    write_zoo(tmp_path, regressor__broken=CLASS.replace("keras.layers.Dense(1)", "keras.layers.Dense(-1)"))
    with pytest.raises(ModelError) as error:
        load(spec_of(zoo, "regressor.broken.Line"))
    number = line_of(zoo, "regressor/broken", "Dense(-1)")
    assert str(error.value).startswith(f"{zoo}/regressor/broken.py:{number} in __init__: ValueError: ")


def test_what_a_models_file_imports_of_ours_is_light() -> None:
    code = "import edl_allreduce.contracts as c, sys; print(c.ElasticDLSpec.__name__, 'tensorflow' in sys.modules, 'keras' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["ElasticDLSpec", "False", "False"]


def test_one_vectorised_batch_of_anything_is_what_single_records_are(tmp_path: Path) -> None:
    """The two kinds of input function agree, weights included."""
    code = FUNCTION.replace("RETURNED", "[wide, deep], outputs").replace("FEATURES", "[number[None], number[None]]")
    single = load(spec_of(write_zoo(tmp_path / "one", line=code), "line.wide_and_deep"))
    many = "@vectorised\n" + code.partition("\ndef default_input")[2].replace("[None]", "[:, None]")
    several = (
        code.partition("\ndef default_input")[0]
        + "\n"
        + many.replace("@vectorised\n", "@vectorised\ndef default_input", 1)
    )
    batch = load(spec_of(write_zoo(tmp_path / "many", line=several), "line.wide_and_deep"))
    records = tf.data.Dataset.from_tensor_slices(RECORDS)
    for one, other in zip(single.batches(records, 2), batch.batches(records, 2), strict=True):
        tf.nest.assert_same_structure(one, other)
        pairs: Any = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
        assert all(np.array_equal(first, second) for first, second in pairs)
