"""What a checkpoint costs the training thread: how long `save` holds it up, and how much longer the steps then take.

The step is the real one (forward, backward, Horovod's reduction in a ring of one, Adam) of a dense model. With Adam, a
checkpoint is three times as large as the model. Prints the figures and writes them to OUTPUT/checkpoint.json.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fire
import keras
import tensorflow as tf

from edl_allreduce.checkpoint import Origin
from edl_allreduce.contracts.base import Input, TrainingModel
from edl_allreduce.position import Position
from edl_allreduce.spec import JobSpec
from edl_allreduce.worker.checkpointer import Checkpointer, Done
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import TrainStep

LAYERS = 4
TICK_SECONDS = 0.002  # of the thread that notices when Python's lock is held for long
STEPS = 7  # without a checkpoint, before each one


def measure(
    megabytes: Sequence[float] = (10, 100), batch: int = 128, checkpoints: int = 10, output: str = "out/checkpoint"
) -> None:
    """Runs the benchmark.

    Args:
        megabytes: sizes of the model's weights.
        batch: records per step.
        checkpoints: how many are written for each size.
        output: folder for results.
    """
    ring = Ring("127.0.0.1", spared=0)
    ring.join()
    result: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "platform": platform.platform()},
        "versions": {name: version(name) for name in ("horovod", "keras", "numpy")},
        "batch": batch,
    }
    for size in megabytes:
        result[f"{size:g} MB"] = figures = _measure(size, batch, checkpoints)
        print(f"a model of {size:g} MB")
        for name, value in figures.items():
            print(f"  {name}: {value}")
    ring.leave()
    Path(output).mkdir(parents=True, exist_ok=True)
    Path(output, "checkpoint.json").write_text(json.dumps(result, indent=2) + "\n")


class Ticker(threading.Thread):
    """Does next to nothing, often, as a heartbeat does; knows by how much it came late at most, in seconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.worst, self._ended = 0.0, threading.Event()

    def run(self) -> None:
        last = time.perf_counter()
        while not self._ended.wait(TICK_SECONDS):
            now = time.perf_counter()
            self.worst, last = max(self.worst, now - last - TICK_SECONDS), now

    def __enter__(self) -> Ticker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@dataclass(frozen=True)
class Run:
    """One checkpoint, and as many steps before it without one. All in seconds.

    Attributes:
        usual: a step.
        held: by how much a step is longer when the state has been captured and nothing is being written.
        first: by how much the first step after `save` is longer.
        all: by how much all steps until the checkpoint is complete are longer, together.
        late_before, late: of a thread of Python, at most, before and during these steps.
    """

    done: Done
    usual: float
    held: float
    first: float
    all: float
    late_before: float
    late: float


def _measure(megabytes: float, batch: int, checkpoints: int) -> dict[str, Any]:
    units = int((megabytes * 1e6 / 4 / LAYERS) ** 0.5)
    step = _make_step(units)
    sample = tf.random.normal([batch, units]), tf.random.normal([batch, 1])

    def seconds() -> float:
        began = time.perf_counter()
        step.train(*sample, part=False)
        return time.perf_counter() - began

    done: queue.SimpleQueue[Done] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="edl-checkpoint-") as folder:
        spec = JobSpec.from_flags({"model_zoo": "none", "model_def": "none", "data": "none", "output": folder})
        checkpointer = Checkpointer(step.variables, folder, Origin("benchmark", spec, "", 1), 1, done.put)
        for _ in range(5):
            seconds()
        runs = [_run(step, checkpointer, number, seconds, done) for number in range(checkpoints + 1)][1:]
        checkpointer.close()

    def median(value: Callable[[Run], float], digits: int = 2) -> float:
        return round(statistics.median(value(run) for run in runs), digits)

    return {
        "bytes of a checkpoint": runs[0].done.bytes,
        "step, ms": median(lambda run: 1e3 * run.usual),
        "save() holds the training thread up, ms": median(lambda run: 1e3 * run.done.blocked_seconds),
        "save(), % of a step": median(lambda run: 100 * run.done.blocked_seconds / run.usual),
        "the step after a capture is longer by (nothing is written), % of a step": median(
            lambda run: 100 * run.held / run.usual, 1
        ),
        "the step after save() is longer by, % of a step": median(lambda run: 100 * run.first / run.usual, 1),
        "all steps while it is written are longer by, steps": median(lambda run: run.all / run.usual),
        "until it is complete, s": median(lambda run: run.done.seconds, 3),
        "a thread of Python is late, ms": median(lambda run: 1e3 * run.late),
        "without a checkpoint, ms": median(lambda run: 1e3 * run.late_before),
    }


def _run(
    step: TrainStep,
    checkpointer: Checkpointer,
    number: int,
    seconds: Callable[[], float],
    done: queue.SimpleQueue[Done],
) -> Run:
    with Ticker() as before:
        usual = statistics.median(seconds() for _ in range(STEPS))
    captured = [tf.identity(variable.value) for variable in step.variables]
    held = seconds() - usual
    del captured
    seconds()
    with Ticker() as during:
        checkpointer.save(Position(number))
        taken = [seconds()]
        while not checkpointer.wait(0):
            taken.append(seconds())
    told = done.get()
    if told.error:
        raise SystemExit(told.error)
    return Run(told, usual, held, taken[0] - usual, sum(taken) - usual * len(taken), before.worst, during.worst)


def _make_step(units: int) -> TrainStep:
    keras.utils.set_random_seed(0)
    inputs = outputs = keras.Input([units])
    for _ in range(LAYERS):
        outputs = keras.layers.Dense(units, activation="relu")(outputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    spec = (tf.TensorSpec([None, units]), tf.TensorSpec([None, 1]))
    loss = keras.losses.MeanSquaredError()
    return TrainStep(
        TrainingModel(model, keras.optimizers.Adam(1e-4), loss, False, Input(True, lambda each: each, spec))
    )


if __name__ == "__main__":
    fire.Fire(measure)
