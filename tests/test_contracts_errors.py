# ruff: noqa: E501 (what users read stands here unbroken)
"""What goes wrong in a user's model is told in one line: which file and line, what was expected, what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from edl_allreduce.contracts import TrainingModel, load
from edl_allreduce.contracts.user_errors import MAX_LENGTH, explain, user_code
from edl_allreduce.errors import EdlError, ModelError, UsageError
from tests.zoo import GOOD, HEAD_LINES, line_of, spec_of, write_zoo

CLASS = (
    """
class Line(keras.Model):
    def __init__(self, units=1, rate=0.0):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)
"""
    + GOOD
)


def told(tmp_path: Path, code: str = CLASS, model_def: str = "line.Line", params: str = "", **overrides: str) -> str:
    """What the user is told when the model is loaded; the zoo's folder is written as `zoo`."""
    zoo = write_zoo(tmp_path / "zoo", line=code)
    with pytest.raises(EdlError) as error:
        load(spec_of(zoo, model_def, params, **overrides))
    message = str(error.value)
    assert "\n" not in message
    return message.replace(zoo, "zoo")


def without(name: str) -> str:
    """CLASS without one of its methods."""
    return re.sub(rf"    def {name}\(.*?(?=\n    def |\Z)", "", CLASS, flags=re.DOTALL)


def test_zoo_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^--model_zoo: expected a folder with the model's Python files, '/no/zoo' is none$"
    ):
        load(spec_of("/no/zoo", "line.Line"))


@pytest.mark.parametrize(
    ("model_def", "expected"),
    [
        (
            "lime.Line",
            "--model_def: 'lime.Line' needs the file zoo/lime.py or zoo/lime/__init__.py, which does not exist (did you mean 'line'?)",
        ),
        (
            "Line",
            "--model_def: 'Line' needs the file zoo/Line.py or zoo/Line/__init__.py, which does not exist (did you mean 'line'?); a class of a file is FILE.Line",
        ),
        ("a.b.Line", "--model_def: 'a.b.Line' needs the file zoo/a/b.py or zoo/a/b/__init__.py, which does not exist"),
        ("line.Lime", "zoo/line.py has no 'Lime' (did you mean 'Line'?)"),
        (
            "line.GIVEN",
            "zoo/line.py: GIVEN is a int; expected a keras.Model subclass, a function that returns a model, an ElasticDLSpec or a TrainSpec",
        ),
        (
            "line.Other",
            "zoo/line.py: Other is a class derived from dict; expected a keras.Model subclass, a function that returns a model, an ElasticDLSpec or a TrainSpec",
        ),
        ("line", "zoo/line.py has no custom_model; to use the class Line of it, write --model_def=line.Line"),
    ],
)
def test_model_def_that_does_not_exist(tmp_path: Path, model_def: str, expected: str) -> None:
    assert told(tmp_path, CLASS + "\nGIVEN = 3\n\nclass Other(dict):\n    pass\n", model_def) == expected


def test_file_without_custom_model(tmp_path: Path) -> None:
    expected = (
        "zoo/line.py has no custom_model (did you mean 'customModel'?); add a function that returns a keras.Model"
    )
    assert told(tmp_path, "def customModel():\n    pass\n", "line") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "default_loss",
            "zoo/line.py: Line has no default_loss; add to Line a method default_loss that returns a Keras loss, or takes (labels, outputs), or give --loss",
        ),
        (
            "default_optimizer",
            "zoo/line.py: Line has no default_optimizer; add to Line a method default_optimizer that returns a Keras optimizer, or give --optimizer",
        ),
        (
            "default_input",
            "zoo/line.py: Line has no default_input; add to Line a method default_input that turns a record into (features, labels), or give --input_fn",
        ),
    ],
)
def test_class_that_lacks_something(tmp_path: Path, name: str, expected: str) -> None:
    assert told(tmp_path, without(name)) == expected


