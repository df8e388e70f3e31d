# ruff: noqa: E501 (what users read stands here unbroken)
"""ElasticDLSpec and TrainSpec: what they make is what plain Keras makes, and what they lack is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.contracts import Mode, load
from edl_allreduce.errors import ModelError
from tests.zoo import line_of, spec_of, write_zoo
from tests.zoo.against_keras import by_contract, by_keras

RECORDS = [b"1", b"2", b"3", b"4", b"5"]
NUMBERS = np.array([1.0, 2.0, 3.0, 4.0, 5.0], "float32")
FEATURES = np.stack([NUMBERS, np.ones(5, "float32")], axis=1)

IMPORTS = "from edl_allreduce.contracts import BasePredictionOutputsProcessor, ElasticDLSpec, TrainSpec\n"

SPEC = (
    IMPORTS
    + """
class Line(ElasticDLSpec):
    def __init__(self, context, units=1, **others):
        super().__init__(context)
        assert context is None
        self.units, self.others = units, others
        self.auc = keras.metrics.AUC()

    def create_model(self, bias=0.0):
        inputs = keras.Input([2])
        return inputs, keras.layers.Dense(self.units, bias_initializer=keras.initializers.Constant(bias))(inputs)

    def create_optimizer(self, lr=0.1):
        return keras.optimizers.SGD(lr)

    def create_loss(self, prediction, truth):
        return tf.square(prediction - truth)

    def create_metrics(self, mode=None, outputs=None, labels=None, predictions=None):
        if mode != Mode.EVALUATION:
            return {}
        return METRICS

    def create_dataset(self, records, mode):
        def parse(record):
            number = tf.strings.to_number(record)
            features = tf.stack([number, 1.0])
            return features if mode == Mode.PREDICTION else (features, number)
        return records.map(parse).shuffle(99)
"""
)


def test_elasticdls_mnist_example() -> None:
    keras.utils.set_random_seed(1)
    training = load(spec_of("tests/zoo", "mnist_spec.MnistElasticDLSpec", "lr=0.25"))
    assert isinstance(training.optimizer, keras.optimizers.SGD) and float(training.optimizer.learning_rate) == 0.25
    assert training.metrics == ()
    random = np.random.default_rng(0)
    images, labels = random.uniform(0, 255, [6, 28, 28]).astype("float32"), random.integers(0, 10, [6, 1])
    parsed = next(iter(training.batches(records_of(images, labels), 8)))
    assert np.allclose(parsed[0], images / 255) and parsed[1].numpy().tolist() == labels.tolist()
    evaluation = training.in_mode(Mode.EVALUATION)
    assert evaluation.model is training.model
    ours = by_contract(evaluation, *parsed)
    theirs = by_keras(
        training, *tf.nest.map_structure(lambda each: each.numpy(), parsed),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
    )  # fmt: skip
    assert ours == pytest.approx(theirs, rel=1e-6)
    prediction = training.in_mode(Mode.PREDICTION)
    assert next(iter(prediction.batches(records_of(images, labels), 8))).shape == [6, 28, 28]


def records_of(images: Any, labels: Any) -> Any:
    examples = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "image": tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel())),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=label)),
                }
            )
        )
        for image, label in zip(images, labels, strict=True)
    ]
    return tf.data.Dataset.from_tensor_slices([each.SerializeToString() for each in examples])


def line(folder: Path, metrics: str = "{}", params: str = "", mode: Mode = Mode.TRAINING, **flags: str) -> Any:
    keras.utils.set_random_seed(1)
    return load(spec_of(write_zoo(folder, line=SPEC.replace("METRICS", metrics)), "line.Line", params, **flags), mode)


def test_params_go_to_whoever_takes_them(tmp_path: Path) -> None:
    training = line(tmp_path, params="units=3, bias=2.0, lr=0.5, anything=1")
    training.build()
    assert training.model.output_shape == (None, 3)
    assert [float(value) for value in training.model.variables[1].numpy()] == [2.0, 2.0, 2.0]
    assert float(training.optimizer.learning_rate) == 0.5
    dataset = training.batches(tf.data.Dataset.from_tensor_slices(RECORDS), 2)
    assert [float(label) for _, labels in dataset for label in labels] == [1, 2, 3, 4, 5]
    named = line(tmp_path, loss="mae", optimizer="adam", metrics="{'unused': 1}")
    assert isinstance(named.optimizer, keras.optimizers.Adam)
    assert named.loss(tf.constant(NUMBERS), tf.zeros([5, 1])).numpy().tolist() == NUMBERS.tolist()


@pytest.mark.parametrize(
    "metrics",
    [
        "{'area': keras.metrics.AUC(), 'error': tf.abs(outputs[:, 0] - labels)}",  # for us to update
        "{'area': (self.auc.update_state(labels > 2.5, tf.sigmoid(outputs)), self.auc)[1], 'error': tf.reduce_mean(tf.abs(predictions[:, 0] - labels))}",
        "updated(labels, outputs)",
    ],
    ids=["plain", "kept", "new"],
)
def test_metrics_of_a_function(tmp_path: Path, metrics: str) -> None:
    helper = """
