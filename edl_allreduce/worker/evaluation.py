"""Evaluates a model task by task, so that any number of workers together get the figures that one would.

A task contributes what its records add to the loss's sum and to the *state* of each metric; states are added up over
all tasks, and only then read. (An average of averages is wrong for AUC, precision, recall, mean IoU.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edl_allreduce.contracts.base import Metric, TrainingModel
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.dataset import Dataset
from edl_allreduce.notices import notices
from edl_allreduce.worker.leases import Sums
from edl_allreduce.worker.local_part import call_arguments, values_of
from edl_allreduce.worker.metrics import arguments, contribution, initial_state, result
from edl_allreduce.worker.task_reader import TaskBatch, TaskReader
from edl_allreduce.worker.trying import not_adding_up

LOSS = "loss"


class Evaluator:
    """A model with its metrics, traced for evaluation.

    Args:
        training: the model, with its variables, and its input function for evaluation.
        dataset: what it is evaluated on.
        model_zoo: the user's folder, to name their line in an error.
        batch_size: records per batch.
    Attributes:
        whole: all tasks must be done by one worker, since a metric's state cannot be added up.
    """

    def __init__(self, training: TrainingModel, dataset: Dataset, model_zoo: str, batch_size: int) -> None:
        self._training, self._model = training, training.model
        self._reader = TaskReader(training, dataset, model_zoo, batch_size)
        self._alone = not_adding_up(training, lambda: next(self._reader.open((0,))).values)
        with user_code(model_zoo, "tracing the evaluation"):
            self._evaluate = tf.function(lambda *values: self._sums_of(*values), autograph=False).get_concrete_function(
                *training.input.element_spec
            )
        self._shapes = [[tuple(each.shape) for each in metric.metric.variables] for metric in training.metrics]
        self.whole = bool(self._alone)
        if self._alone:
            notices.warning(
                "%s: what one worker finds cannot be added to what another finds, so one worker alone evaluates",
                ", ".join(metric.name for metric in self._alone),
            )

    def open(self, tasks: Sequence[int]) -> Iterator[TaskBatch]:
        """Begins to read tasks."""
        return self._reader.open(tasks)

    def perform(self, tasks: Sequence[int], batches: Iterator[TaskBatch]) -> Sums:
        """What the batches add to the sums; float64.

        Raises:
            ModelError: the user's code fails.
        """
        for metric in self._alone:
            metric.metric.reset_state()
        total = np.zeros(2 + sum(math.prod(shape) for shapes in self._shapes for shape in shapes))
        for batch in batches:
            total += self._batch(batch)
        at = 2
        for metric, shapes in zip(self._training.metrics, self._shapes, strict=True):
            size = sum(map(math.prod, shapes))
            if metric in self._alone:
                total[at : at + size] = _change_of(metric)
            at += size
        return total

    def _batch(self, batch: TaskBatch) -> Sums:
        try:
            found: Sums = self._evaluate(*batch.values).numpy()
            return found
        except Exception as error:
            graphs = (self._evaluate.graph,)
            raise self._reader.blame(batch, error, lambda values: self._evaluate(*values), graphs) from error

    def figures(self, sums: Sums) -> dict[str, float]:
        """Loss and metrics, read from the sums of all tasks."""
        found = {LOSS: float(sums[0] / sums[1]) if sums[1] else math.nan}
        at = 2
        for metric, shapes in zip(self._training.metrics, self._shapes, strict=True):
            states = []
            for shape in shapes:
                states.append(sums[at : at + math.prod(shape)].reshape(shape))
                at += math.prod(shape)
            found |= as_figures(metric.name, result(metric, states))
        return found

    def _sums_of(self, features: Any, labels: Any, weights: Any = None) -> tf.Tensor:
        training, model = self._training, self._model
        count = tf.cast(tf.shape(tf.nest.flatten(features)[0])[0], tf.float32)
        state = (values_of(model.trainable_variables), values_of(model.non_trainable_variables))
        how = call_arguments(model, training=False)
        outputs, _, extra = model.stateless_call(*state, features, return_losses=True, **how)
        loss = training.loss(labels, outputs) if weights is None else training.loss(labels, outputs, weights)
        loss = tf.cast(loss, tf.float32)
        total = tf.reduce_sum(loss) if training.loss_is_sum else tf.reduce_mean(loss) * count
        if extra:
            total += tf.add_n([tf.cast(each, tf.float32) for each in extra]) * count
        parts = [tf.stack([total, count])]
        for metric in training.metrics:
            parts += self._part_of(metric, labels, outputs, weights)
        return tf.concat([tf.cast(tf.reshape(each, [-1]), tf.float64) for each in parts], axis=0)

    def _part_of(self, metric: Metric, labels: Any, outputs: Any, weights: Any) -> list[Any]:
        """What a batch adds to a metric's state; one that does not add up sees the batches one after the other."""
        if metric not in self._alone:
            return contribution(metric, labels, outputs, weights)
        metric.metric.update_state(*arguments(metric, labels, outputs, weights))
        return [tf.zeros_like(each.value) for each in metric.metric.variables]


def _change_of(metric: Metric) -> Sums:
    """How far a metric's own state is from that of one that has seen nothing."""
    changes = [
        np.asarray(each.numpy(), np.float64) - start
        for each, start in zip(metric.metric.variables, initial_state(metric.metric), strict=True)
    ]
    return np.concatenate([np.reshape(each, -1) for each in changes]) if changes else np.zeros(0)


def as_figures(name: str, value: Any) -> dict[str, float]:
    """A metric's value as figures: one of several numbers gets a number for each."""
    if isinstance(value, dict):
        return {key: each for label, part in value.items() for key, each in as_figures(f"{name}_{label}", part).items()}
    if isinstance(value, list):
        return {key: each for i, part in enumerate(value) for key, each in as_figures(f"{name}_{i}", part).items()}
    return {name: float(value)}
