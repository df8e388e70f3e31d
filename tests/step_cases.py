"""Trainings that need the step's features, each as Keras's `fit` does it and as the step does it.

python tests/step_cases.py RANK SIZE STORE_PORT RESULTS.npz runs them all as one member of a ring.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edl_allreduce.contracts.base import Input, Metric, TrainingModel
from edl_allreduce.spec import TrainingSpec
from edl_allreduce.worker.precision import use_precision
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import TrainStep
from edl_allreduce.worker.trying import losses_that_are_sums, metrics_that_add_up

ROWS, FEATURES, CLASSES, WORDS, EPOCHS = 12, 5, 3, 20, 2
STEPS = (ROWS, ROWS, 7, ROWS, 3)  # records of each step

Batches = list[tuple[Any, ...]]
Result = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        model: makes it.
        loss: a Keras loss, or one for each output.
        optimizer: makes it.
        data: the batches.
        metrics: makes those with and those without weights.
        spec: the flags.
        compile, fit, keras_optimizer: what Keras is told instead.
        tolerance: of one worker against `fit`, relative; a tenth of it absolute.
    """

    model: Callable[[], keras.Model]
    loss: Any
    optimizer: Callable[[], Any]
    data: Callable[[], Batches]
    metrics: Callable[[], tuple[list[Any], list[Any]]] = lambda: ([], [])
    spec: TrainingSpec = field(default_factory=lambda: TrainingSpec(batch_size=ROWS))
    compile: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    keras_optimizer: Callable[[], Any] | None = None
    tolerance: float = 1e-5


def batches(make: Callable[[np.random.Generator, int], tuple[Any, ...]]) -> Batches:
    random = np.random.default_rng(5)
    return [make(random, rows) for rows in STEPS]


def numbers(random: np.random.Generator, rows: int) -> np.ndarray:
    return random.normal(size=[rows, FEATURES]).astype(np.float32)


def regression(random: np.random.Generator, rows: int) -> tuple[Any, ...]:
    features = numbers(random, rows)
    return features, features.sum(axis=1, keepdims=True)


def classes(random: np.random.Generator, rows: int) -> tuple[Any, ...]:
    return numbers(random, rows), random.integers(0, CLASSES, [rows])


def with_weights(random: np.random.Generator, rows: int) -> tuple[Any, ...]:
    labels = random.integers(0, 2, [rows, 1]).astype(np.float32)
    return numbers(random, rows), labels, random.random([rows]).astype(np.float32)


def words(random: np.random.Generator, rows: int) -> tuple[Any, ...]:
    return random.integers(0, WORDS, [rows, 4]), random.integers(0, 2, [rows, 1]).astype(np.float32)


def several(random: np.random.Generator, rows: int) -> tuple[Any, ...]:
    one, other = numbers(random, rows), numbers(random, rows)
    return {"one": one, "other": other}, {"sum": one.sum(axis=1, keepdims=True), "class": other.argmax(axis=1)}


def dense(outputs: int = 1, activation: str | None = None, **layer: Any) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        inputs = keras.Input([FEATURES])
        hidden = keras.layers.Dense(8, activation="tanh", **layer)(inputs)
        return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation, dtype="float32")(hidden))

    return make


def embedding() -> keras.Model:
    inputs = keras.Input([4], dtype="int64")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(WORDS, 6)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))


def two_headed(trainable: bool = True) -> keras.Model:
    inputs = {"one": keras.Input([FEATURES], name="one"), "other": keras.Input([FEATURES], name="other")}
    hidden = keras.layers.Dense(8, activation="tanh", trainable=trainable)(
        keras.layers.Concatenate()(list(inputs.values()))
    )
    outputs = {
        "sum": keras.layers.Dense(1, name="sum")(hidden),
        "class": keras.layers.Dense(FEATURES, name="class")(hidden),
    }
    return keras.Model(inputs, outputs)


