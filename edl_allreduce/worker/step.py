"""One training step: forward, backward, one exact weighted reduction over the ring, one atomic application.

Every worker reduces the *sum* over its examples together with their number, and all divide by the total, so the result
does not depend on how the examples were split. The optimizer is applied only when every reduction has succeeded: a
worker's weights are always exactly "after step k" or "after step k - 1".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from horovod.tensorflow import mpi_ops

from edl_allreduce.contracts.base import TrainingModel

Tensors = list[tf.Tensor]


@dataclass(frozen=True)
class Outcome:
    """What all members know after a step.

    Attributes:
        loss: mean over all records of the step.
        records: their number.
        part: some member wants the round to end here.
    """

    loss: float
    records: int
    part: bool


class TrainStep:
    """The traced step of one model.

    Args:
        training: the model with its loss, optimizer and input function.
    """

    def __init__(self, training: TrainingModel) -> None:
        self._training = training
        self._model, self._optimizer = training.model, training.optimizer
        training.build()
        self._optimizer.build(self._model.trainable_variables)
        self._trainable = list(self._model.trainable_variables)
        self._non_trainable = list(self._model.non_trainable_variables)
        takes_training = "training" in inspect.signature(self._model.call).parameters
        self._call_arguments = {"training": True} if takes_training else {}
        self._updated: list[int] = []  # non-trainable variables that the model's call changes; known once traced
        self._with_gradient: list[int] = []
        with tf.device("CPU:0"):
            self._computed_at = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._train = tf.function(self._train_step, autograph=False).get_concrete_function(
            *training.input.element_spec, _FLAG
        )
        self._idle = tf.function(self._idle_step, autograph=False).get_concrete_function(_FLAG)
        self._alone: Any = None  # traced when it is needed

    @property
    def graphs(self) -> tuple[Any, ...]:
        """The traced graphs, where operations that fail can be looked up."""
        alone = () if self._alone is None else (self._alone.graph,)
        return (*alone, self._train.graph, *self._training.graphs)

    @property
    def variables(self) -> list[keras.Variable]:
        """All that training changes and all members share: the state that a newcomer receives."""
        shared = [each for each in self._non_trainable if not _is_seed(each)]
        return [*self._trainable, *shared, *self._optimizer.variables]

    @property
    def seed_variables(self) -> list[keras.Variable]:
        """The states of random generators (dropout), one of its own for every worker."""
        return [each for each in self._non_trainable if _is_seed(each)]

    def computed_at(self) -> float:
        """When this worker's own part of a step was last done, in seconds since 1970; any thread may ask."""
        return float(self._computed_at.numpy())

    def train(self, features: Any, labels: Any, part: bool) -> Outcome:
        """One step with this worker's share of the records."""
        return _outcome(self._train(features, labels, _FLAGS[part]))

    def idle(self, part: bool) -> Outcome:
        """The same step for a worker that has no record in it."""
        return _outcome(self._idle(_FLAGS[part]))

    def alone(self, features: Any, labels: Any) -> tf.Tensor:
        """The loss of some records, summed, without the ring and without changing anything: finds those that fail."""
        if self._alone is None:
            specs = self._training.input.element_spec
            self._alone = tf.function(self._loss_alone, autograph=False).get_concrete_function(*specs)
        return self._alone(features, labels)

    def _loss_alone(self, features: Any, labels: Any) -> tf.Tensor:
        count = tf.cast(tf.shape(tf.nest.flatten(features)[0])[0], tf.float32)
        trainable = [tf.convert_to_tensor(variable.value) for variable in self._trainable]
        state = [tf.convert_to_tensor(variable.value) for variable in self._non_trainable]
        outputs, _, extra = self._model.stateless_call(
            trainable, state, features, return_losses=True, **self._call_arguments
        )
        return self._total_loss(labels, outputs, extra, count)

    def _train_step(self, features: Any, labels: Any, part: tf.Tensor) -> tf.Tensor:
        count = tf.cast(tf.shape(tf.nest.flatten(features)[0])[0], tf.float32)
        trainable = [tf.convert_to_tensor(variable.value) for variable in self._trainable]
        before = [tf.convert_to_tensor(variable.value) for variable in self._non_trainable]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            outputs, after, extra = self._model.stateless_call(
                trainable, before, features, return_losses=True, **self._call_arguments
            )
            total = self._total_loss(labels, outputs, extra, count)
            scaled = self._optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, trainable)
        self._with_gradient = [i for i, each in enumerate(gradients) if each is not None]
        self._updated = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if new is not old]
        own = [tf.convert_to_tensor(gradients[i]) for i in self._with_gradient]
        checks = [each for each in tf.compat.v1.get_default_graph().get_operations() if each.op_def.is_stateful]
        with tf.control_dependencies(checks):  # an assertion must stop the step before anything reaches the ring
            return self._reduce_and_apply(own, [after[i] for i in self._updated], total, count, part)

    def _total_loss(self, labels: Any, outputs: Any, extra: Sequence[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """The sum over this worker's examples; regularisers count once per example, so that dividing restores them."""
        loss = tf.cast(self._training.loss(labels, outputs), tf.float32)
        total = tf.reduce_sum(loss) if self._training.loss_is_sum else tf.reduce_mean(loss) * count
        return total + tf.add_n([tf.cast(each, tf.float32) for each in extra]) * count if extra else total

    def _idle_step(self, part: tf.Tensor) -> tf.Tensor:
        gradients = [tf.zeros_like(self._trainable[i].value) for i in self._with_gradient]
        updates = [tf.convert_to_tensor(self._non_trainable[i].value) for i in self._updated]
        return self._reduce_and_apply(gradients, updates, tf.zeros([]), tf.zeros([]), part)

    def _reduce_and_apply(
        self, gradients: Tensors, updates: Tensors, total: tf.Tensor, count: tf.Tensor, part: tf.Tensor
    ) -> tf.Tensor:
        with tf.control_dependencies([total, *gradients]):
            self._computed_at.assign(tf.timestamp())
        shared = [i for i, each in enumerate(updates) if each.dtype.is_floating]
        weighted = [updates[i] * tf.cast(count, updates[i].dtype) for i in shared]
        sums = allreduce_sums([tf.stack([total, count, part]), *gradients, *weighted])
        vector, reduced, moved = sums[0], sums[1 : 1 + len(gradients)], sums[1 + len(gradients) :]
        records = tf.maximum(vector[1], 1.0)  # all members idle: only when a newcomer warms up alone
        for i, each in zip(shared, moved, strict=True):
            updates[i] = each / tf.cast(records, each.dtype)
        if not self._training.loss_is_sum:
            reduced = [each / tf.cast(records, each.dtype) for each in reduced]
        with tf.control_dependencies(sums):  # all or nothing
            reduced = [tf.identity(each) for each in reduced]
            updates = [tf.identity(each) for each in updates]
            self._optimizer.apply(reduced, [self._trainable[i] for i in self._with_gradient])
            for i, value in zip(self._updated, updates, strict=True):
                self._non_trainable[i].assign(value)
        return vector


def allreduce_sums(tensors: Tensors) -> Tensors:
    """The sums of `tensors` over all members, in one grouped reduction per dtype."""
    sums = list(tensors)
    for dtype in dict.fromkeys(each.dtype for each in tensors):
        places = [i for i, each in enumerate(tensors) if each.dtype == dtype]
        group = mpi_ops._grouped_allreduce([tensors[i] for i in places], name=f"edl_step_{dtype.name}", op=mpi_ops.Sum)
        for i, each in zip(places, group, strict=True):
            sums[i] = each
    return sums


def make_broadcast(variables: Sequence[keras.Variable]) -> Callable[[], Tensors]:
    """A traced function that returns rank 0's values of `variables` on every member, in fresh tensors.

    Variables of one dtype travel as one flat tensor.
    """

    def values_of_root() -> Tensors:
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        received = list(values)
        for dtype in dict.fromkeys(value.dtype for value in values):
            places = [i for i, value in enumerate(values) if value.dtype == dtype]
            flat = tf.concat([tf.reshape(values[i], [-1]) for i in places], axis=0)
            flat = mpi_ops.broadcast(flat, root_rank=0, name=f"edl_state_{dtype.name}")
            pieces = tf.split(flat, [int(np.prod(values[i].shape)) for i in places])
            for i, piece in zip(places, pieces, strict=True):
                received[i] = tf.reshape(piece, values[i].shape)
        return received

    return tf.function(values_of_root, autograph=False).get_concrete_function()  # type: ignore[no-any-return]


def _is_seed(variable: keras.Variable) -> bool:
    return str(variable.path).endswith("seed_generator_state")


def _outcome(vector: tf.Tensor) -> Outcome:
    loss_sum, records, part = vector.numpy().tolist()
    return Outcome(loss_sum / max(records, 1.0), round(records), part > 0)


_FLAG = tf.TensorSpec([], tf.float32)
_FLAGS = {False: tf.constant(0.0), True: tf.constant(1.0)}
