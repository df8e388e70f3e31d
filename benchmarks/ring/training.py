"""A member of a ring that trains a model in several ways, in turn, in one process: see benchmarks/training.py.

Ours is the worker itself, with its pipeline and all that it does between steps, in a thread that waits when it is not
its turn. The hand-written loop is a `tf.function` with plain `hvd.allreduce` over the same ring; `fit` is Keras's own.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from benchmarks.ring.team import ADDRESS, answer, questions
from edl_allreduce import contracts
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_to_message
from edl_allreduce.dataset import make_dataset
from edl_allreduce.position import Position, deal_lanes
from edl_allreduce.records import index_many
from edl_allreduce.spec import JobSpec
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.session import Session
from edl_allreduce.worker.worker import Worker

FOREVER_EPOCHS = 100_000
FIT_WARM_UP = 3  # steps of each `fit` that do not count
SHUFFLED_RECORDS = 2048


class Turn(Session):
    """Stands for the connection to a coordinator: lets the worker do so many steps when it is its turn.

    Attributes:
        times: of every step, in seconds since 1970: when it had its records, its own part, the whole step. None: nobody
            wants them, and asking would cost the steps that are being measured.
        computed_at: when the worker's own part of a step was last done.
    """

    def __init__(self) -> None:
        super().__init__("nowhere:0", "", pb.Hello())
        self.times: list[tuple[float, float, float]] | None = None
        self.computed_at: Callable[[], float] = time.time
        self._input_at = 0.0
        self._left = 1
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)

    def wants_to_part(self, round: int) -> bool:
        """The worker asks when it has its records."""
        self._input_at = time.time()
        return super().wants_to_part(round)

    def progress(self, round: int, rank: int, position: Position, step: pb.Step, paused_seconds: float) -> None:
        """A step is done."""
        super().progress(round, rank, position, step, paused_seconds)
        if self.times is not None:
            self.times.append((self._input_at, self.computed_at(), time.time()))
        self._left -= 1
        if not self._left:
            self._done.release()
            self._turn.acquire()

    def take(self, steps: int) -> None:
        """Returns when the worker has done so many more steps."""
        self._left = steps
        self._turn.release()
        self._done.acquire()

    def first(self) -> None:
        """Returns when the worker has done its first step."""
        self._done.acquire()


def main(rank: int, size: int, config: dict[str, Any]) -> None:
    """Answers until nobody asks any more."""
    spec = JobSpec.from_flags(config["flags"] | {"num_epochs": FOREVER_EPOCHS})
    files = sorted(str(path) for path in Path(spec.data.data).glob("*.recordio"))
    dataset = make_dataset(files, index_many(files, "recordio"), spec.data.records_per_task, num_workers=size)
    welcome = pb.Welcome(spec=spec.to_json(), dataset=dataset_to_message(dataset), job="benchmark")
    session, ring = Turn(), Ring(ADDRESS, spared=0)
    worker = Worker(welcome, rank, session, ring)
    session.computed_at = worker._step.computed_at
    batch = int(spec.training.global_batch(size))
    lanes = deal_lanes(dataset.lanes, [1.0] * size)[rank]
    ways: dict[str, Callable[[int], float]] = {}
    for question in questions():
        match question:
            case {"do": "join", "store": store}:
                begin = pb.Round(number=1, members=range(size), store_address=ADDRESS, store_port=store, lanes=lanes)
                begin.global_batch, begin.position.step = batch, 0
                session.inbox.put(pb.ToWorker(round=begin))
                threading.Thread(target=worker.run, name="worker", daemon=True).start()
                session.first()
                ways = {"ours": _ours(session)} | _others(spec, batch // size, size, rank)
                answer(sorted(ways))
            case {"do": "train", "way": way, "steps": steps}:
                answer(ways[way](steps))
            case {"do": "timeline", "steps": steps, "file": file}:
                hvd.start_timeline(file)
                times: list[tuple[float, float, float]] = []
                session.times = times
                session.take(steps)
                hvd.stop_timeline()
                session.times = None
                answer(times)


def _ours(session: Turn) -> Callable[[int], float]:
    def train(steps: int) -> float:
        began = time.perf_counter()
        session.take(steps)
        return time.perf_counter() - began

    return train


def _others(spec: JobSpec, batch: int, size: int, rank: int) -> dict[str, Callable[[int], float]]:
    """The hand-written loop and, alone, `fit`; each with a model of its own."""
    ways = {"by hand": _by_hand(spec, batch, size, rank)}
    return ways if size > 1 else ways | {"fit": _fit(spec, batch)}


def _by_hand(spec: JobSpec, batch: int, size: int, rank: int) -> Callable[[int], float]:
    training = contracts.load(spec.model)
    training.build()
    model, optimizer, metrics = training.model, training.optimizer, _metrics(training)
    batches = iter(_records(spec, training, batch, size, rank))
    variables = model.trainable_variables
    optimizer.build(variables)

    def step(features: Any, labels: Any) -> Any:
        values = [variable.value for variable in variables]
        with tf.GradientTape() as tape:
            outputs = model(features, training=True)
            loss = tf.reduce_mean(training.loss(labels, outputs))
            whole = tf.add_n([loss, *model.losses])
        gradients = tape.gradient(whole, values)
        averaged = [hvd.allreduce(each, name=f"hand.{number}") for number, each in enumerate(gradients)]
        optimizer.apply(averaged, variables)
        for metric in metrics:
            metric.update_state(labels, outputs)
        return hvd.allreduce(whole, name="hand.loss")

    traced = tf.function(step, autograph=False)

    def train(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            float(traced(*next(batches)))  # ours tells the loss of every step as well
        return time.perf_counter() - began

    return train


def _fit(spec: JobSpec, batch: int) -> Callable[[int], float]:
    training = contracts.load(spec.model)
    training.build()
    model, batches = training.model, _records(spec, training, batch, 1, 0)
    labels_type = batches.element_spec[1].dtype

    def loss(labels: Any, outputs: Any) -> Any:  # Keras makes floating-point numbers of labels
        return training.loss(tf.cast(labels, labels_type), outputs)

    model.compile(optimizer=training.optimizer, loss=loss, metrics=_metrics(training))

    class Stopwatch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        began = 0.0

        def on_train_batch_begin(self, number: int, logs: Any = None) -> None:
            if number == FIT_WARM_UP:
                self.began = time.perf_counter()

    def train(steps: int) -> float:
        watch = Stopwatch()
        model.fit(batches, steps_per_epoch=steps + FIT_WARM_UP, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
        return time.perf_counter() - watch.began

    return train


def _metrics(training: Any) -> list[Any]:
    """The model's metrics, as it tells them while it trains."""
    return [each.metric for each in training.metrics]


def _records(spec: JobSpec, training: Any, batch: int, size: int, rank: int) -> tf.data.Dataset:
    """The same records as TFRecord files, shuffled and parsed as people do it by hand."""
    files = sorted(str(path) for path in Path(spec.data.data).glob("*.tfrecord"))
    records = tf.data.TFRecordDataset(files).shard(size, rank).shuffle(SHUFFLED_RECORDS).repeat()
    batched = records.batch(batch, drop_remainder=True)
    return batched.map(training.parse_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


if __name__ == "__main__":
    code = 1
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[4]))
        code = 0
    except Exception:
        traceback.print_exc()
    os._exit(code)  # the worker's thread waits for its turn
