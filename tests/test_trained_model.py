# ruff: noqa: E501 (what users read stands here unbroken)
"""A trained model's folder gives the very same model again, or says what is wrong with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open

from edl_allreduce import bundle, contracts, parameters, storage, storage_retry, trained_model
from edl_allreduce.errors import DataError, EdlError, ModelError, StorageError, UsageError
from edl_allreduce.spec import JobSpec
from edl_allreduce.trained_model_pb2 import TrainedModel
from tests.disks import enlarge, full_disk
from tests.zoo import GOOD, line_of, write_zoo

SUBCLASS = """
class Block(keras.layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense, self.norm = keras.layers.Dense(units, use_bias=False), keras.layers.BatchNormalization()

    def call(self, x, training=False):
        return self.norm(self.dense(x), training=training)

class Words(keras.Model):
    def __init__(self, hidden_units, vocabulary=7, dtype="float32"):
        super().__init__(dtype=dtype)
        self.embedding = keras.layers.Embedding(vocabulary, 3, dtype=dtype)
        self.blocks = [Block(units) for units in hidden_units]
        self.drop = keras.layers.Dropout(0.5)
        self.last = keras.layers.Dense(2, dtype=dtype)

    def call(self, words, training=False):
        x = self.embedding(words)
        for block in self.blocks:
            x = block(x, training=training)
        return self.last(self.drop(x, training=training))

    def default_loss(self):
        return "mse"

    def default_optimizer(self):
        return "sgd"

    def default_input(self, record):
        word = tf.strings.to_number(record, tf.int32)
        return word, tf.cast(tf.stack([word, word]), tf.float32)
"""

FUNCTIONAL = """
def words(units=3, last="linear"):
    inputs = keras.Input([], dtype="int32")
    x = keras.layers.Embedding(7, 5)(inputs)
    x = keras.layers.BatchNormalization()(keras.layers.Dense(units)(x))
    return keras.Model(inputs, keras.layers.Dense(2, activation=last)(keras.layers.Dense(units)(x)))

def default_loss():
    return "mse"

def default_optimizer():
    return "sgd"

@vectorised
def default_input(records):
    words = tf.strings.to_number(records, tf.int32)
    return words, tf.cast(tf.stack([words, words], axis=1), tf.float32)
"""

LINE = (
    """
class Line(keras.Model):
    def __init__(self, units=1):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)
"""
    + GOOD
)

RECORDS = [b"1", b"2", b"3", b"4", b"5", b"6"]


def job(zoo: str, model_def: str, output: str, params: str = "", **more: Any) -> JobSpec:
    given = {"model_zoo": zoo, "model_def": model_def, "params": params, "data": "x.recordio", "output": output, **more}
    return JobSpec.from_flags(given)


def made(spec: JobSpec, seed: int = 1) -> Any:
    """The job's model with random values in all its weights, as if it had been trained."""
    training = contracts.load(spec.model)
    training.build()
    random = np.random.default_rng(seed)
    for variable in training.model.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return training.model


def batch() -> Any:
    return tf.data.Dataset.from_tensor_slices(RECORDS)