def test_function_that_lacks_something(tmp_path: Path) -> None:
    code = "def line():\n    return keras.Sequential([keras.layers.Dense(1)])\n"
    assert told(tmp_path, code, "line.line") == (
        "zoo/line.py has no default_loss; add beside line a function default_loss that returns a Keras loss, "
        "or takes (labels, outputs), or give --loss"
    )


def test_elasticdl_file_that_lacks_something(tmp_path: Path) -> None:
    code = "def custom_model():\n    return keras.Sequential([keras.layers.Dense(1)])\n"
    code += "def loss(labels, predictions):\n    return 0.0\ndef optimizer():\n    return 'sgd'\n"
    assert told(tmp_path, code, "line") == (
        "zoo/line.py has no feed or dataset_fn; add a function feed or dataset_fn that turns a record into "
        "(features, labels), or give --input_fn"
    )


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (
            "unit=3",
            "zoo/line.py: there is no parameter 'unit' (did you mean 'units'?); Line takes units, rate",
        ),
        ("sugar=3", "zoo/line.py: there is no parameter 'sugar'; Line takes units, rate"),
        ("record='x'", "zoo/line.py: there is no parameter 'record'; Line takes units, rate"),
    ],
)
def test_unknown_params(tmp_path: Path, params: str, expected: str) -> None:
    assert told(tmp_path, params=params) == expected


def test_unknown_params_of_a_model_that_passes_them_on(tmp_path: Path) -> None:
    code = CLASS.replace("rate=0.0", "**others").replace("super().__init__()", "super().__init__(**others)")
    message = told(tmp_path, code, params="unit=3")
    assert message.startswith(f"zoo/line.py:{HEAD_LINES + 3} in __init__: ")
    assert message.endswith("(Line takes units, not 'unit' (did you mean 'units'?))")


def test_missing_params(tmp_path: Path) -> None:
    code = CLASS.replace("units=1, rate=0.0", "units, rate")
    expected = 'zoo/line.py: Line cannot be made without units, rate; give --params="units=…, rate=…"'
    assert told(tmp_path, code) == expected


def test_constructor_that_fails(tmp_path: Path) -> None:
    code = CLASS.replace("super().__init__()\n", "super().__init__()\n        self.table = {}['words']\n", 1)
    assert told(tmp_path, code) == f"zoo/line.py:{HEAD_LINES + 4} in __init__: KeyError: 'words'"


def test_constructor_that_gives_a_layer_nonsense(tmp_path: Path) -> None:
    message = told(tmp_path, params="units='many'")
    assert message.startswith(f"zoo/line.py:{HEAD_LINES + 4} in __init__: ValueError: ") and "many" in message


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            "keras.Input([2]), 3, 4",
            "zoo/line.py: line must make a keras.Model, it made a tuple",
        ),
        ("None", "zoo/line.py: line must make a keras.Model, it made a NoneType"),
    ],
)
def test_function_that_makes_no_model(tmp_path: Path, made: str, expected: str) -> None:
    assert told(tmp_path, f"def line():\n    return {made}\n", "line.line") == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            {"loss": "msee"},
            "--loss=msee: 'msee' is neither in the model's file nor a Keras loss such as sparse_categorical_crossentropy",
        ),
        (
            {"optimizer": "Adamm"},
            "--optimizer=Adamm: 'Adamm' is neither in the model's file nor a Keras optimizer such as Adam or SGD",
        ),
        (
            {"input_fn": "parse"},
            "--input_fn=parse: zoo/line.py has no 'parse'; a function of another file is FILE.NAME",
        ),
        (
            {"input_fn": "lime.parse"},
            "--input_fn: 'lime.parse' needs the file zoo/lime.py or zoo/lime/__init__.py, which does not exist (did you mean 'line'?)",
        ),
        ({"input_fn": "line.Line"}, "--input_fn=line.Line: expected a function of a record, got <class 'line.Line'>"),
        ({"loss": "line.mse"}, "zoo/line.py has no 'mse'"),
        (
            {"optimizer": "keras"},
            "--optimizer=keras: expected a Keras optimizer such as keras.optimizers.SGD(0.1), got module",
        ),
    ],
)
def test_overrides_that_do_not_exist(tmp_path: Path, overrides: dict[str, str], expected: str) -> None:
    assert told(tmp_path, **overrides) == expected


