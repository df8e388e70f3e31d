"""The models of the zoo learn what they are for, from data that is made here, under both names they can have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce import contracts, recordio, storage, trained_model
from edl_allreduce.contracts import TrainingModel
from edl_allreduce.errors import StorageError
from edl_allreduce.spec import JobSpec
from model_zoo import command, digits, tables
from model_zoo.data import records_of

HOUSE = Path(__file__).parent.parent
ZOO = str(HOUSE / "model_zoo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    digits.make(str(folder / "digits"))
    tables.make(str(folder))
    return folder


def train(spec: JobSpec, seed: int = 0) -> TrainingModel:
    """Plain Keras, on the batches that the contract gives."""
    keras.utils.set_random_seed(seed)
    training = contracts.load(spec.model)
    training.build()
    batches = training.batches(records_of([spec.data.data]).shuffle(2000, seed=seed), spec.training.batch_size or 0)

    @tf.function
    def step(features: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(training.loss(labels, training.model(features, training=True)))
        training.optimizer.apply(tape.gradient(loss, training.model.trainable_variables))
        return loss

    training.optimizer.build(training.model.trainable_variables)
    for _ in range(spec.training.num_epochs):
        for features, labels in batches:
            step(features, labels)
    return training


def job(
    model_def: str, folder: Path, output: Path, epochs: int, batch_size: int, params: str = "", **more: Any
) -> JobSpec:
    values = {
        "model_zoo": ZOO,
        "model_def": model_def,
        "params": params,
        "data": str(folder / "train"),
        "output": str(output),
    }
    return JobSpec.from_flags({**values, "num_epochs": epochs, "batch_size": batch_size, **more})


def command_line(run: Any, *argv: str) -> int:
    """The exit code of one of the zoo's commands."""
    with pytest.raises(SystemExit) as ended:
        command.run("tables", run, at_least=0.9, argv=argv)
    return int(ended.value.code or 0)


def labels_of(files: Sequence[str]) -> list[int]:
    return [int(label) for label in tf.io.parse_example(list(records_of(files)), digits.EXAMPLE)["label"]]


def test_digits_are_all_there_spread_over_files_and_chunks(data: Path) -> None:
    train_files, test_files = (
        sorted((data / "digits" / "train").iterdir()),
        sorted((data / "digits" / "test").iterdir()),
    )
    assert [file.name for file in train_files] == [f"digits-{i:05d}-of-00006.recordio" for i in range(6)]
    chunks = [chunk.records for index in recordio.index_many([str(file) for file in train_files]) for chunk in index]
    assert sum(chunks) == 1437 and max(chunks) <= 64 and len(chunks) >= 23
    train_labels, test_labels = labels_of([str(data / "digits" / "train")]), labels_of([str(data / "digits" / "test")])
    assert len(train_labels) == 1437 and len(test_labels) == 360 and len(test_files) == 2
    shares = np.bincount(test_labels) / np.bincount(train_labels + test_labels)
    assert np.all(np.abs(shares - 0.2) < 0.01)  # the same share of every digit


def test_digits_are_those_of_scikit_learn(data: Path) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    parsed = tf.io.parse_example(list(records_of([f"{data}/digits/train", f"{data}/digits/test"])), digits.EXAMPLE)
    ours = {
        (tuple(image), int(label))
        for image, label in zip(parsed["image"].numpy().tolist(), parsed["label"], strict=True)
    }
    assert ours == {(tuple(image), int(label)) for image, label in zip(images.tolist(), labels, strict=True)}


def test_making_data_again_gives_the_same_files_or_skips(data: Path, tmp_path: Path) -> None:
    assert (
        digits.make(str(tmp_path / "digits"))
        == f"made 1437 records in {tmp_path}/digits/train and 360 records in {tmp_path}/digits/test"
    )
    for file in storage.expand(f"{tmp_path}/digits/train,{tmp_path}/digits/test"):
        assert Path(file).read_bytes() == (data / Path(file).relative_to(tmp_path)).read_bytes()
    assert digits.make(str(tmp_path / "digits")) == f"train, test are in {tmp_path}/digits already"