@pytest.mark.parametrize(
    ("code", "model_def", "params"),
    [
        (SUBCLASS, "words.Words", "hidden_units=[4, 3]"),
        (SUBCLASS, "words.Words", "hidden_units=[4], dtype='bfloat16'"),
        (SUBCLASS, "words.Words", "hidden_units=[]"),
        (FUNCTIONAL, "words.words", "units=4, last='relu'"),
    ],
)
def test_round_trip_is_bit_exact(tmp_path: Path, code: str, model_def: str, params: str) -> None:
    spec = job(write_zoo(tmp_path / "zoo", words=code), model_def, str(tmp_path / "out"), params)
    model = made(spec)
    trained_model.write(model, spec, spec.output.output, overwrite=False)
    shutil.rmtree(tmp_path / "zoo")
    keras.Sequential(
        [keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )  # Keras numbers the next ones otherwise
    loaded = trained_model.load(spec.output.output)
    assert [variable.path for variable in loaded.model.weights] != [variable.path for variable in model.weights]
    for theirs, ours in zip(loaded.model.weights, model.weights, strict=True):
        assert theirs.dtype == ours.dtype
        assert theirs.numpy().tobytes() == ours.numpy().tobytes()
    words = tf.constant([1, 2, 3, 4, 5, 6])
    expected = model(words, training=False).numpy().tobytes()
    assert loaded.model(words, training=False).numpy().tobytes() == expected
    ((parsed, labels),) = loaded.parse(batch(), 10)
    assert parsed.numpy().tolist() == [1, 2, 3, 4, 5, 6] and labels.shape == [6, 2]
    assert loaded.spec == spec


def test_what_the_folder_says(tmp_path: Path) -> None:
    zoo = write_zoo(
        tmp_path / "zoo",
        words=FUNCTIONAL,
        other__parse="def parse(record):\n    return tf.strings.to_number(record, tf.int32), 0.0\n",
    )
    Path(zoo, "requirements.txt").write_text("scikit-learn\n")
    spec = job(
        zoo, "words.words", str(tmp_path / "out"), "units=4", input_fn="other.parse.parse", loss="mae", optimizer="adam"
    )
    trained_model.write(made(spec), spec, spec.output.output, overwrite=False, notes={"steps": "240"})
    out = tmp_path / "out"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "trained_model.pb", "params.safetensors", "spec.json", "bundle.json", "model.keras",
        "model_zoo/words.py", "model_zoo/other/parse.py", "model_zoo/requirements.txt",
    }  # fmt: skip
    assert TrainedModel.FromString((out / "trained_model.pb").read_bytes()) == TrainedModel(
        model_def="words.words",
        model_def_params="units=4",
        params_filename="params.safetensors",
        input_function="other.parse.parse",
        loss="mae",
        optimizer="adam",
    )
    about = json.loads((out / "bundle.json").read_text())
    assert about["notes"] == {"steps": "240"} and about["versions"]["keras"] == keras.version()
    assert about["files"]["params.safetensors"] == hashlib.sha256((out / "params.safetensors").read_bytes()).hexdigest()
    assert JobSpec.from_json((out / "spec.json").read_text()) == spec
    again = keras.models.load_model(out / "model.keras")
    assert [variable.shape for variable in again.weights] == [
        (7, 5),
        (5, 4),
        (4,),
        (4,),
        (4,),
        (4,),
        (4,),
        (4, 4),
        (4,),
        (4, 2),
        (2,),
    ]


@pytest.mark.parametrize(
    ("image", "commit_id"),
    [
        ("", ""),
        ("registry.example.com/team/fintech:v1", ""),
        (f"r.example.com/t@sha256:{'0a' * 32}", f"docker-pullable://r.example.com/t@sha256:{'0a' * 32}"),
    ],
)
def test_the_image_is_named_when_nobody_can_change_what_it_names(tmp_path: Path, image: str, commit_id: str) -> None:
    spec = job(write_zoo(tmp_path / "zoo", words=FUNCTIONAL), "words.words", str(tmp_path / "out"), "units=4")
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, image=image))
    trained_model.write(made(spec), spec, spec.output.output, overwrite=False)
    said = TrainedModel.FromString((tmp_path / "out/trained_model.pb").read_bytes())
    assert said.docker_commit_id == commit_id


def test_fields_of_the_message_are_those_of_elasticdl() -> None:
    fields = {field.name: field.number for field in TrainedModel.DESCRIPTOR.fields}
    assert fields == {
        "docker_commit_id": 1, "model_def": 2, "model_def_params": 3, "params_filename": 4, "input_function": 5, "loss": 6, "optimizer": 7,
    }  # fmt: skip
    assert TrainedModel.DESCRIPTOR.full_name == "edl_allreduce.TrainedModel"


