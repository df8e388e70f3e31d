"""Every way to write a model reaches the worker in the same shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.contracts import Mode, TrainingModel, load
from tests.zoo import GOOD, spec_of, write_zoo

RECORDS = [b"1", b"2", b"3", b"4", b"5"]

CLASS = (
    """
class Line(keras.Model):
    def __init__(self, units=1, bias=0.0):
        super().__init__()
        self.dense = keras.layers.Dense(units, bias_initializer=keras.initializers.Constant(bias))

    def call(self, inputs):
        return self.dense(inputs)
"""
    + GOOD
)

ELASTICDL = """
def custom_model(units=1):
    inputs = keras.Input([2])
    return keras.Model(inputs, keras.layers.Dense(units)(inputs))

def loss(labels, predictions):
    return tf.reduce_mean(tf.square(predictions - tf.reshape(labels, [-1, 1])))

def optimizer(lr=0.1):
    return keras.optimizers.SGD(lr)

def dataset_fn(dataset, mode, _):
    def parse(record):
        number = tf.strings.to_number(record)
        features = tf.stack([number, 1.0])
        return features if mode == Mode.PREDICTION else (features, number)
    dataset = dataset.map(parse)
    if mode == Mode.TRAINING:
        dataset = dataset.shuffle(1000)
    return dataset
"""


def records() -> Any:
    return tf.data.Dataset.from_tensor_slices(RECORDS)


def numbers(training: TrainingModel) -> list[float]:
    """The labels of RECORDS, as the input function makes them."""
    return [float(label) for _, labels in training.batches(records(), 2) for label in labels]


def rate(training: TrainingModel) -> float:
    return float(training.optimizer.learning_rate)


def test_class_with_methods(tmp_path: Path) -> None:
    training = load(spec_of(write_zoo(tmp_path, line=CLASS), "line.Line", "units=3, bias=2.0"))
    training.build()
    assert [tuple(variable.shape) for variable in training.model.variables] == [(2, 3), (3,)]
    assert training.model.variables[1].numpy().tolist() == [2.0, 2.0, 2.0]
    assert rate(training) == 0.5
    assert not training.vectorised and not training.loss_is_sum
    assert numbers(training) == [1, 2, 3, 4, 5]
    features, labels = next(iter(training.parse(records())))
    assert features.numpy().tolist() == [1.0, 1.0] and labels.shape == []
    with pytest.raises(TypeError, match="use parse"):
        training.parse_batch(tf.constant(RECORDS))


def test_class_with_static_methods_attributes_and_functions_without_self(tmp_path: Path) -> None:
    code = """
class Line(keras.Model):
    default_optimizer = keras.optimizers.SGD
    default_loss = keras.losses.MeanSquaredError(reduction="sum")

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    @vectorised
    def default_input(records):
        numbers = tf.strings.to_number(records)
        return tf.stack([numbers, numbers], axis=1), numbers
