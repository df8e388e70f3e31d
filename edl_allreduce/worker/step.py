"""One training step: forward, backward, one exact weighted reduction over the ring, one atomic application.

Every worker reduces the *sum* over its examples together with their number, and all divide by the total, so the result
does not depend on how the examples were split. The optimizer is applied only when every reduction has succeeded: a
worker's weights are always exactly "after step k" or "after step k - 1".

What a member computes by itself is in `local_part.py`; with which learning rate the optimizer is applied, in
`learning_rate.py`; what is counted over an epoch, in `epoch_sums.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from horovod.tensorflow import mpi_ops

from edl_allreduce.contracts.base import Metric, TrainingModel
from edl_allreduce.spec import TrainingSpec
from edl_allreduce.worker.collectives import Others
from edl_allreduce.worker.compression import Compression
from edl_allreduce.worker.epoch_sums import EpochSums
from edl_allreduce.worker.learning_rate import LearningRate
from edl_allreduce.worker.local_part import LocalPart, Slices, Sums, Tensors, stateful_operations
from edl_allreduce.worker.precision import optimizer_of

SMALLEST_RATE = 2.0**-126
"""To be sent for a learning rate of 0, since 0 means that none is sent."""

DEFAULTS = TrainingSpec()


@dataclass(frozen=True)
class Outcome:
    """What all members know after a step.

    Attributes:
        loss: the mean over all records of the step; their sum, when the model's loss is a sum.
        records: their number.
        part: some member wants the round to end here.
        stopped: some member wants the training to end before this step: nothing was applied.
        computed_at: when this worker's own part was done, in seconds since 1970.
    """

    loss: float
    records: int
    part: bool
    stopped: bool
    computed_at: float


class TrainStep:
    """The traced step of one model.

    Args:
        training: the model with its loss, optimizer and input function.
        spec: how to train it.
        steered: whether members may send a stop and a learning rate along.
        metrics: of the model's, those to follow while training; their states must add up.
        summed_losses: which of the model's additional losses are sums over the records; the others are means.
    """

    def __init__(
        self,
        training: TrainingModel,
        spec: TrainingSpec = DEFAULTS,
        steered: bool = False,
        metrics: Sequence[Metric] = (),
        summed_losses: Collection[int] = (),
    ) -> None:
        self._training, self._spec, self._steered = training, spec, steered
        training.build()
        self._optimizer = optimizer_of(training)
        self._optimizer.build(training.model.trainable_variables)
        self._trainable = list(training.model.trainable_variables)
        self._non_trainable = list(training.model.non_trainable_variables)
        self._rate = LearningRate(self._optimizer, spec)
        self._travel = Compression(spec, self._optimizer, mpi_ops.size_op)
        self._epoch = EpochSums(metrics)
        self._local = LocalPart(training, self._optimizer, spec, summed_losses, self._epoch.changes, mpi_ops.size_op)
        with tf.device("CPU:0"):
            self._computed_at = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        flags = tf.TensorSpec([len(_flags(steered, False, False, 0.0))])
        self._train = tf.function(self._train_step, autograph=False).get_concrete_function(
            flags, *training.input.element_spec
        )
        self._idle = tf.function(self._idle_step, autograph=False).get_concrete_function(flags)
        self._alone: Any = None  # traced when it is needed

    @property
    def graphs(self) -> tuple[Any, ...]:
        """The traced graphs, where operations that fail can be looked up."""
        alone = () if self._alone is None else (self._alone.graph,)
        return (*alone, self._train.graph, *self._local.graphs, *self._training.graphs)

    @property
    def variables(self) -> list[keras.Variable]:
        """All that training changes and all members share: the state that a newcomer receives."""
        shared = [each for each in self._non_trainable if not _is_seed(each)]
        return [*self._trainable, *shared, *self._optimizer.variables, self._epoch.variable]

    @property
    def seed_variables(self) -> list[keras.Variable]:
        """The states of random generators (dropout), one of its own for every worker."""
        return [each for each in self._non_trainable if _is_seed(each)]

    def computed_at(self) -> float:
        """When this worker's own part of a step was last done, in seconds since 1970; any thread may ask."""
        return float(self._computed_at.numpy())

    def learning_rate(self) -> float:
        """The rate with which the next step will be applied; to be asked inside a round."""
        return float(self._rate.of_step(mpi_ops.size))

    def reset_metrics(self) -> None:
        """An epoch begins: its loss and its metrics are counted anew."""
        self._epoch.reset()

    def metric_results(self) -> dict[str, Any]:
        """The epoch's mean loss and metrics so far, as `fit` logs them; lists where a metric has several values."""
        return self._epoch.results()

    def train(self, *batch: Any, part: bool, stop: bool = False, learning_rate: float = 0.0) -> Outcome:
        """One step with this worker's share of the records.

        Args:
            batch: features, labels and, where the input function gives them, weights.
            part: this worker wants the round to end after the step.
            stop: the training is to end before this step; only where the step is steered, as the next.
            learning_rate: of the optimizer from this step on; 0: as it was. At most one member may send one.
        """
        return _outcome(*self._train(_flags(self._steered, part, stop, learning_rate), *batch))

    def idle(self, part: bool, stop: bool = False, learning_rate: float = 0.0) -> Outcome:
        """The same step for a worker that has no record in it."""
        return _outcome(*self._idle(_flags(self._steered, part, stop, learning_rate)))

    def alone(self, *batch: Any) -> tf.Tensor:
        """The loss of some records, summed, without the ring and without changing anything: finds those that fail."""
        if self._alone is None:
            function = tf.function(lambda *batch: self._local.loss_of(batch), autograph=False)
            self._alone = function.get_concrete_function(*self._training.input.element_spec)
        return self._alone(*batch)

    def _train_step(self, flags: tf.Tensor, *batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        others, own = Others(), self._local.of(batch)
        all_sums, flags, computed_at = self._reduce(own, flags, others, self._local.checks)
        return self._finish(all_sums, flags, []), computed_at

    def _idle_step(self, flags: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        all_sums, flags, computed_at = self._reduce(self._local.nothing(), flags, Others(), [])
        nobody = all_sums.count < 1  # when all members are idle, nothing happens
        return self._finish(all_sums, flags, [nobody]), computed_at

    def _reduce(
        self, own: Sums, flags: tf.Tensor, others: Others, checks: list[tf.Operation]
    ) -> tuple[Sums, tf.Tensor, tf.Tensor]:
        """The sums over all members, none of which is there before all are; and when the own part was done.

        What is ready travels while the backward pass is still under way, once the `checks` have passed.
        """
        gradients, values = [*own.gradients, *own.total_gradients], [each.values for each in own.slices]
        numbers = tf.concat([[own.loss, own.total, own.count], flags, own.metrics], axis=0)
        with tf.control_dependencies([numbers, *gradients, *values, *own.moved, *stateful_operations()]):
            computed_at = tf.timestamp()
            noted = self._computed_at.assign(computed_at)
        to_sum = [numbers, *self._travel.packed(gradients), *own.moved]
        reduced = others.allreduce(to_sum, early=[numbers, *checks], late=[noted])
        with tf.control_dependencies([noted]):
            gathered = others.allgather([*self._travel.packed(values), *(each.indices for each in own.slices)])
        with tf.control_dependencies([*reduced, *gathered]):  # all or nothing
            numbers, *summed = (tf.identity(each) for each in reduced)
            gathered = [tf.identity(each) for each in gathered]
            private = [tf.identity(each) for each in own.private]
        moved, summed = summed[len(gradients) :], self._travel.unpacked(summed[: len(gradients)], gradients)
        rows = self._travel.unpacked(gathered[: len(values)], values)
        cut, end = len(own.gradients), 3 + flags.shape[0]
        all_sums = Sums(
            *(numbers[0], numbers[1], numbers[2]),
            gradients=summed[:cut],
            total_gradients=summed[cut:],
            slices=[Slices(*each) for each in zip(rows, gathered[len(values) :], strict=True)],
            moved=moved,
            private=private,
            metrics=numbers[end:],
        )
        return all_sums, numbers[3:end], computed_at

    def _finish(self, all_sums: Sums, flags: tf.Tensor, reasons_not_to: list[tf.Tensor]) -> tf.Tensor:
        """Applies the step, unless there is a reason not to; gives [loss, records, *flags]."""
        records = tf.maximum(all_sums.count, 1.0)
        loss = all_sums.loss / records + all_sums.total
        if self._steered:
            reasons_not_to = [*reasons_not_to, flags[_STOP] > 0]
        with tf.control_dependencies([loss]):
            if reasons_not_to:
                skip = tf.reduce_any(reasons_not_to)
                tf.cond(skip, lambda: None, lambda: self._apply(all_sums, loss, records, flags))
            else:
                self._apply(all_sums, loss, records, flags)
        return tf.concat([[loss, all_sums.count], flags], axis=0)

    def _apply(self, all_sums: Sums, loss: tf.Tensor, records: tf.Tensor, flags: tf.Tensor) -> None:
        gradients = self._means(all_sums, records)
        if self._steered:
            self._rate.set(flags[_RATE])
        with self._rate.applied(mpi_ops.size_op):
            places = sorted(gradients)
            self._optimizer.apply([gradients[i] for i in places], [self._trainable[i] for i in places])
        for i, each in zip(self._local.moved, all_sums.moved, strict=True):
            self._non_trainable[i].assign(each / tf.cast(records, each.dtype))
        for i, each in zip(self._local.private, all_sums.private, strict=True):
            self._non_trainable[i].assign(each)
        self._epoch.add(loss, all_sums.count, all_sums.metrics)

    def _means(self, all_sums: Sums, records: tf.Tensor) -> dict[int, Any]:
        """The gradients as the optimizer takes them, by their variables' places."""
        local, gradients = self._local, {}
        for i, each in zip(local.with_gradient, all_sums.gradients, strict=True):
            gradients[i] = each / tf.cast(records, each.dtype)
        for i, each in zip(local.with_total_gradient, all_sums.total_gradients, strict=True):
            gradients[i] = gradients[i] + each if i in gradients else tf.identity(each)
        for i, (values, indices) in zip(local.with_slices, all_sums.slices, strict=True):
            divisor = 1.0 if self._training.loss_is_sum else tf.cast(records, values.dtype)
            shape = tf.constant(tuple(self._trainable[i].shape), indices.dtype)
            gradients[i] = tf.IndexedSlices(values / divisor, tf.identity(indices), shape)
        return gradients


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


def _flags(steered: bool, part: bool, stop: bool, learning_rate: float) -> tf.Tensor:
    """What a member says along with its sums: [part], or [part, stop, learning rate] where the step is steered."""
    if not steered:
        if stop or learning_rate:
            raise ValueError("this step was not made to be steered")
        return _PART if part else _GO_ON
    return tf.constant([part, stop, learning_rate], tf.float32)


def _outcome(vector: tf.Tensor, computed_at: tf.Tensor) -> Outcome:
    loss, records, *flags = vector.numpy().tolist()
    stopped = flags[_STOP] > 0 if len(flags) > 1 else False
    return Outcome(loss, round(records), flags[_PARTS] > 0, stopped, float(computed_at))


_PARTS, _STOP, _RATE = range(3)
_GO_ON, _PART = tf.constant([0.0]), tf.constant([1.0])
