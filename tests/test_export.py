"""An exported model gives the trained model's outputs in a Python that does not have this package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce import contracts, export, keras_file, storage, trained_model
from edl_allreduce.contracts import Mode
from edl_allreduce.errors import ModelError, StorageError, UsageError
from edl_allreduce.spec import JobSpec
from edl_allreduce.tf_example import example_bytes
from launcher.cli import main as edl
from tests.zoo import write_zoo

MODELS = """
def default_loss():
    return ["mse", "mse"]

def default_optimizer():
    return "sgd"

def default_input(record):
    x = tf.reshape(tf.io.decode_raw(record, tf.float32), [3])
    return {"left": x[:2], "right value": x[2:]}, (x[:1], x)

def two_heads():
    left, right = keras.Input([2], name="left"), keras.Input([1], name="right value")
    x = keras.layers.BatchNormalization()(keras.layers.Concatenate()([left, right]))
    price, kind = keras.layers.Dense(1, name="price")(x), keras.layers.Dense(3, name="kind")(x)
    return keras.Model({"left": left, "right value": right}, [price, kind])

class Named(keras.Model):
    def __init__(self, units=3):
        super().__init__()
        self.dense, self.norm = keras.layers.Dense(units), keras.layers.BatchNormalization()

    def call(self, x, training=False):
        return {"twice": 2 * self.norm(self.dense(x["left"]), training=training), "same": x["right value"]}

    def default_loss(self, labels, outputs):
        return tf.reduce_mean(outputs["twice"], axis=1)

    def default_optimizer(self):
        return "sgd"

    default_input = staticmethod(default_input)

class Unsaveable(Named):
    def get_config(self):
        raise NotImplementedError("kept by its author")

class Forgetful(Named):
    def __init__(self, units=3):
        super().__init__(units)

    def get_config(self):
        return {"size": 3}

class Hidden(Named):
    def build(self, shape):
        self.__dict__["unseen"] = [keras.layers.Dense(2)]

    def call(self, x, training=False):
        return super().call(x, training)

class Shift(keras.layers.Layer):
    def __init__(self, by):
        super().__init__()
        self.by = by
        self.weight = self.add_weight(shape=[3], name="weight")

    def call(self, x):
        return x + self.by * self.weight

def with_own_layer():
    left, right = keras.Input([2], name="left"), keras.Input([1], name="right value")
    x = Shift(2.0)(keras.layers.Concatenate()([left, right]))
    return keras.Model({"left": left, "right value": right}, [keras.layers.Dense(1)(x), x])

table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0]), 0.0)

@vectorised
def looked_up(records):
    x = table.lookup(records)[:, None] + [[0.0, 1.0]]
    return {"left": x, "right value": x[:, :1]}, x[:, :1]
"""


@dataclass(frozen=True)
class Case:
    """A model to export.

    Attributes:
        records: what it reads.
        flags: of the job.
        keras: whether Keras alone can load it.
    """

    records: list[bytes]
    flags: Mapping[str, str]
    keras: bool = True


HOUSE = str(Path(__file__).parent.parent / "model_zoo")
FLOATS = [np.array([i, -i, i / 3], np.float32).tobytes() for i in range(5)]
IMAGES = [example_bytes({"image": np.arange(64) % 17 / (i + 1), "label": i}) for i in range(4)]
PERSON = dict.fromkeys(("age", "education_num", "capital_gain", "capital_loss", "hours_per_week"), 3)
PEOPLE = [example_bytes(PERSON | {"age": 20 * i, "sex": sex, "label": 1}) for i, sex in enumerate(["Male", "", "x"])]
CASES = {
    "two_heads": Case(FLOATS, {"model_def": "models.two_heads"}),
    "named": Case(FLOATS, {"model_def": "models.Named", "params": "units=2"}, keras=False),
    "digits_one_by_one": Case(
        IMAGES, {"model_zoo": HOUSE, "model_def": "digits.functional_classifier", "input_fn": "per_record_input"}
    ),
    "census": Case(PEOPLE, {"model_zoo": HOUSE, "model_def": "census.income_model"}),
    "iris": Case(
        [example_bytes({"features": [i, 1.0, 2.0, 3.0], "label": 0}) for i in range(3)],
        {"model_zoo": HOUSE, "model_def": "elasticdl_iris"},
    ),
}

ALONE = """
import json, os, sys
for name in ("edl_allreduce", "launcher", "model_zoo", "horovod"):
    sys.modules[name] = None  # whoever imports it fails