def test_model_that_keras_cannot_save_is_written_without_model_keras(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = LINE + "\n    def get_config(self):\n        raise NotImplementedError('no config')\n"
    spec = job(write_zoo(tmp_path / "zoo", line=code), "line.Line", str(tmp_path / "out"))
    model = made(spec)
    with caplog.at_level(logging.WARNING):
        trained_model.write(model, spec, spec.output.output, overwrite=False)
    assert caplog.messages == ["model.keras left out, Keras cannot save this model: NotImplementedError: no config"]
    assert not (tmp_path / "out" / "model.keras").exists()
    loaded = trained_model.load(spec.output.output)
    assert np.array_equal(loaded.model(tf.ones([1, 2])), model(tf.ones([1, 2])))


def test_urls(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/out"
    spec = job(write_zoo(tmp_path / "zoo", line=LINE), "line.Line", url)
    model = made(spec)
    trained_model.write(model, spec, url, overwrite=False)
    assert np.array_equal(trained_model.load(url).model(tf.ones([1, 2])), model(tf.ones([1, 2])))


def test_two_trained_models_of_one_process_do_not_mix(tmp_path: Path) -> None:
    loaded = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        spec = job(
            write_zoo(folder / "zoo", line=LINE.replace("self.dense(inputs)", f"{number} + 0 * self.dense(inputs)")),
            "line.Line",
            str(folder / "out"),
        )
        trained_model.write(made(spec), spec, spec.output.output, overwrite=False)
        loaded.append(trained_model.load(spec.output.output))
    assert [float(each.model(tf.ones([1, 2]))[0, 0]) for each in loaded] == [1.0, 2.0]


def test_replacing_removes_what_the_older_one_had_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = job(write_zoo(tmp_path / "zoo", line=LINE, old="X = 1\n"), "line.Line", str(out))
    trained_model.write(made(first), first, str(out), overwrite=False)
    (out / "model_zoo" / "mine.py").write_text("kept\n")
    (out / "tensorboard").write_text("kept\n")
    second = job(write_zoo(tmp_path / "zoo2", line=LINE), "line.Line", str(out), "units=3")
    with pytest.raises(
        UsageError, match=r"/out: holds a trained model already; choose another folder or add --overwrite$"
    ):
        trained_model.write(made(second), second, str(out), overwrite=False)
    assert trained_model.load(str(out)).model.weights[0].shape == (2, 1)
    trained_model.write(made(second), second, str(out), overwrite=True)
    assert trained_model.load(str(out)).model.weights[0].shape == (2, 3)
    assert not (out / "model_zoo" / "old.py").exists()
    assert (out / "model_zoo" / "mine.py").exists() and (out / "tensorboard").exists()


def test_a_job_may_write_its_own_result_again(tmp_path: Path) -> None:
    spec = job(write_zoo(tmp_path / "zoo", line=LINE), "line.Line", str(tmp_path / "out"))
    assert bundle.written_by(spec.output.output) is None
    for seed in (1, 2):
        trained_model.write(made(spec, seed), spec, spec.output.output, overwrite=False, job="line-1")
    assert bundle.written_by(spec.output.output) == "line-1"
    for other in ("line-2", ""):
        with pytest.raises(UsageError, match="holds a trained model already"):
            trained_model.write(made(spec), spec, spec.output.output, overwrite=False, job=other)
    assert np.array_equal(trained_model.load(spec.output.output).model.weights[0], made(spec, 2).weights[0])


def test_killed_while_replacing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = job(write_zoo(tmp_path / "zoo", line=LINE), "line.Line", str(tmp_path / "out"))
    trained_model.write(made(spec, 1), spec, spec.output.output, overwrite=False)
    real = storage.upload_tree

    def killed(folder: str, url: str, last: tuple[str, ...]) -> None:
        Path(folder, "bundle.json").unlink()
        Path(folder, "trained_model.pb").unlink()
        real(folder, url, [name for name in last if Path(folder, name).exists()])
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "upload_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        trained_model.write(made(spec, 2), spec, spec.output.output, overwrite=True)
    with pytest.raises(
        UsageError, match=r"/out: is no trained model: it has no trained_model\.pb: not finished, or being"
    ):
        trained_model.load(spec.output.output)
    assert bundle.written_by(spec.output.output) is None


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    spec = job(write_zoo(folder / "zoo", line=LINE), "line.Line", str(folder / "out"))
    trained_model.write(made(spec), spec, str(folder / "out"), overwrite=False)
    return folder / "out"


def relist(out: Path) -> None:
    """Brings bundle.json up to date, as if the files had been written so."""
    files = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file()
    }
    (out / "bundle.json").write_text(json.dumps({"files": files}))


def change_code(out: Path, code: str) -> None:
    write_zoo(out / "model_zoo", line=code)
    relist(out)


def rename(out: Path, name: str) -> None:
    about = (out / "bundle.json").read_text().replace("model_zoo/line.py", name)
    (out / "bundle.json").write_text(about)


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "kind", "expected"),
    [
        (lambda out: shutil.rmtree(out), UsageError, "OUT: is no trained model: there is no such folder"),
        (lambda out: (out / "trained_model.pb").unlink(), UsageError, "OUT: is no trained model: it has no trained_model.pb"),
        (lambda out: (out / "trained_model.pb").write_bytes(b"\xff\xff\xff"), DataError, "OUT: trained_model.pb is not the one that bundle.json lists: damaged, or being replaced right now"),
        (lambda out: ((out / "trained_model.pb").write_bytes(b"\xff\xff\xff"), relist(out)), DataError, "OUT: its trained_model.pb is damaged"),
        (lambda out: (out / "bundle.json").unlink(), DataError, "OUT: its bundle.json cannot be read: OUT/bundle.json: no such file or directory"),
        (lambda out: (out / "bundle.json").write_text("{"), DataError, "OUT: its bundle.json is damaged"),
        (lambda out: rename(out, "../../line.py"), DataError, "OUT: its bundle.json is damaged"),
        (lambda out: rename(out, "/tmp/line.py"), DataError, "OUT: its bundle.json is damaged"),
        (lambda out: (out / "params.safetensors").unlink(), DataError, "OUT: a file of the trained model cannot be read: OUT/params.safetensors: no such file or directory"),
        (lambda out: ((out / "params.safetensors").unlink(), relist(out)), DataError, "OUT: its bundle.json lists no 'params.safetensors'"),
        (lambda out: ((out / "params.safetensors").write_bytes(b"12345678"), relist(out)), DataError, "OUT/params.safetensors: not a file of parameters that edl_allreduce wrote: "),
        (lambda out: ((out / "spec.json").write_text('{"modle": {}}'), relist(out)), DataError, "OUT: its spec.json is none of this version of edl_allreduce: job: there is no field 'modle' (did you mean 'model'?)"),
        (lambda out: ((out / "model_zoo" / "line.py").unlink(), relist(out)), DataError, "OUT: its code is incomplete: --model_zoo: expected a folder with the model's Python files, 'model_zoo' is none"),
        (lambda out: change_code(out, LINE.replace("units=1", "units=3")), ModelError, "OUT/params.safetensors: line/dense/kernel is float32 [2, 1], the model's code makes it float32 [2, 3]"),
        (lambda out: change_code(out, LINE.replace("Dense(units)", "Dense(units, use_bias=False)")), ModelError, "OUT/params.safetensors: has 2 parameters, the model's code makes 1 (only one of them has line/dense/bias)"),
        (lambda out: change_code(out, LINE.replace("Dense(units)", "Dense(units, name='deep')")), ModelError, "OUT/params.safetensors: has line/dense/kernel where the model's code makes line/deep/kernel"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder(
    tmp_path: Path, written: Path, damage: Damage, kind: type[EdlError], expected: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(written, out)
    damage(out)
    with pytest.raises(EdlError) as error:
        trained_model.load(str(out))
    assert type(error.value) is kind
    message = re.sub(r"(line|dense|deep)_\d+/", r"\1/", str(error.value).replace(str(out), "OUT"))
    assert message.startswith(expected) and "\n" not in message


def test_code_that_fails_is_placed_in_the_folder(tmp_path: Path, written: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(written, out)
    change_code(out, LINE.replace("return self.dense(inputs)", "raise ValueError('no')"))
    line = line_of(str(out / "model_zoo"), "line", "raise ValueError")
    with pytest.raises(ModelError) as error:
        trained_model.load(str(out))
    assert str(error.value) == f"{out}: model_zoo/line.py:{line} in call: ValueError: no"


class Variable:
    def __init__(self, path: str, value: Any) -> None:
        self.path, self.value = path, np.asarray(value)
        self.shape, self.dtype = self.value.shape, self.value.dtype

    def numpy(self) -> Any:
        return self.value

    def assign(self, value: Any) -> None:
        self.value = value


def test_parameters_of_every_shape_and_repeated_names(tmp_path: Path) -> None:
    values = [
        np.float32(3.5),
        np.zeros([0, 4], "int64"),
        np.array([True]),
        np.array([1.5], tf.bfloat16.as_numpy_dtype),
        np.arange(6.0).reshape(2, 3).T,
    ]
    path = str(tmp_path / "params.safetensors")
    parameters.save([Variable("layer/kernel", value) for value in values], path)
    restored = [Variable(f"layer_{i + 1}/kernel", np.zeros_like(value)) for i, value in enumerate(values)]
    parameters.restore(restored, path, "params")
    for variable, value in zip(restored, values, strict=True):
        assert np.array_equal(variable.value, value) and variable.value.dtype == value.dtype
    assert parameters.unique(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]


def test_parameters_are_assigned_all_or_none(tmp_path: Path) -> None:
    path = str(tmp_path / "params.safetensors")
    parameters.save([Variable("a", [1.0]), Variable("b", [2.0])], path)
    restored = [Variable("a", [0.0]), Variable("b", [0.0, 0.0])]
    with pytest.raises(ModelError, match=r"^params: b is float64 \[1\], the model's code makes it float64 \[2\]$"):
        parameters.restore(restored, path, "params")
    assert restored[0].value.tolist() == [0.0]


def test_a_file_of_parameters_is_one_of_the_format(tmp_path: Path) -> None:
    """It is written by our own code; the format's own library must read the same bytes, in several blocks too."""
    large = np.arange(parameters.BLOCK_BYTES // 4 * 2 + 5, dtype=np.float32)
    with (tmp_path / "a").open("wb") as out:
        parameters.write(["one", "large", "half"], [np.int64(1), large, tf.ones([2, 3], tf.bfloat16)], out)
    with safe_open(tmp_path / "a", framework="np") as file:
        assert file.metadata() == {parameters.ORDER: '["one", "large", "half"]'}
        assert np.array_equal(file.get_tensor("large"), large) and file.get_tensor("one").shape == ()
        assert file.get_slice("half").get_dtype() == "BF16" and file.get_slice("half").get_shape() == [2, 3]


def test_a_variable_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^the variable words is of type object: only bool, int8, .* can be stored$"):
        parameters.save([Variable("words", np.array([b"a", "b"], dtype=object))], str(tmp_path / "params"))


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_retry, "PATIENCE_SECONDS", 1.0)
    with full_disk(tmp_path / "disk", kibibytes=24) as disk:
        spec = job(write_zoo(tmp_path / "zoo", line=LINE), "line.Line", str(disk / "out"), "units=1000")
        model = made(spec)
        with pytest.raises(StorageError, match=r"no space left on device: free some, or choose another folder$"):
            trained_model.write(model, spec, spec.output.output, overwrite=False)
        assert not (disk / "out" / "trained_model.pb").exists()
        monkeypatch.setattr(storage_retry, "PATIENCE_SECONDS", 60.0)
        later = threading.Timer(0.7, enlarge, (disk, 4096))
        later.start()
        trained_model.write(model, spec, spec.output.output, overwrite=False)
        later.join()
        assert np.array_equal(trained_model.load(spec.output.output).model.weights[0], model.weights[0])


def test_a_temporary_folder_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full_disk(tmp_path / "disk", kibibytes=16) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        spec = job(write_zoo(tmp_path / "zoo", line=LINE), "line.Line", str(tmp_path / "out"), "units=9000")
        with pytest.raises(
            StorageError, match=r"/disk/edl-bundle-\w+ \(where the trained model is put together\): no space"
        ):
            trained_model.write(made(spec), spec, spec.output.output, overwrite=False)
        assert not list(disk.iterdir()) and not (tmp_path / "out").exists()