class Adds(keras.layers.Layer):
    """Adds a loss that is a mean over the records, and one that is a sum."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        self.add_loss(0.01 * keras.ops.sum(keras.ops.abs(inputs)))
        return inputs


def additional_losses() -> keras.Model:
    inputs = keras.Input([FEATURES])
    regularisers = {"kernel_regularizer": "l2", "activity_regularizer": keras.regularizers.L2(0.01)}
    hidden = keras.layers.Dense(8, activation="tanh", **regularisers)(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(Adds()(hidden)))


def frozen() -> keras.Model:
    inputs = keras.Input([FEATURES])
    hidden = keras.layers.Dense(8, activation="tanh", trainable=False)(inputs)
    hidden = keras.layers.BatchNormalization(trainable=False)(hidden)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """What warmup_steps=4 does to another rate, as Keras would write it."""

    def __init__(self, rate: Any) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        rate = self.rate(step) if callable(self.rate) else self.rate
        return rate * keras.ops.minimum((keras.ops.cast(step, "float32") + 1) / 4, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate}


def decay() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.7, staircase=True)


def sgd(**options: Any) -> Callable[[], Any]:
    return lambda: keras.optimizers.SGD(0.05, momentum=0.9, **options)


def adam() -> Any:
    return keras.optimizers.Adam(0.02)


MSE, BINARY = keras.losses.MeanSquaredError(), keras.losses.BinaryCrossentropy()
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def binary_metrics() -> tuple[list[Any], list[Any]]:
    own = [keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(num_thresholds=20, name="auc")]
    return own, [keras.metrics.AUC(num_thresholds=20, name="weighted_auc"), keras.metrics.Precision(name="precision")]


def class_metrics() -> tuple[list[Any], list[Any]]:
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")], []


def spec(**flags: Any) -> TrainingSpec:
    return TrainingSpec(**({} if "minibatch_size" in flags else {"batch_size": ROWS}) | flags)


CASES: dict[str, Case] = {
    "weights": Case(
        dense(1, "sigmoid", kernel_regularizer="l2"), BINARY, adam, lambda: batches(with_weights), binary_metrics
    ),
    "class_weight": Case(
        dense(CLASSES),
        SPARSE,
        adam,
        lambda: batches(classes),
        class_metrics,
        spec(class_weight="{0: 0.5, 2: 3}"),
        fit={"class_weight": {0: 0.5, 2: 3.0}},
    ),
    "pieces": Case(
        dense(CLASSES, kernel_regularizer="l2"), SPARSE, adam, lambda: batches(classes), class_metrics,
        spec(max_local_batch=5),
    ),
    "global_clipnorm": Case(dense(), MSE, sgd(global_clipnorm=0.1), lambda: batches(regression)),
    "clipped_schedule": Case(
        dense(), MSE, lambda: keras.optimizers.SGD(decay(), clipnorm=0.1), lambda: batches(regression)
    ),
    "warm_up_of_schedule": Case(
        dense(), MSE, lambda: keras.optimizers.SGD(decay()), lambda: batches(regression),
        spec=spec(warmup_steps=4),
        keras_optimizer=lambda: keras.optimizers.SGD(WarmUp(decay())),
    ),
    "scaled": Case(
        dense(), MSE, sgd(), lambda: batches(regression),
        spec=spec(minibatch_size=ROWS, scale_learning_rate=True, warmup_steps=4),
        keras_optimizer=lambda: keras.optimizers.SGD(WarmUp(0.05), momentum=0.9),
    ),
    "embedding": Case(embedding, BINARY, adam, lambda: batches(words), binary_metrics),
    "several": Case(
        two_headed, {"sum": MSE, "class": SPARSE}, adam, lambda: batches(several),
        compile={"loss_weights": {"sum": 1.0, "class": 1.0}},
    ),
    "several_frozen_clipped_in_pieces": Case(
        lambda: two_headed(trainable=False), {"sum": MSE, "class": SPARSE},
        lambda: keras.optimizers.AdamW(decay(), use_ema=True, global_clipnorm=0.1), lambda: batches(several),
        spec=spec(max_local_batch=5), compile={"loss_weights": {"sum": 1.0, "class": 1.0}},
    ),
    "additional_losses": Case(additional_losses, MSE, sgd(), lambda: batches(regression)),
    "sum": Case(
        additional_losses, keras.losses.MeanSquaredError(reduction="sum"),
        lambda: keras.optimizers.SGD(0.005), lambda: batches(regression),
    ),
    "frozen_and_warmed_up": Case(
        frozen, MSE, adam, lambda: batches(regression), spec=spec(warmup_steps=4),
        keras_optimizer=lambda: keras.optimizers.Adam(WarmUp(0.02)),
    ),
    "weight_decay": Case(
        dense(), MSE, lambda: keras.optimizers.AdamW(0.02, use_ema=True, clipvalue=0.05), lambda: batches(regression)
    ),
    "jit": Case(
        dense(CLASSES), SPARSE, adam, lambda: batches(classes), class_metrics,
        spec(jit_compile=True), compile={"jit_compile": True},
    ),
    "float16": Case(
        dense(), MSE, sgd(), lambda: batches(regression), spec=spec(mixed_precision="mixed_float16"),
    ),
    "bfloat16": Case(
        dense(), MSE, sgd(), lambda: batches(regression), spec=spec(mixed_precision="mixed_bfloat16")
    ),
    "all_small": Case(
        dense(), MSE, sgd(), lambda: batches(regression),
        spec=spec(gradient_compression="fp16", mixed_precision="mixed_float16", max_local_batch=5),
        tolerance=2e-3,
    ),
}  # fmt: skip


SHARED = ("weights", "scaled", "embedding", "several_frozen_clipped_in_pieces", "additional_losses", "all_small")
"""What three workers try, too; each one costs them seconds."""


@contextmanager
def precision(case: Case) -> Iterator[None]:
    use_precision(case.spec.mixed_precision)
    try:
        yield
    finally:
        use_precision("float32")


def by_fit(case: Case) -> Result:
    """The weights and logs that Keras comes to."""
    data = case.data()
    with precision(case):
        keras.utils.set_random_seed(3)
        model = case.model()
        metrics, weighted = case.metrics()
        model.compile(
            optimizer=(case.keras_optimizer or case.optimizer)(),
            loss=case.loss,
            metrics=metrics or None,
            weighted_metrics=weighted or None,
            **{"jit_compile": False, **case.compile},
        )
        dataset = tf.data.Dataset.from_generator(lambda: iter(data), output_signature=specs(data))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(data)))
        history = model.fit(dataset, epochs=EPOCHS, shuffle=False, verbose=0, **case.fit).history
    names = ("loss", *(metric.name for metric in (*metrics, *weighted)))
    return weights_of(model) | {name: np.array(history[name]) for name in names}


def by_step(case: Case, rank: int = 0, size: int = 1) -> Result:
    """The same, in a ring that has been joined; each member has an uneven part of each batch, sometimes none."""
    data = case.data()
    with precision(case):
        keras.utils.set_random_seed(3)
        training = training_of(case, data)
        training.build()
        sample = tuple(tf.nest.map_structure(tf.convert_to_tensor, each) for each in data[0])
        metrics, sums = metrics_that_add_up(training, sample), losses_that_are_sums(training, sample)
        step = TrainStep(training, case.spec, metrics=metrics, summed_losses=sums)
        logs = []
        for epoch in range(EPOCHS):
            step.reset_metrics()
            for number, batch in enumerate(data):
                rows = share(rank, size, STEPS[number], epoch + number)
                if rows.stop > rows.start:
                    step.train(
                        *tf.nest.map_structure(lambda each, rows=rows: tf.constant(each[rows]), batch), part=False
                    )
                else:
                    step.idle(part=False)
            logs.append(step.metric_results())
        training.optimizer.finalize_variable_values(training.model.trainable_variables)  # as `fit` ends
    return weights_of(training.model) | {name: np.array([each[name] for each in logs]) for name in logs[0]}


def steered(rank: int = 0, size: int = 1) -> Result:
    """Rank 0 sends a learning rate with the second step, and a stop with the last."""
    keras.utils.set_random_seed(3)
    case, data = CASES["class_weight"], CASES["class_weight"].data()
    training = training_of(case, data)
    step = TrainStep(training, steered=True, metrics=training.metrics)
    stopped, seen = [], []
    for number, batch in enumerate(data):
        decisions: dict[str, Any] = {}
        if rank == 0:
            decisions = {"learning_rate": 0.5 if number == 1 else 0.0, "stop": number == len(data) - 1}
        rows = share(rank, size, STEPS[number], number)
        before = np.concatenate([each.numpy().reshape(-1) for each in step.variables])
        if rows.stop > rows.start:
            outcome = step.train(*(tf.constant(each[rows]) for each in batch), part=False, **decisions)
        else:
            outcome = step.idle(part=False, **decisions)
        after = np.concatenate([each.numpy().reshape(-1) for each in step.variables])
        stopped.append(outcome.stopped)
        seen.append(not np.array_equal(before, after))
    rate = np.array(float(training.optimizer.learning_rate))
    logs = {name: np.array(value) for name, value in step.metric_results().items()}
    return weights_of(training.model) | logs | {"stopped": np.array(stopped), "changed": np.array(seen), "rate": rate}


def training_of(case: Case, data: Batches) -> TrainingModel:
    def loss(labels: Any, outputs: Any, weights: Any = None) -> Any:
        if isinstance(case.loss, dict):
            return tf.add_n([each(labels[name], outputs[name], weights) for name, each in case.loss.items()])
        return case.loss(labels, outputs, weights)

    plain, weighted = case.metrics()
    metrics = tuple(Metric(each.name, each, weighted=each in weighted) for each in (*plain, *weighted))
    is_sum = not isinstance(case.loss, dict) and case.loss.reduction == "sum"
    input = Input(True, lambda strings: strings, specs(data))
    return TrainingModel(case.model(), case.optimizer(), loss, is_sum, input, metrics)


def specs(data: Batches) -> Any:
    return tf.nest.map_structure(lambda each: tf.TensorSpec([None, *each.shape[1:]], each.dtype), data[0])


def share(rank: int, size: int, rows: int, turn: int) -> slice:
    if size == 1:
        return slice(0, rows)
    cuts = [0, rows // 4, rows // 4 if turn % 3 == 0 else rows // 2, rows]
    return slice(cuts[rank], cuts[rank + 1])


def weights_of(model: keras.Model) -> Result:
    return {f"variable_{i}": variable.numpy() for i, variable in enumerate(model.variables)}


def main(rank: int, size: int, port: int, path: str) -> None:
    ring = Ring("127.0.0.1", spared=0)
    ring.join(rank, size, ("127.0.0.1", port))
    results: dict[str, Any] = {
        f"{name}/{key}": value for name in SHARED for key, value in by_step(CASES[name], rank, size).items()
    }
    results |= {f"steered/{key}": value for key, value in steered(rank, size).items()}
    ring.leave()
    np.savez(path, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