os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["CUDA_VISIBLE_DEVICES"] = "3", "-1"
import keras, numpy, tensorflow as tf

def lists(outputs):
    return {name: value.numpy().tolist() for name, value in outputs.items()}

told = {}
for name, use_keras in json.loads(sys.argv[2]).items():
    folder = os.path.join(sys.argv[1], name)
    given = dict(numpy.load(os.path.join(folder, "features.npz")))
    features = {key: tf.constant(value) for key, value in given.items() if key != "serialized"}
    serialized = [bytes.fromhex(str(text)) for text in given["serialized"]]
    signatures = tf.saved_model.load(os.path.join(folder, "exported", "saved_model")).signatures
    told[name] = {
        "default": lists(signatures["serving_default"](**features)),
        "serialized": lists(signatures["serving_serialized"](serialized=tf.constant(serialized))),
        "one": lists(signatures["serving_serialized"](serialized=tf.constant(serialized[:1]))),
    }
    if use_keras:
        model = keras.saving.load_model(os.path.join(folder, "exported", "model.keras"))
        names = {tensor.name.replace(" ", "_"): tensor.name for tensor in model.inputs}
        inputs = {names.get(key, key): value for key, value in features.items()}
        outputs = model(inputs if isinstance(model._inputs_struct, dict) else list(inputs.values())[0], training=False)
        flat = outputs if isinstance(outputs, list) else [outputs]
        told[name]["keras"] = [each.numpy().tolist() for each in flat]
print(json.dumps(told))
"""


def train(folder: Path, **flags: str) -> str:
    """A trained model's folder; its moving statistics and weights are no longer those it began with."""
    keras.utils.set_random_seed(len(str(flags)))
    zoo = write_zoo(folder / "zoo", models=MODELS)
    spec = JobSpec.from_flags({"model_zoo": zoo, "data": "none", "output": str(folder / "trained"), **flags})
    training = contracts.load(spec.model)
    training.build()
    for variable in training.model.trainable_variables:
        variable.assign_add(tf.random.normal(variable.shape, stddev=0.1))
    for variable in training.model.non_trainable_variables:
        if variable.path.endswith(("moving_mean", "moving_variance")):
            variable.assign_add(tf.random.uniform(variable.shape))
    trained_model.write(training.model, spec, spec.output.output, overwrite=False)
    return spec.output.output


