"""What a checkpoint costs the training thread: how long `save` holds it up, and how much longer the steps then take.

The step is the real one (forward, backward, Horovod's reduction in a ring of one, Adam) of a dense model. With Adam, a
checkpoint is three times as large as the model.
"""

from __future__ import annotations

import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import Summary, summary
from edl_allreduce.checkpoint import Origin
from edl_allreduce.contracts.base import Input, TrainingModel
from edl_allreduce.position import Position
from edl_allreduce.spec import JobSpec
from edl_allreduce.worker.checkpointer import Checkpointer, Done
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import TrainStep

LAYERS = 4
TICK_SECONDS = 0.002  # of the thread that notices when Python's lock is held for long
LARGEST = 5000  # MB of weights to be written for one size, about
BLOCKED, COPY = "save(), % of a step", "a copy of as many bytes in memory, ms"
BEYOND, MOST_BEYOND = "save() beyond such a copy, % of a step", 5.0
COPIES = 5
STEPS = 7  # without a checkpoint, before each one


def measure(
    megabytes: tuple[float, ...] = (10.0, 100.0, 1000.0),
    batch: int = 128,
    checkpoints: int = 10,
    short: bool = False,
    output: str = "out/checkpoint",
) -> None:
    """Runs the benchmark.

    Args:
        megabytes: sizes of the model's weights.
        batch: records per step.
        checkpoints: how many are written for each size; fewer of large ones, but at least 3.
        short: a look at it: 10 MB, three times.
        output: folder for results.
    """
    if short:
        megabytes, checkpoints = (10.0,), 3
    report = Report("checkpoint", output, megabytes=megabytes, batch=batch, checkpoints=checkpoints)
    ring = Ring("127.0.0.1", spared=0)
    ring.join()
    blocked: list[tuple[float, float]] = []
    for size in megabytes:
        figures = _measure(size, batch, max(3, min(checkpoints, int(LARGEST / size))))
        report.table(f"a model of {size:g} MB", [{"what": name, "value": each} for name, each in figures.items()])
        blocked.append((size, figures[BLOCKED].median))
        report.goal(f"{size:g} MB: {BEYOND}", figures[BEYOND].median, MOST_BEYOND, most=True)
    ring.leave()
    report.close(partial(_panel, blocked))


def _panel(blocked: Sequence[tuple[float, float]], axes: Any) -> None:
    plots.lines(axes, {"save()": blocked})
    axes.set(xlabel="MB of weights", ylabel="% of a step")
    plots.title(axes, "A checkpoint holds the training thread up")


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


def _measure(megabytes: float, batch: int, checkpoints: int) -> dict[str, Summary]:
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

    def median(value: Callable[[Run], float]) -> Summary:
        return summary(value(run) for run in runs)

    copy = _copy_seconds(runs[0].done.bytes)
    return {
        "MB of a checkpoint": median(lambda run: run.done.bytes / 1e6),
        "step, ms": median(lambda one: 1e3 * one.usual),
        "save() holds the training thread up, ms": median(lambda one: 1e3 * one.done.blocked_seconds),
        COPY: summary(1e3 * each for each in copy),
        BLOCKED: median(lambda run: 100 * run.done.blocked_seconds / run.usual),
        BEYOND: median(lambda run: max(0.0, 100 * (run.done.blocked_seconds - statistics.median(copy)) / run.usual)),
        "the step after a capture is longer by (nothing is written), % of a step": median(
            lambda run: 100 * run.held / run.usual
        ),
        "the step after save() is longer by, % of a step": median(lambda run: 100 * run.first / run.usual),
        "all steps while it is written are longer by, steps": median(lambda run: run.all / run.usual),
        "until it is complete, s": median(lambda run: run.done.seconds),
        "a thread of Python is late, ms": median(lambda one: 1e3 * one.late),
        "without a checkpoint, ms": median(lambda one: 1e3 * one.late_before),
    }


def _copy_seconds(size: int) -> list[float]:
    """Of copying so many bytes, several times, between places that have been written to and so have their pages."""
    source, target = np.full(size, 1, np.uint8), np.full(size, 2, np.uint8)
    found = []
    for _ in range(COPIES):
        began = time.perf_counter()
        np.copyto(target, source)
        found.append(time.perf_counter() - began)
    return found


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
    run(measure)
