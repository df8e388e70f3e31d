"""A worker that is prepared: its step has been tried on real records and has left no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

import keras
import tensorflow as tf

from edl_allreduce import recordio
from edl_allreduce.contracts.base import Input, Metric, TrainingModel
from edl_allreduce.dataset import make_dataset
from edl_allreduce.spec import TrainingSpec
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.preparing import prepare_step
from edl_allreduce.worker.reader import StepReader
from edl_allreduce.worker.ring import Ring


def parsed(records: Any) -> tuple[Any, Any, Any]:
    numbers = tf.strings.to_number(records)[:, None]
    return numbers / 40.0, numbers * 0.1, tf.fill(tf.shape(records), 0.5)


def largest(labels: Any, outputs: Any) -> Any:
    return keras.ops.max(outputs)


@pytest.mark.parametrize("steered", [False, True])
def test_a_prepared_step_is_as_new(tmp_path: Path, steered: bool, caplog: pytest.LogCaptureFixture) -> None:
    name = str(tmp_path / "numbers.recordio")
    with recordio.Writer(name, max_chunk_bytes=40) as out:
        for number in range(40):
            out.write(b"%d" % number)
    data = make_dataset([name], recordio.index_many([name]), 8, 4)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input([1]), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    spec = (tf.TensorSpec([None, 1]), tf.TensorSpec([None, 1]), tf.TensorSpec([None]))
    metrics = (
        Metric("error", keras.metrics.MeanAbsoluteError(), weighted=True),
        Metric("largest", keras.metrics.MeanMetricWrapper(largest)),
    )
    mse = keras.losses.MeanSquaredError()
    training = TrainingModel(model, keras.optimizers.Adam(0.1), mse, False, Input(True, parsed, spec), metrics)
    training.build()
    before = [variable.numpy() for variable in model.trainable_variables]
    seeds = [each.numpy() for each in model.non_trainable_variables]
    feed = Feed(training, data, StepReader(data, 0, True, 1), "zoo")
    ring = Ring("127.0.0.1", spared=0)
    step = prepare_step(training, feed, ring, "zoo", 7, TrainingSpec(warmup_steps=2), steered)
    feed.close()
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert [(each.numpy() - seed).tolist() for each, seed in zip(step.seed_variables, seeds, strict=True)] == [[7, 0]]
    assert step.metric_results() == {"loss": 0.0, "error": 0.0}
    assert "cannot be added up over workers: largest" in caplog.text
    ring.join()
    batch = parsed(tf.constant([b"1", b"2", b"3"]))
    assert step.train(*batch, part=False).records == 3
    ring.leave()
    assert set(step.metric_results()) == {"loss", "error"} and step.metric_results()["loss"] > 0
