"""Every model of the zoo loads by its contract, reads what its data maker makes, and learns from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce import contracts
from edl_allreduce.contracts import Mode, TrainingModel
from edl_allreduce.errors import ModelError
from edl_allreduce.spec import ModelSpec
from model_zoo import census, cifar10, command, deepfm, digits, heart, imagenet_resnet50, mnist, tables
from model_zoo.data import records_of

HOUSE = Path(__file__).parent.parent
ZOO = str(HOUSE / "model_zoo")

MAKERS: dict[str, Callable[[str], str]] = {
    "digits": digits.make,
    "mnist": mnist.make,
    "cifar10": lambda folder: cifar10.make(folder, records=200),
    "imagenet": lambda folder: imagenet_resnet50.make(folder, records=10, size=48),
    "ctr": lambda folder: deepfm.make(folder, records=500),
    "census": lambda folder: census.make(folder, records=500),
    "heart": lambda folder: heart.make(folder, records=500),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, make in MAKERS.items():
        make(str(folder / name))
    for table in tables.TABLES:
        tables.make_table(str(folder / table), table)
    return folder


def load(model_def: str, mode: Mode = Mode.TRAINING, params: str = "", **more: str) -> TrainingModel:
    return contracts.load(ModelSpec(model_zoo=ZOO, model_def=model_def, params=params, **more), mode)


def first_batch(training: TrainingModel, folder: Path, size: int) -> Any:
    return next(iter(training.batches(records_of([str(folder / "train")]), size)))


def losses_of(training: TrainingModel, features: Any, labels: Any, steps: int) -> list[float]:
    """The losses of some steps on one batch, with Keras's own state handling."""
    model, optimizer = training.model, training.optimizer
    optimizer.build(model.trainable_variables)

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(training.loss(labels, model(features, training=True)))
            total = loss + sum(model.losses)
        optimizer.apply(tape.gradient(total, model.trainable_variables), model.trainable_variables)
        return loss

    return [float(step()) for _ in range(steps)]


@pytest.mark.parametrize(
    ("model_def", "folder", "params", "metrics"),
    [
        ("digits.Classifier", "digits", "", ["accuracy"]),
        ("digits.functional_classifier", "digits", "", ["accuracy"]),
        ("mnist.functional_model", "mnist", "", ["accuracy"]),
        ("mnist.CustomModel", "mnist", "", ["accuracy"]),
        ("elasticdl_mnist.MnistElasticDLSpec", "mnist", "lr=0.01", []),
        ("elasticdl_iris", "iris", "lr=0.1", []),
        ("train_spec_wine.Wine", "wine", "", ["accuracy"]),
        ("cifar10.resnet20", "cifar10", "learning_rate=0.02, augment=False", ["accuracy"]),
        ("classifier.DNN", "wine", "n_features=13", ["accuracy"]),
        ("regressor.DNN", "diabetes", "label_mean=152.0, label_std=77.0", ["mae", "rmse"]),
        ("regressor.wide_and_deep.MagicalWAD", "census", "", ["mae", "rmse"]),
        ("deepfm.DeepFM", "ctr", "dropout=0.1", ["auc"]),
        ("census.income_model", "census", "", ["auc", "accuracy"]),
        ("heart.risk_model", "heart", "", ["auc", "accuracy"]),
    ],
)
def test_a_model_learns_a_batch(data: Path, model_def: str, folder: str, params: str, metrics: list[str]) -> None:
    keras.utils.set_random_seed(1)
    training = load(model_def, params=params)
    if metrics:
        assert [each.name for each in training.metrics] == metrics
    training.build()
    features, labels = first_batch(training, data / folder, 32)
    losses = losses_of(training, features, labels, 20)
    assert np.all(np.isfinite(losses)) and losses[-1] < 0.9 * losses[0], losses
    predicting = load(model_def, Mode.PREDICTION, params)
    alone = first_batch(predicting, data / folder, 32)
    tf.nest.map_structure(np.testing.assert_array_equal, alone, features)