"""
    training = load(spec_of(write_zoo(tmp_path, line=code), "line.Line", "learning_rate=0.125"))
    assert rate(training) == 0.125
    assert training.loss_is_sum
    assert float(training.loss(tf.constant([[1.0], [2.0]]), tf.constant([[0.0], [0.0]]))) == 5.0
    assert training.vectorised
    features, labels = training.parse_batch(tf.constant(RECORDS))
    assert features.shape == [5, 2] and labels.numpy().tolist() == [1, 2, 3, 4, 5]
    assert numbers(training) == [1, 2, 3, 4, 5]
    with pytest.raises(TypeError, match="use parse_batch"):
        training.parse(records())


@pytest.mark.parametrize("decorators", ["@staticmethod\n    @vectorised", "@vectorised\n    @staticmethod"])
def test_vectorised_goes_above_and_below_staticmethod(tmp_path: Path, decorators: str) -> None:
    code = CLASS.replace("def default_input(self, record):", f"{decorators}\n    def default_input(record):")
    code = code.replace("tf.stack([number, 1.0])", "tf.stack([number, number], 1)")
    training = load(spec_of(write_zoo(tmp_path, line=code), "line.Line"))
    assert training.vectorised and numbers(training) == [1, 2, 3, 4, 5]


def test_class_whose_defaults_take_params(tmp_path: Path) -> None:
    code = CLASS.replace("default_optimizer(self)", "default_optimizer(self, learning_rate)").replace(
        "SGD(0.5)", "SGD(learning_rate)"
    )
    code = code.replace("default_input(self, record)", "default_input(self, record, mode, scale=1)").replace(
        "tf.strings.to_number(record)", "scale * tf.strings.to_number(record) + (100 if mode == 'evaluation' else 0)"
    )
    zoo = write_zoo(tmp_path, line=code)
    training = load(spec_of(zoo, "line.Line", "learning_rate=0.25, scale=10"))
    assert rate(training) == 0.25 and numbers(training) == [10, 20, 30, 40, 50]
    evaluation = load(spec_of(zoo, "line.Line", "learning_rate=0.25"), Mode.EVALUATION)
    assert numbers(evaluation) == [101, 102, 103, 104, 105]


def test_class_with_a_loss_of_labels_and_outputs(tmp_path: Path) -> None:
    code = CLASS.replace(
        'default_loss(self):\n        return "mse"',
        "default_loss(self, labels, outputs):\n        return tf.abs(labels - outputs) * self.dense.units",
    )
    training = load(spec_of(write_zoo(tmp_path, line=code), "line.Line", "units=2"))
    loss = training.loss(tf.constant([1.0, 2.0]), tf.constant([[3.0], [3.0]]))
    assert loss.numpy().tolist() == [4.0, 2.0]  # one value per example, not a broadcast [2, 2]


def test_a_model_whose_loss_is_all_its_own(tmp_path: Path) -> None:
    code = CLASS.replace(
        'default_loss(self):\n        return "mse"', "default_loss(labels, outputs):\n        return 0.0"
    )
    loss = load(spec_of(write_zoo(tmp_path, line=code), "line.Line")).loss(tf.constant([1.0, 2.0]), tf.zeros([2, 1]))
    assert loss.shape == [] and float(loss) == 0.0


def test_function_that_returns_a_model(tmp_path: Path) -> None:
    code = """
def line(units, **others):
    inputs = keras.Input([2])
    return keras.Model(inputs, keras.layers.Dense(units)(inputs), **others)

def default_loss():
    return keras.losses.MeanSquaredError()

def default_optimizer(learning_rate=0.5):
    return keras.optimizers.Adam(learning_rate)

def default_input(record):
    number = tf.strings.to_number(record)
    return tf.stack([number, 1.0]), number
"""
    training = load(spec_of(write_zoo(tmp_path, line=code), "line.line", "units=2, name='mine'"))
    assert training.model.name == "mine" and training.model.output_shape == (None, 2)
    assert rate(training) == 0.5 and type(training.optimizer).__name__ == "Adam"
    assert float(training.loss(tf.zeros([3, 2]), tf.fill([3, 2], 2.0))) == 4.0
    assert numbers(training) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("features", ["tf.stack([number, 1.0])", '{"two": tf.stack([number, 1.0]), "other": number}'])
def test_function_that_returns_a_sequential_model(tmp_path: Path, features: str) -> None:
    code = f"""
def line():
    return keras.Sequential([keras.Input([2], name="two"), keras.layers.Dense(1)])

default_loss, default_optimizer = "mse", "adam"

def default_input(record):
    number = tf.strings.to_number(record)
    return {features}, number