@pytest.mark.parametrize(
    ("optimizer", "got"),
    [
        (
            "tf.train.Checkpoint()",
            "tensorflow.python.checkpoint.checkpoint.Checkpoint",
        ),
        ("0.1", "float"),
    ],
)
def test_optimizer_of_another_kind(tmp_path: Path, optimizer: str, got: str) -> None:
    expected = "zoo/line.py: Line.default_optimizer: expected a Keras optimizer such as keras.optimizers.SGD(0.1), got "
    assert told(tmp_path, CLASS.replace("keras.optimizers.SGD(0.5)", optimizer)) == expected + got


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("{'a': 'mse'}", "there is no output 'a'; the model names none of its outputs: give a list"),
        ("['mse', 'mse']", "expected one for each of the model's 1 outputs, got 2"),
        ("[None]", "expected a loss for at least one output, got [None]"),
        ("0.5", "expected a Keras loss or a function of (labels, outputs), got 0.5"),
        ("'nope'", "'nope' is neither in the model's file nor a Keras loss such as sparse_categorical_crossentropy"),
    ],
)
def test_loss_of_another_kind(tmp_path: Path, loss: str, expected: str) -> None:
    assert told(tmp_path, CLASS.replace('"mse"', loss)) == f"zoo/line.py: Line.default_loss: {expected}"


@pytest.mark.parametrize("loss", ['"mse"', "keras.losses.MeanSquaredError()"])
def test_labels_that_are_texts(tmp_path: Path, loss: str) -> None:
    training = load(spec_of(write_zoo(tmp_path / "zoo", line=CLASS.replace('"mse"', loss)), "line.Line"))
    with pytest.raises(
        ModelError, match=r"Line.default_loss: Keras's losses take numbers as labels, but .* gives texts"
    ):
        training.loss(tf.constant(["a"]), tf.zeros([1, 1]))


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("number", "expected it to return (features, labels), got a tensor"),
        ("{'x': number, 'label': number}", "expected it to return (features, labels), got a dict of 2"),
        ("[number, number]", "expected it to return (features, labels), got a list of 2"),
        ("(number,) * 4", "expected it to return (features, labels), got a tuple of 4"),
        ("number, number, record", "expected one number per record as its weight, got string of shape (None,)"),
        (
            "number, number, tf.zeros([2])",
            "expected one number per record as its weight, got float32 of shape (None, 2)",
        ),
        ("number, number, {'a': number}", "expected one number per record as its weight, got a dict"),
    ],
)
def test_input_function_that_returns_something_else(tmp_path: Path, returned: str, expected: str) -> None:
    code = CLASS.replace("return tf.stack([number, 1.0]), number", f"return {returned}")
    assert told(tmp_path, code) == f"zoo/line.py: Line.default_input: {expected}"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (CLASS.replace("(self, record)", "(self, record, scale)"), 'needs scale; give --params="scale=…"'),
        (CLASS.replace("(self, record)", "(self)"), "expected a function of a record, got one without parameters"),
        (without("default_input") + "\n    default_input = 3\n", "expected a function of a record, got 3"),
    ],
)
def test_input_function_that_cannot_be_called(tmp_path: Path, code: str, expected: str) -> None:
    assert told(tmp_path, code) == f"zoo/line.py: Line.default_input: {expected}"


def test_vectorised_input_function_that_takes_one_record(tmp_path: Path) -> None:
    code = CLASS.replace("def default_input", "@vectorised\n    def default_input").replace(
        "tf.strings.to_number(record)",
        "tf.io.parse_single_example(record, {'a': tf.io.FixedLenFeature([], tf.float32)})['a']",
    )
    message = told(tmp_path, code)
    line = line_of(str(tmp_path / "zoo"), "line", "parse_single_example")
    assert message == f"zoo/line.py:{line} in default_input: ValueError: Input serialized must be a scalar"