def updated(labels, outputs):
    auc, error = keras.metrics.AUC(), keras.metrics.Mean()
    auc.update_state(y_true=labels > 2.5, y_pred=tf.sigmoid(outputs))
    error(tf.abs(outputs[:, 0] - labels))
    return {"area": auc, "error": error}
"""
    zoo = write_zoo(tmp_path, line=SPEC.replace("METRICS", metrics) + helper)
    keras.utils.set_random_seed(1)
    training = load(spec_of(zoo, "line.Line"), Mode.EVALUATION)
    training.model.set_weights([np.array([[0.1], [0.0]]), np.array([-0.2])])
    labels = (NUMBERS > 2.5).astype("float32") if "for us" in metrics or "'area': keras" in metrics else NUMBERS
    ours = by_contract(training, FEATURES, labels)
    outputs = training.model(FEATURES).numpy()[:, 0]
    auc = keras.metrics.AUC()
    auc.update_state(NUMBERS > 2.5, outputs if "'area': keras" in metrics else 1 / (1 + np.exp(-outputs)))
    assert ours["area"] == pytest.approx(float(auc.result()), abs=1e-6)
    assert ours["error"] == pytest.approx(float(np.mean(np.abs(outputs - labels))), rel=1e-6)
    assert all(not np.any(variable.numpy()) for each in training.metrics for variable in each.metric.variables)
    assert keras.metrics.AUC.update_state.__name__ == "update_state"


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ("{'a': 0.5}", "line.py: Line.create_metrics: 'a': expected a tensor or a Keras metric, got float"),
        ("outputs", "line.py: Line.create_metrics: expected a dict of metrics by their names, got SymbolicTensor"),
        ("{'a': tf.matmul(outputs, tf.zeros([7, 2]))}", "line.py:LINE in create_metrics: ValueError: Dimensions must be equal, but are 1 and 7 for MatMul with input shapes: [?,1], [7,2]."),
    ],
)  # fmt: skip
def test_metrics_that_are_none(tmp_path: Path, metrics: str, told: str) -> None:
    with pytest.raises(ModelError) as error:
        line(tmp_path, metrics, mode=Mode.EVALUATION)
    number = line_of(str(tmp_path), "line", f"return {metrics}")
    assert str(error.value) == f"{tmp_path}/{told}".replace("LINE", str(number))


def test_an_incomplete_spec_names_what_is_missing(tmp_path: Path) -> None:
    zoo = write_zoo(
        tmp_path,
        line=IMPORTS
        + "class Line(ElasticDLSpec):\n    def create_model(self):\n        return 1\nclass Other(TrainSpec):\n    model = 3\n",
    )
    with pytest.raises(
        ModelError, match=r"/line\.py: Line lacks create_dataset, create_loss, create_optimizer; add what is missing$"
    ):
        load(spec_of(zoo, "line.Line"))
    with pytest.raises(
        ModelError, match=r"/line\.py: Other lacks dataset, loss, metrics, optimizer; add what is missing$"
    ):
        load(spec_of(zoo, "line.Other"))


def test_a_file_alone_tells_which_spec_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"/line\.py has no custom_model; to use the class Line of it, write --model_def=line\.Line$"
    ):
        load(spec_of(write_zoo(tmp_path, line=SPEC.replace("METRICS", "{}")), "line"))


TRAIN_SPEC = (
    IMPORTS
    + """