"""
    training = load(spec_of(write_zoo(tmp_path, line=code), "line.line"))
    training.build()
    ((given, _),) = training.batches(records(), 5)
    assert training.model(given).shape == (5, 1)


def test_module_functions(tmp_path: Path) -> None:
    training = load(spec_of(write_zoo(tmp_path, line=ELASTICDL), "line", "units=2, lr=0.25"))
    assert training.model.output_shape == (None, 2) and rate(training) == 0.25
    assert numbers(training) == [1, 2, 3, 4, 5]  # the user's shuffle is left to the reader
    assert float(training.loss(tf.constant([1.0, 2.0]), tf.constant([[1.0], [4.0]]))) == 2.0


def test_module_functions_parse_while_a_pipeline_is_traced(tmp_path: Path) -> None:
    training = load(spec_of(write_zoo(tmp_path, line=ELASTICDL), "line"))
    steps = records().batch(3).flat_map(lambda some: training.parse(tf.data.Dataset.from_tensor_slices(some)))
    assert [float(label) for _, label in steps] == [1, 2, 3, 4, 5]
    shuffled = [int(number) for number in tf.data.Dataset.range(50).shuffle(50, seed=1)]
    assert shuffled != sorted(shuffled)  # tf.data is as it was before


@pytest.mark.parametrize("model_def", ["line.custom_model", "line.line.custom_model", "line.Custom"])
def test_module_functions_with_a_named_model(tmp_path: Path, model_def: str) -> None:
    model = """
class Custom(keras.Sequential):
    def __init__(self):
        super().__init__([keras.layers.Dense(1)])
"""
    zoo = write_zoo(tmp_path, **{"line__line" if model_def.count(".") == 2 else "line": ELASTICDL + model})
    training = load(spec_of(zoo, model_def))
    assert rate(training) == pytest.approx(0.1) and numbers(training) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("signature", "call"),
    [
        ("feed(dataset, mode, metadata)", "metadata.column_names is None"),
        ("dataset_fn(dataset, mode)", "mode == 'training'"),
        ("dataset_fn(dataset)", "True"),
    ],
)
def test_all_signatures_of_elasticdls_dataset_function(tmp_path: Path, signature: str, call: str) -> None:
    code = (
        ELASTICDL.partition("def dataset_fn")[0]
        + f"def {signature}:\n    assert {call}\n    return dataset.map(parse)\n"
    )
    code += "\ndef parse(record):\n    return tf.strings.to_number(record)[None], tf.strings.to_number(record)\n"
    assert numbers(load(spec_of(write_zoo(tmp_path, line=code), "line"))) == [1, 2, 3, 4, 5]


def test_a_dataset_function_is_told_the_columns_of_a_table(tmp_path: Path) -> None:
    code = (
        ELASTICDL.partition("def dataset_fn")[0]
        + """
def feed(dataset, mode, metadata):
    columns = {name: place for place, name in enumerate(metadata.column_names)}
    def parse(row):
        numbers = tf.stack(tf.io.decode_csv(row, [[0.0]] * len(columns)))
        return numbers[:2], numbers[columns["y"]]
    return dataset.map(parse)
"""
    )
    training = load(spec_of(write_zoo(tmp_path, line=code), "line"), column_names=("a", "b", "y"))
    rows = tf.data.Dataset.from_tensor_slices([b"1,2,3", b"4,5,6"])
    assert [float(label) for _, labels in training.batches(rows, 2) for label in labels] == [3, 6]


def test_prediction_gives_features_only(tmp_path: Path) -> None:
    training = load(spec_of(write_zoo(tmp_path, line=ELASTICDL), "line"), Mode.PREDICTION)
    assert next(iter(training.parse(records()))).numpy().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "signature",
    ["loss(labels, predictions)", "loss(output, labels)", "loss(predictions, labels)", "loss(y_true, y_pred)"],
)
def test_order_of_a_losss_arguments_follows_their_names(tmp_path: Path, signature: str) -> None:
    outputs = next(name for name in ("predictions", "output", "y_pred") if name in signature)
    labels = "y_true" if "y_true" in signature else "labels"
    head, _, rest = ELASTICDL.partition("def loss(labels, predictions):\n    return ")
    code = f"{head}def {signature}:\n    return {outputs} - 10 * {labels}\n{rest.partition(chr(10))[2]}"
    loss = load(spec_of(write_zoo(tmp_path, line=code), "line")).loss(tf.constant([[1.0]]), tf.constant([[3.0]]))
    assert loss.numpy().tolist() == [-7.0]


def test_overrides(tmp_path: Path) -> None:
    other = """