def test_vectorised_input_function_that_loses_rows(tmp_path: Path) -> None:
    code = CLASS.replace("def default_input", "@vectorised\n    def default_input").replace(
        "[number, 1.0]", "[1.0, 1.0]"
    )
    expected = "is vectorised, so every tensor it returns must have one row per record, got one of shape (2,)"
    assert told(tmp_path, code) == f"zoo/line.py: Line.default_input: {expected}"


def test_input_function_with_an_error_while_it_is_traced(tmp_path: Path) -> None:
    code = CLASS.replace("number = tf.strings.to_number(record)", "number = helper(record)")
    code += """
def helper(record):
    if tf.strings.length(record) > 3:
        record = tf.strings.substr(record, 0, 3)
    return tf.matmul(tf.zeros([2, 3]), tf.zeros([2, 3]))
"""
    message = told(tmp_path, code)
    line = line_of(str(tmp_path / "zoo"), "line", "tf.matmul")
    assert message == (
        f"zoo/line.py:{line} in helper: ValueError: Dimensions must be equal, but are 3 and 2 for MatMul "
        "with input shapes: [2,3], [2,3]."
    )


ELASTICDL = """
def custom_model():
    return keras.Sequential([keras.layers.Dense(1)])

def loss(labels, predictions):
    return tf.reduce_mean(tf.square(labels - predictions))

def optimizer():
    return keras.optimizers.SGD()

def feed(dataset, mode, metadata):
    return dataset.map(lambda record: (tf.strings.to_number(record)[None], 1.0))"""


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (".repeat()", "repeats the records; remove repeat(), --num_epochs says how often they are used"),
        (".shuffle(9).repeat(3)", "repeats the records; remove repeat(), --num_epochs says how often they are used"),
        (".batch(32)", "gives fewer elements than records; remove batch() and take(), --batch_size sets the batch"),
        (".take(100)", "gives fewer elements than records; remove batch() and take(), --batch_size sets the batch"),
        (
            ".filter(lambda *_: True)",
            "may drop or add records (filter, flat_map, unbatch, …); not supported yet, every record is accounted for",
        ),
        (".element_spec", "expected it to return a tf.data.Dataset, got tuple"),
    ],
)
def test_dataset_function_that_changes_the_number_of_records(tmp_path: Path, tail: str, expected: str) -> None:
    assert told(tmp_path, ELASTICDL + tail, "line") == f"zoo/line.py: feed: {expected}"