class Line(TrainSpec):
    def __init__(self, units=1):
        inputs = keras.Input([2])
        self._model = keras.Model(inputs, keras.layers.Dense(units)(inputs))
        self._optimizer = keras.optimizers.SGD(0.25)
        self._weight = tf.constant(3.0)

    model = property(lambda self: self._model)
    optimizer = property(lambda self: self._optimizer)
    loss = property(lambda self: LOSS)
    metrics = property(lambda self: METRICS)
    dataset = property(lambda self: DATASET)

    def _weighted(self, outputs, labels):
        return self._weight * tf.square(outputs - labels)

    def _parsed(self, records, mode):
        def parse(record):
            number = tf.strings.to_number(record)
            return tf.stack([number, 1.0]), number
        return records.map(parse)

def gap(labels, outputs):
    return labels - outputs[:, 0]

def some(mode, outputs, labels):
    return {"gap": labels - outputs[:, 0]} if mode == "training" else {}

KEPT = keras.losses.MeanSquaredError()
"""
)


def train_spec(folder: Path, mode: Mode = Mode.TRAINING, **parts: str) -> Any:
    code = TRAIN_SPEC
    for name, value in (
        {"LOSS": "self._weighted", "METRICS": "{'gap': gap}", "DATASET": "self._parsed"} | parts
    ).items():
        code = code.replace(f"self: {name})", f"self: {value})")
    keras.utils.set_random_seed(1)
    return load(spec_of(write_zoo(folder, line=code), "line.Line", "units=1"), mode)


@pytest.mark.parametrize("metrics", ["{'gap': gap}", "some"])
def test_train_spec(tmp_path: Path, metrics: str) -> None:
    training = train_spec(tmp_path, METRICS=metrics)
    assert float(training.optimizer.learning_rate) == 0.25
    parsed = next(iter(training.batches(tf.data.Dataset.from_tensor_slices(RECORDS), 8)))
    theirs = by_keras(
        training, *(each.numpy() for each in parsed),
        loss=lambda labels, outputs: 3 * keras.ops.square(outputs - labels),
        metrics=[keras.metrics.MeanMetricWrapper(lambda labels, outputs: labels - outputs[:, 0], name="gap")],
    )  # fmt: skip
    assert by_contract(training, *parsed) == pytest.approx(theirs, rel=1e-6)
    assert len(training.in_mode(Mode.EVALUATION).metrics) == (0 if metrics == "some" else 1)
    prediction = training.in_mode(Mode.PREDICTION)  # its labels, which the function gives all the same, are taken away
    assert next(iter(prediction.batches(tf.data.Dataset.from_tensor_slices(RECORDS), 8))).shape == [5, 2]


@pytest.mark.parametrize("loss", ["'mse'", "KEPT", "keras.losses.mean_squared_error"])
def test_losses_of_a_train_spec(tmp_path: Path, loss: str) -> None:
    training = train_spec(tmp_path, LOSS=loss, METRICS="['mae']")
    ours = by_contract(training, FEATURES, NUMBERS)
    assert ours == pytest.approx(by_keras(training, FEATURES, NUMBERS, loss="mse", metrics=["mae"]), rel=1e-6)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"LOSS": "keras.losses.MeanSquaredError()"}, "line.py: Line.loss: gives another object on each access; make it in __init__, keep it in self, and return that"),
        ({"METRICS": "[keras.metrics.AUC()]"}, "line.py: Line.metrics: gives another object on each access; make it in __init__, keep it in self, and return that"),
        ({"LOSS": "self.nothing"}, "line.py:LINE in <lambda>: AttributeError: 'Line' object has no attribute 'nothing'"),
        ({"DATASET": "3"}, "line.py: Line.dataset: expected a function of a record, got 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_train_spec_is_told(tmp_path: Path, parts: dict[str, str], told: str) -> None:
    with pytest.raises(ModelError) as error:
        train_spec(tmp_path, Mode.TRAINING, **parts)
    number = line_of(str(tmp_path), "line", f"self: {next(iter(parts.values()))})")
    assert str(error.value) == f"{tmp_path}/{told}".replace("LINE", str(number))