def slow(learning_rate=0.001):
    return keras.optimizers.SGD(learning_rate)

@vectorised
def doubled(records):
    numbers = 2 * tf.strings.to_number(records)
    return tf.stack([numbers, numbers], axis=1), numbers

def absolute(labels, outputs):
    return tf.abs(outputs - labels)
"""
    own = """
def halved(record):
    number = tf.strings.to_number(record) / 2
    return tf.stack([number, 1.0]), number
"""
    zoo = write_zoo(tmp_path, line=CLASS + own, tools__other=other)
    training = load(
        spec_of(
            zoo, "line.Line", input_fn="tools.other.doubled", loss="tools.other.absolute", optimizer="tools.other.slow"
        )
    )
    assert training.vectorised and numbers(training) == [2, 4, 6, 8, 10]
    assert rate(training) == pytest.approx(0.001)
    assert training.loss(tf.constant([1.0, 2.0]), tf.constant([[3.0], [3.0]])).numpy().tolist() == [2.0, 1.0]
    named = load(
        spec_of(zoo, "line.Line", "learning_rate=0.25", input_fn="halved", loss="mean_absolute_error", optimizer="adam")
    )
    assert numbers(named) == [0.5, 1, 1.5, 2, 2.5]
    assert rate(named) == 0.25 and isinstance(named.optimizer, keras.optimizers.Adam)
    assert named.loss(tf.constant([1.0, 2.0]), tf.constant([[3.0], [3.0]])).numpy().tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("loss", "labels", "outputs"),
    [
        (
            "sparse_categorical_crossentropy",
            np.array([0, 1, 1]),
            np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], "float32"),
        ),
        (
            "SparseCategoricalCrossentropy",
            np.array([[0], [1], [1]]),
            np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], "float32"),
        ),
        ("binary_crossentropy", np.array([0.0, 1.0, 1.0], "float32"), np.array([[0.3], [0.6], [0.2]], "float32")),
        ("mse", np.ones([3, 4, 2], "float32"), np.zeros([3, 4, 2], "float32")),
        ("huber", np.ones([3], "float32"), np.zeros([3], "float32")),
    ],
)
def test_keras_losses_are_what_fit_reports(tmp_path: Path, loss: str, labels: Any, outputs: Any) -> None:
    ours = load(spec_of(write_zoo(tmp_path, line=CLASS), "line.Line", loss=loss)).loss(
        tf.constant(labels), tf.constant(outputs)
    )
    assert ours.shape.rank <= 1
    inputs = keras.Input(outputs.shape[1:])
    same = keras.Model(inputs, keras.layers.Identity()(inputs))
    same.compile(loss=loss)
    assert float(tf.reduce_mean(ours)) == pytest.approx(same.evaluate(outputs, labels, verbose=0), rel=1e-5)


def test_building_makes_the_variables_and_computes_nothing(tmp_path: Path) -> None:
    code = CLASS.replace("return self.dense(inputs)", "tf.print('computed')\n        return self.dense(inputs)")
    training = load(spec_of(write_zoo(tmp_path, line=code), "line.Line"))
    assert training.model.variables == []
    training.build()
    assert [variable.path.rpartition("/")[2] for variable in training.model.variables] == ["kernel", "bias"]


def test_initial_weights_follow_keras_seed(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path, line=CLASS)
    kernels = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        training = load(spec_of(zoo, "line.Line"))
        training.build()
        kernels.append(training.model.variables[0].numpy().tolist())
    assert kernels[0] == kernels[1] != kernels[2]