def test_dataset_function_with_too_many_parameters(tmp_path: Path) -> None:
    code = ELASTICDL.replace("mode, metadata", "a, b, c")
    assert (
        told(tmp_path, code, "line")
        == "zoo/line.py: feed: expected a function of (dataset, mode, metadata), got one of (dataset, a, b, c)"
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(:\n    pass\n", f"zoo/line.py:{HEAD_LINES + 1}: SyntaxError: invalid syntax: def f(:"),
        (
            "import no_such_package\n",
            f"zoo/line.py:{HEAD_LINES + 1}: ModuleNotFoundError: No module named 'no_such_package'; install it, and name it in the zoo's requirements.txt",
        ),
        (
            "from elasticdl.python.common.constants import Mode\n",
            f"zoo/line.py:{HEAD_LINES + 1}: ModuleNotFoundError: No module named 'elasticdl'; its Mode, ElasticDLSpec and BasePredictionOutputsProcessor are in edl_allreduce.contracts",
        ),
        (
            "def f():\n    return 1 / 0\n\nf()\n",
            f"zoo/line.py:{HEAD_LINES + 2} in f: ZeroDivisionError: division by zero",
        ),
        (
            "raise SystemExit(3)\n",
            'zoo/line.py: ended the process with exit(3) when imported; what is meant for the command line belongs under `if __name__ == "__main__":`',
        ),
    ],
)
def test_file_that_fails_when_imported(tmp_path: Path, code: str, expected: str) -> None:
    assert told(tmp_path, code) == expected


def test_file_named_like_a_module_in_use(tmp_path: Path) -> None:
    zoo = write_zoo(tmp_path, json=CLASS)
    with pytest.raises(ModelError, match=r"/json\.py: another module is called 'json' \(.*json.*\); rename the file$"):
        load(spec_of(zoo, "json.Line"))


def failing(tmp_path: Path, line: str) -> tuple[str, TrainingModel]:
    """A zoo and its model, whose call has `line`."""
    zoo = write_zoo(
        tmp_path / "zoo",
        line=CLASS.replace("return self.dense(inputs)", f"outputs = self.dense(inputs)\n        {line}"),
    )
    return zoo, load(spec_of(zoo, "line.Line"))


def in_graph(autograph: bool) -> Callable[[TrainingModel], Any]:
    return lambda training: tf.function(lambda x: training.model(x), autograph=autograph)(tf.ones([2, 2]))


@pytest.mark.parametrize(
    "run",
    [lambda training: training.model(tf.ones([2, 2])), in_graph(True), in_graph(False)],
    ids=["eager", "autograph", "graph"],
)
@pytest.mark.parametrize(
    ("line", "essence"),
    [
        ("raise ValueError('this is\\n  wrong')", "ValueError: this is wrong"),
        ("return outputs.nope", "AttributeError: "),
        ("return tf.matmul(outputs, tf.zeros([7, 2]))", ""),
        ("return keras.layers.Dense(2)(outputs) + tf.zeros([9])", ""),
    ],
)
def test_call_that_fails(tmp_path: Path, line: str, essence: str, run: Callable[[TrainingModel], Any]) -> None:
    zoo, training = failing(tmp_path, line)
    with pytest.raises(Exception) as error:
        run(training)
    message = explain(error.value, zoo)
    assert message.startswith(f"{zoo}/line.py:{line_of(zoo, 'line', 'self.dense(inputs)') + 1} in call: {essence}")
    for clutter in ("\n", "{{", "\x1b", "Arguments received", "Exception encountered", "in user code", "[Op:"):
        assert clutter not in message


def test_helper_of_a_call_in_another_file_is_the_place(tmp_path: Path) -> None:
    zoo = write_zoo(
        tmp_path, line="from parts.helper import helper\n" + CLASS.replace("self.dense(inputs)", "helper(inputs)")
    )
    write_zoo(tmp_path, parts__helper="def helper(x):\n    raise RuntimeError('no')\n")
    training = load(spec_of(zoo, "line.Line"))
    with pytest.raises(ModelError) as error, user_code(zoo, "making the variables"):
        training.build()
    assert str(error.value) == f"{zoo}/parts/helper.py:{HEAD_LINES + 2} in helper: RuntimeError: no"


def test_error_at_graph_run_time_is_placed_by_its_operation(tmp_path: Path) -> None:
    zoo, training = failing(tmp_path, "return outputs + tf.gather([1.0, 2.0], tf.cast(inputs[:, :1], tf.int32) + 100)")
    step = tf.function(lambda x: training.model(x), autograph=False).get_concrete_function(tf.TensorSpec([None, 2]))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        step(tf.ones([2, 2]))
    essence = "InvalidArgumentError: indices[0,0] = 101 is not in [0, 2)"
    assert (
        explain(error.value, zoo, [step.graph])
        == f"{zoo}/line.py:{line_of(zoo, 'line', 'tf.gather')} in call: {essence}"
    )
    assert re.fullmatch(re.escape(essence) + r" \(operation line_\d*/?.*GatherV2\)", explain(error.value, zoo))
    with pytest.raises(ModelError) as told, user_code(zoo, "step 7"):
        step(tf.ones([2, 2]))
    assert str(told.value).startswith(f"step 7: {essence}")


def test_error_in_a_branch_and_in_a_gradient_is_placed_by_the_operation_around(tmp_path: Path) -> None:
    call = "self.dense(inputs)\n        tf.debugging.assert_less(tf.reduce_sum(inputs), 0.0)\n        return fragile(inputs)"
    code = """
@tf.custom_gradient
def fragile(x):
    def gradient(upstream):
        return upstream * tf.gather([1.0], tf.cast(tf.reduce_sum(x) < 0, tf.int32))
    return x, gradient
"""
    zoo = write_zoo(tmp_path, line=CLASS.replace("return self.dense(inputs)", call) + code)
    training = load(spec_of(zoo, "line.Line"))

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = training.model(x)
        return tape.gradient(y, x)

    traced = tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec([None, 2]))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        traced(tf.ones([1, 2]))
    assert explain(error.value, zoo, [traced.graph]).startswith(
        f"{zoo}/line.py:{line_of(zoo, 'line', 'assert_less')} in call: "
    )
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        traced(-tf.ones([1, 2]))
    assert explain(error.value, zoo, [traced.graph]).startswith(
        f"{zoo}/line.py:{line_of(zoo, 'line', 'tf.gather')} in gradient: "
    )


