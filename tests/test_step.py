"""The training step on a real ring: exact averaging however a batch is split, and all or nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

import keras
import tensorflow as tf

from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import TrainStep
from rendezvous.store import RoundStore
from tests import ring_member


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring("127.0.0.1", spared=0)
    yield ring
    ring.leave()


def test_two_members_with_uneven_parts_equal_one(tmp_path: Path) -> None:
    script = Path(ring_member.__file__)
    store = RoundStore("127.0.0.1")
    runs = [("alone", 0, 1), ("first", 0, 2), ("second", 1, 2)]
    children = {
        name: subprocess.Popen(
            [sys.executable, str(script), str(rank), str(size), str(store.port), str(tmp_path / name)]
        )
        for name, rank, size in runs
    }
    for name, child in children.items():
        assert child.wait(120) == 0, name
    store.close()
    alone, first, second = (np.load(tmp_path / f"{name}.npz") for name, _, _ in runs)
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], alone[name], rtol=2e-4, atol=1e-6)


def test_one_member_equals_keras_fit(ring: Ring) -> None:
    ours, theirs = ring_member.make_model(), ring_member.make_model()
    step = TrainStep(ring_member.make_training(ours))
    training = ring_member.make_training(theirs)
    theirs.compile(optimizer=training.optimizer, loss=training.loss, jit_compile=False)
    ring.join()
    for features, labels in ring_member.batches(rows=ring_member.BATCH):
        loss = step.train(tf.constant(features), tf.constant(labels), part=False).loss
        assert loss == pytest.approx(float(theirs.train_on_batch(features, labels)), rel=1e-5)
        theirs.reset_metrics()
    ring.leave()
    for mine, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


def test_a_step_that_fails_changes_nothing(ring: Ring) -> None:
    model = ring_member.make_model()
    step = TrainStep(ring_member.make_training(model))
    features, labels = (tf.constant(each) for each in ring_member.batches()[0])
    before = [variable.numpy() for variable in [*step.variables, *step.seed_variables]]
    with pytest.raises(tf.errors.OpError):  # no ring: every reduction fails
        step.train(features, labels, part=False)
    for variable, value in zip([*step.variables, *step.seed_variables], before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    ring.join()
    step.train(features, labels, part=False)  # the traced step is as good as new
    ring.leave()
    assert any((variable.numpy() != value).any() for variable, value in zip(step.variables, before, strict=False))


def test_a_frozen_layer_and_constant_statistics_are_not_reduced() -> None:
    step = TrainStep(ring_member.make_training(ring_member.make_model()))
    names = {step._non_trainable[i].path.rpartition("/")[2] for i in step._local.moved}
    assert {"moving_mean", "moving_variance"} <= names and "kernel" not in names
    assert len(step._local.with_gradient) == len(step._trainable) == 6


def test_a_loss_that_is_a_sum_stays_a_sum(ring: Ring) -> None:
    model = ring_member.make_model()
    training = ring_member.make_training(model)
    summed = replace(training, loss=keras.losses.MeanSquaredError(reduction="sum"), loss_is_sum=True)
    step = TrainStep(summed)
    features, labels = ring_member.batches()[0]
    predicted = model(features, training=False).numpy()
    kernel = model.layers[-1].kernel.numpy()
    ring.join()
    step.train(tf.constant(features), tf.constant(labels), part=False)
    ring.leave()
    assert predicted.shape == (ring_member.BATCH, 1) and (model.layers[-1].kernel.numpy() != kernel).any()


class Asserts(keras.Model):
    """Its check is not on the way from the inputs to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ring_member.make_model()

    def call(self, inputs: Any) -> Any:
        tf.debugging.assert_less(tf.reduce_max(inputs), 100.0)
        return self.body(inputs)


def test_an_assertion_that_fails_stops_the_step_before_the_ring(ring: Ring) -> None:
    step = TrainStep(ring_member.make_training(Asserts()))
    features, labels = (tf.constant(each) for each in ring_member.batches()[0])
    before = [variable.numpy() for variable in step.variables]
    ring.join()
    for _ in range(20):
        with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
            step.train(features + 1000.0, labels, part=False)
    ring.leave()
    for variable, value in zip(step.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