def test_data_that_could_not_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, record: bytes) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(recordio.Writer, "write", full)
    with pytest.raises(StorageError, match=r"disk full$"):
        tables.make_table(str(tmp_path / "iris"), "iris")
    assert list((tmp_path / "iris").iterdir()) == []


@pytest.mark.parametrize(
    ("model_def", "params", "more"),
    [
        ("digits.Classifier", "", {}),
        ("digits.functional_classifier", "learning_rate=0.004", {"input_fn": "per_record_input"}),
    ],
)
def test_digits_are_learned_and_told_apart(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model_def: str, params: str, more: dict[str, str]
) -> None:
    spec = job(model_def, data / "digits", tmp_path / "out", 20, 128, params, **more)
    trained_model.write(train(spec).model, spec, spec.output.output, overwrite=False)
    files = storage.expand(str(data / "digits" / "test"))
    assert command_line(digits.make, "evaluate", spec.output.output, *files, "--at_least=0.97") == 0
    assert capsys.readouterr().out.endswith("% on 360 held-out records\n")
    assert command_line(digits.make, "evaluate", spec.output.output, *files, "--at_least=0.9999") == 1
    assert capsys.readouterr().out.endswith("% on 360 held-out records, less than the 99.99% asked for\n")


@pytest.mark.parametrize(
    ("model_def", "table", "params", "at_least"),
    [
        ("classifier.DNN", "iris", "", 0.9),
        ("classifier.DNN", "wine", "n_features=13, hidden_units=[16]", 0.9),
        ("classifier.DNN", "breast_cancer", "n_features=30, n_classes=2, learning_rate=0.005", 0.9),
        ("elasticdl_iris", "iris", "lr=0.2", 0.9),
    ],
)
def test_tables_are_learned(
    data: Path, tmp_path: Path, model_def: str, table: str, params: str, at_least: float
) -> None:
    spec = job(model_def, data / table, tmp_path / "out", 40, 32, params)
    trained_model.write(train(spec).model, spec, spec.output.output, overwrite=False)
    reached, records = command.accuracy(spec.output.output, [str(data / table / "test")])
    assert reached >= at_least and records in (30, 36, 114)


def test_the_three_ways_to_write_the_digits_model_agree(data: Path) -> None:
    folder = data / "digits"
    records = records_of([str(folder / "test")])
    found = []
    for model_def, more in (
        ("digits.Classifier", {}),
        ("digits.functional_classifier", {}),
        ("digits.Classifier", {"input_fn": "digits.per_record_input"}),
    ):
        keras.utils.set_random_seed(3)
        training = contracts.load(job(model_def, folder, data / "out", 1, 128, **more).model)
        training.build()
        features, labels = next(iter(training.batches(records, 50)))
        outputs = training.model(features, training=False)
        found.append((outputs.numpy(), float(tf.reduce_mean(training.loss(labels, outputs)))))
    for outputs, loss in found[1:]:
        np.testing.assert_allclose(outputs, found[0][0], rtol=1e-5, atol=1e-6)  # threads sum in any order
        assert loss == pytest.approx(found[0][1])


def test_elasticdls_feed_gives_features_alone_for_prediction(data: Path) -> None:
    training = contracts.load(
        job("elasticdl_iris", data / "iris", data / "out", 1, 32).model, contracts.Mode.PREDICTION
    )
    features = next(iter(training.parse(records_of([str(data / "iris" / "test")]))))
    assert set(features) == {"features"} and features["features"].shape == [4]


def test_commands_say_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(tables.make, "evaluate", str(tmp_path), str(tmp_path / "no*")) == 3
    told = capsys.readouterr().err
    assert told.startswith("error: no file matches") and told.count("\n") == 1
    assert command_line(tables.make, "evaluate", str(tmp_path)) == 2


def test_digits_from_the_command_line(tmp_path: Path) -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "model_zoo.digits", *argv], cwd=HOUSE, capture_output=True, text=True, check=False
        )

    made = run("make", str(tmp_path))
    assert (made.returncode, made.stderr) == (0, "") and made.stdout.startswith("made 1437 records in ")
    failed = run("evaluate", str(tmp_path / "out"), str(tmp_path / "test"))
    assert failed.returncode == 2
    assert failed.stderr == f"error: {tmp_path}/out: is no trained model: there is no such folder\n"