def test_resnet50_trains_on_images_of_any_size(data: Path) -> None:
    training = load("imagenet_resnet50.resnet50", params="n_classes=10, image_size=32, learning_rate=0.001")
    assert training.model.count_params() == 23_608_202  # 25,636,712 with the 1,000 classes of ImageNet
    features, labels = first_batch(training, data / "imagenet", 2)
    assert features.shape == [2, 32, 32, 3] and np.all(labels >= 0) and np.all(labels < 10)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(training.loss(labels, training.model(features, training=True)))
    gradients = tape.gradient(loss, training.model.trainable_variables)
    assert np.isfinite(float(loss)) and all(each is not None for each in gradients)
    assert [each.name for each in training.metrics] == ["accuracy", "top_5_accuracy"]


def test_resnet20_is_the_papers() -> None:
    training = load("cifar10.resnet20")
    model = training.model
    assert sum(int(np.prod(each.shape)) for each in model.trainable_variables) == 269_722  # "0.27M" in table 6
    assert len([layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]) == 19
    rates = [float(training.optimizer._learning_rate(step)) for step in (0, 32_001, 48_001)]
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.001], rtol=1e-6)


def test_deepfm_counts_every_pair_once(data: Path) -> None:
    training = load("deepfm.DeepFM", params="hidden_units=[], embedding_dim=3")
    training.build()
    model = training.model
    model.deep.kernel.assign(tf.zeros_like(model.deep.kernel))
    model.weight.embeddings.assign(tf.random.stateless_normal(model.weight.embeddings.shape, [1, 2]))
    ids, _ = first_batch(training, data / "ctr", 4)
    vectors, weights = tf.gather(model.embedding.embeddings, ids).numpy(), tf.gather(model.weight.embeddings, ids)
    pairs = [sum(a @ b for i, a in enumerate(row) for b in row[:i]) for row in vectors]
    expected = np.sum(weights, axis=(1, 2)) + pairs
    np.testing.assert_allclose(model(ids)[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_the_layers_of_census_know_texts_they_have_not_seen() -> None:
    training = load("census.income_model")
    columns = {name: tf.constant([[40.0]]) for name in census.NUMBERS}
    columns |= {name: tf.constant([["never heard of"]]) for name in census.TEXTS}
    assert np.isfinite(training.model(columns)).all()


def test_mnist_and_cifar_come_from_their_own_files_too(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [6, 28, 28], dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images[:4], y_train=[1, 2, 3, 4], x_test=images[4:], y_test=[5, 6])
    assert "4 records" in mnist.make(str(tmp_path / "mnist"), npz=str(tmp_path / "mnist.npz"))
    features, labels = first_batch(load("mnist.functional_model"), tmp_path / "mnist", 9)
    np.testing.assert_allclose(features, images[:4] / 255, rtol=1e-6)
    assert labels.numpy().ravel().tolist() == [1, 2, 3, 4]

    binary = tmp_path / "binary"
    binary.mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        planes = np.stack([np.full([32, 32], colour, np.uint8) for colour in (10, 20, 30)])
        (binary / name).write_bytes(bytes([7]) + planes.tobytes())
    cifar10.make(str(tmp_path / "cifar10"), binary=str(binary))
    features, labels = first_batch(load("cifar10.resnet20"), tmp_path / "cifar10", 9)
    pixels = np.round((features * cifar10.STD + cifar10.MEAN) * 255)
    assert features.shape == [5, 32, 32, 3] and labels.numpy().tolist() == [7] * 5
    assert np.all(pixels == [10, 20, 30])


def test_a_makers_flags_are_its_keyword_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, code in (
        (["make", str(tmp_path / "ctr"), "--records=50"], 0),
        (["make", str(tmp_path / "ctr"), "--recrods=50"], 2),
        (["evaluate", "x", "y"], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            command.run("deepfm", deepfm.make, argv=argv)
        assert ended.value.code == code
    assert capsys.readouterr().out.startswith(f"made 40 records in {tmp_path}/ctr/train and 10 records in ")


def test_a_maker_says_in_one_line_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.run("cifar10", cifar10.make, argv=["make", str(tmp_path / "out"), f"--binary={tmp_path}"])
    told = capsys.readouterr().err
    assert ended.value.code == 4 and told.count("\n") == 1
    assert told.startswith(f"error: --binary: {tmp_path}/data_batch_1.bin: ")


def test_a_wrong_param_is_told_by_name() -> None:
    with pytest.raises(ModelError, match=r"hidden_unit"):
        load("regressor.DNN", params="hidden_unit=[3]")