@dataclass(frozen=True)
class Found:
    """What the loaded model gives for a case's records, and what an isolated Python found in the exported ones."""

    outputs: Any
    alone: Mapping[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """Of every case; one Python loads them all."""
    root = tmp_path_factory.mktemp("export")
    expected = {}
    for name, case in CASES.items():
        url = train(root / name, **case.flags)
        loaded = trained_model.load(url, Mode.PREDICTION)
        records = tf.data.Dataset.from_tensor_slices(case.records)
        features = next(iter(loaded.training.batches(records, len(case.records))))
        names = ["features"] if not isinstance(features, dict) else [key.replace(" ", "_") for key in sorted(features)]
        arrays = dict(zip(names, (each.numpy() for each in tf.nest.flatten(features)), strict=True))
        arrays = {key: each.astype(str) if each.dtype == object else each for key, each in arrays.items()}
        np.savez(root / name / "features.npz", serialized=as_texts(case.records), **arrays)
        expected[name] = loaded.model(features, training=False)
        export.export(url, str(root / name / "exported"))
    script = root / "alone.py"
    script.write_text(ALONE)
    wanted = json.dumps({name: case.keras for name, case in CASES.items()})
    ended = subprocess.run(
        [sys.executable, "-I", str(script), str(root), wanted], cwd=root, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    alone = json.loads(ended.stdout)
    return {name: Found(expected[name], alone[name]) for name in CASES}


def as_texts(records: list[bytes]) -> Any:
    """In hexadecimal digits: NumPy drops zeros at the end of bytes."""
    return np.array([record.hex() for record in records])


@pytest.mark.parametrize("name", CASES)
def test_a_saved_model_gives_the_same_outputs_without_our_package(found: dict[str, Found], name: str) -> None:
    outputs, alone = found[name].outputs, found[name].alone
    if isinstance(outputs, dict):
        expected = outputs
    else:
        flat = tf.nest.flatten(outputs)
        expected = dict(zip(["price", "kind"] if len(flat) > 1 else ["outputs"], flat, strict=True))
    assert set(alone["default"]) == set(alone["serialized"]) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(alone["default"][key], values, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(alone["serialized"][key], values, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(alone["one"][key], values[:1], rtol=1e-4, atol=1e-4)  # sums of another batch size


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.keras])
def test_keras_alone_loads_models_of_its_own_layers(found: dict[str, Found], name: str) -> None:
    for alone, ours in zip(found[name].alone["keras"], tf.nest.flatten(found[name].outputs), strict=True):
        np.testing.assert_allclose(alone, ours, rtol=1e-6, atol=1e-6)


def test_a_model_that_is_a_class_needs_it_and_that_is_said(tmp_path: Path) -> None:
    url = train(tmp_path, model_def="models.Named", params="units=5")
    (exported,) = export.export(url, str(tmp_path / "out"), ["keras"])
    assert exported.notes == (
        "to load it, import models.Named from the model's zoo:",
        "  keras.saving.load_model(path, custom_objects={'Named': Named})",
    )
    loaded = trained_model.load(url, Mode.PREDICTION)
    features = {"left": np.ones([2, 2], "float32"), "right value": np.zeros([2, 1], "float32")}
    for path in (exported.path, f"{url}/model.keras"):
        again = keras.saving.load_model(path, custom_objects={"Named": type(loaded.model)})
        assert again(features)["twice"].shape == (2, 5), "made with its params, which Keras does not note"
        tf.nest.map_structure(np.testing.assert_array_equal, again(features), loaded.model(features))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.keras"]


def test_a_model_that_keras_cannot_save_has_a_saved_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = train(tmp_path, model_def="models.Unsaveable")
    with pytest.raises(ModelError, match=r"^Keras cannot save this model; its class needs .*: kept by its author$"):
        export.export(url, str(tmp_path / "out"), ["keras", "saved_model"])
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out-*"))
    (exported,) = export.export(url, str(tmp_path / "out"))
    assert "model.keras left out: Keras cannot save this model; " in caplog.text
    inputs, outputs = "left float32 [n, 2], right_value float32 [n, 1]", "same float32 [n, 1], twice float32 [n, 3]"
    assert exported.notes[0] == f"serving_default: {inputs} -> {outputs}"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["saved_model"]


@pytest.mark.parametrize(
    ("model_def", "told"),
    [
        ("models.Forgetful", r"^Keras cannot load this model again; its class needs .*: TypeError: "),
        (
            "models.Hidden",
            r"^Keras loads other weights than it has saved; the model must have all its layers as attrib",
        ),
    ],
)
def test_a_file_that_keras_could_not_load_again_is_not_written(tmp_path: Path, model_def: str, told: str) -> None:
    url = train(tmp_path, model_def=model_def)
    with pytest.raises(ModelError, match=told):
        export.export(url, str(tmp_path / "out"), ["keras"])
    assert not (tmp_path / "out").exists()


def test_layers_of_the_users_own_are_named(tmp_path: Path) -> None:
    url = train(tmp_path, model_def="models.with_own_layer")
    (exported,) = export.export(url, str(tmp_path / "out"), ["keras"])
    assert exported.notes[1] == "  keras.saving.load_model(path, custom_objects={'Shift': Shift})"
    loaded = trained_model.load(url)
    layer = next(type(layer) for layer in loaded.model.layers if type(layer).__name__ == "Shift")
    again = keras.saving.load_model(exported.path, custom_objects={"Shift": layer})
    features = {"left": np.ones([2, 2], "float32"), "right value": np.zeros([2, 1], "float32")}
    tf.nest.map_structure(np.testing.assert_array_equal, again(features), loaded.model(features))


def test_python_code_in_a_model_is_told() -> None:
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__"}}}
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [layer]}}
    assert keras_file.needed_by(config) == (
        "it has Python code in it (a Lambda layer): Keras loads it with safe_mode=False only",
    )
    assert keras_file.needed_by({**config, "config": {}}) == ()


