"""One member of a ring for test_step.py: trains a little model on its part of fixed batches, and writes what came out.

python tests/ring_member.py RANK SIZE STORE_PORT RESULT.npz
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import tensorflow as tf

from edl_allreduce.contracts.base import Input, TrainingModel
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import TrainStep, make_broadcast

FEATURES, STEPS, BATCH = 5, 12, 10


def make_model() -> keras.Model:
    """All that makes averaging hard: moving statistics, a regulariser, a frozen layer, dropout's random state."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input([FEATURES])
    outputs = keras.layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    outputs = keras.layers.Dense(8, trainable=False)(outputs)
    outputs = keras.layers.BatchNormalization(momentum=0.8, epsilon=0.1)(outputs)
    outputs = keras.layers.Dropout(0.0)(outputs)
    return keras.Model(inputs, keras.layers.Dense(1)(outputs))


def make_training(model: keras.Model) -> TrainingModel:
    spec = (tf.TensorSpec([None, FEATURES]), tf.TensorSpec([None, 1]))
    loss = keras.losses.MeanSquaredError()
    return TrainingModel(
        model, keras.optimizers.SGD(0.05, momentum=0.9), loss, False, Input(True, lambda strings: strings, spec)
    )


def batches(rows: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fixed batches of `rows` different rows; with one, BatchNormalization sees the same however a batch is split."""
    random = np.random.default_rng(5)
    drawn = random.normal(size=[STEPS, rows, FEATURES]).astype(np.float32)
    features = np.repeat(drawn, BATCH // rows, axis=1)
    return [(batch, batch.sum(axis=1, keepdims=True)) for batch in features]


def part_of(rank: int, size: int, step: int) -> slice:
    """Uneven parts; in every third step the last member has nothing to do."""
    if size == 1:
        return slice(0, BATCH)
    cut = BATCH if step % 3 == 0 else 3
    return slice(0, cut) if rank == 0 else slice(cut, BATCH)


def main(rank: int, size: int, port: int, result: str) -> None:
    model = make_model()
    step = TrainStep(make_training(model))
    ring = Ring("127.0.0.1", spared=0)
    ring.join(rank, size, ("127.0.0.1", port) if size > 1 else None)
    if rank > 0:
        for variable in step.variables:
            variable.assign(tf.ones_like(variable))  # a newcomer's weights are anything
    if size > 1:
        for variable, value in zip(step.variables, make_broadcast(step.variables)(), strict=True):
            variable.assign(value)
    losses, wishes = [], []
    for number, (features, labels) in enumerate(batches()):
        part = part_of(rank, size, number)
        wish = rank == size - 1 and number == STEPS - 1
        if len(features[part]):
            outcome = step.train(tf.constant(features[part]), tf.constant(labels[part]), part=wish)
        else:
            outcome = step.idle(wish)
        assert outcome.records == BATCH
        losses.append(outcome.loss)
        wishes.append(outcome.part)
    ring.leave()
    assert wishes == [False] * (STEPS - 1) + [True]
    np.savez(result, *[variable.numpy() for variable in step.variables], losses=np.array(losses))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