@pytest.mark.parametrize("batch", [False, True])
def test_record_that_does_not_parse_is_placed_by_its_operation(tmp_path: Path, batch: bool) -> None:
    kind, mark = ("example", "@vectorised\n    ") if batch else ("single_example", "")
    code = CLASS.replace("def default_input", f"{mark}def default_input").replace(
        "tf.strings.to_number(record)",
        f"tf.io.parse_{kind}(record, {{'a': tf.io.FixedLenFeature([], tf.float32)}})['a']",
    )
    zoo = write_zoo(tmp_path, line=code.replace("tf.stack([number, 1.0])", "number"))
    training = load(spec_of(zoo, "line.Line"))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        list(training.batches(tf.data.Dataset.from_tensor_slices([b"", b""]), 2))
    message = explain(error.value, zoo, training.graphs)
    assert message.startswith(
        f"{zoo}/line.py:{line_of(zoo, 'line', 'tf.io.parse')} in default_input: InvalidArgumentError: "
    )
    assert "Feature: a (data type: float) is required but could not be found." in message


def test_long_texts_of_tensorflow_are_cut_to_their_essence() -> None:
    several = tf.errors.InvalidArgumentError(
        None,
        None,
        "Graph execution error:\n\nDetected at node digits/dense/MatMul defined at (most recent call last):\n"
        '  File "/usr/lib/python3/x.py", line 3, in <module>\n\n  File "/zoo/digits.py", line 42, in call\n\n'
        "2 root error(s) found.\n  (0) INVALID_ARGUMENT: Matrix size-incompatible: In[0]: [2,4], In[1]: [7,2]\n"
        "\t [[{{node digits/dense/MatMul}}]]\n\t [[Identity/_8]]\n  (1) INVALID_ARGUMENT: Matrix size-incompatible\n"
        "\t [[{{node digits/dense/MatMul}}]]\n0 successful operations. [Op:__inference_step_12]",
    )
    assert explain(several, "/zoo") == (
        "/zoo/digits.py:42 in call: InvalidArgumentError: Matrix size-incompatible: In[0]: [2,4], In[1]: [7,2] [[Identity/_8]]"
    )
    assert explain(ValueError("x" * 10_000), "/zoo") == "ValueError: " + "x" * (MAX_LENGTH - 1) + "…"
    assert explain(ValueError(), "/zoo") == "ValueError"


def test_errors_of_ours_pass_unchanged() -> None:
    with pytest.raises(UsageError, match=r"^--data: no$"), user_code("/zoo", "reading"):
        raise UsageError("--data: no")
    assert explain(ModelError("line.py: no"), "/zoo") == "line.py: no"


def test_libraries_inside_the_zoo_folder_are_not_the_users_code(tmp_path: Path) -> None:
    import json

    try:
        json.loads("{")
    except ValueError as error:
        assert explain(error, "/").startswith(f"{Path(__file__)}:")  # not /usr/lib/python3/json/decoder.py