def test_an_input_function_that_cannot_be_saved_is_left_out(tmp_path: Path) -> None:
    url = train(tmp_path, model_def="models.Named", input_fn="looked_up")
    (exported,) = export.export(url, str(tmp_path / "out"), ["saved_model"])
    assert exported.notes[1].startswith("without serving_serialized, since the input function cannot be saved: ")
    signatures = tf.saved_model.load(exported.path).signatures
    assert list(signatures) == ["serving_default"]
    outputs = signatures["serving_default"](left=tf.ones([2, 2]), right_value=tf.ones([2, 1]))
    assert outputs["twice"].shape == [2, 3]


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    url, out = train(tmp_path, model_def="models.two_heads"), tmp_path / "out"
    export.export(url, str(out))
    with pytest.raises(UsageError, match=r"^--output: .*out already exists; choose another folder or add --overwrite$"):
        export.export(url, str(out))
    export.export(url, str(out), ["keras"], overwrite=True)
    assert [path.name for path in out.iterdir()] == ["model.keras"]
    (out / "thesis.txt").write_text("ten years")
    with pytest.raises(UsageError, match=r"holds 'thesis\.txt', which no export has written; choose another folder$"):
        export.export(url, str(out), overwrite=True)
    with pytest.raises(UsageError, match=r"thesis\.txt is a file; choose a folder$"):
        export.export(url, str(out / "thesis.txt"), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trained", "zoo"]


def test_a_bucket_can_be_exported_to(tmp_path: Path) -> None:
    url = train(tmp_path, model_def="models.two_heads")
    export.export(url, "memory://bucket/out", ["saved_model"])
    export.export(url, "memory://bucket/out", ["saved_model"], overwrite=True)
    assert storage.names_in("memory://bucket/out") == ["saved_model"]
    assert "saved_model.pb" in (storage.names_in("memory://bucket/out/saved_model") or [])


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = train(tmp_path, model_def="models.two_heads")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(StorageError, match=r"no space left on device"):
        export.export(url, str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trained", "zoo"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            lambda words: [*words, "--format=onnx"],
            2,
            "--format: expected keras or saved_model, or both joined by a comma",
        ),
        (lambda words: words, 2, "nowhere: is no trained model: there is no such folder"),
    ],
)
def test_mistakes_are_one_line(
    change: Callable[[list[str]], list[str]],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = change(["--trained_model=nowhere", f"--output={tmp_path}/out"])
    assert export.main(words) == code
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}") and told.count("\n") == 1


def test_the_command_exports_in_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url = train(tmp_path, model_def="models.two_heads")
    assert edl(["export", f"--trained_model={url}", f"--output={tmp_path}/out"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    outputs = "kind float32 [n, 3], price float32 [n, 1]"
    assert out.splitlines() == [
        f"wrote {tmp_path}/out/saved_model",
        f"  serving_default: left float32 [n, 2], right_value float32 [n, 1] -> {outputs}",
        f"  serving_serialized: serialized string [n] -> {outputs}",
        f"wrote {tmp_path}/out/model.keras",
    ]
    assert edl(["export", f"--trained_model={url}", f"--output={tmp_path}/out"]) == 2
    assert capfd.readouterr().err.startswith(f"error: --output: {tmp_path}/out already exists")
    assert edl(["export", f"--trained_model={url}", f"--output={tmp_path}/out", "--overwrite=perhaps"]) == 2
