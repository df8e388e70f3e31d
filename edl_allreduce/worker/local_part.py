"""A member's own part of a step: forward and backward over its records, as sums that can be added to the others'.

Nothing is changed by it: Keras's `stateless_call` gives the new values of what a model's call changes, and the step
assigns them once everybody's part has arrived.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.spec import TrainingSpec
from edl_allreduce.worker.weighting import weighted

Tensors = list[tf.Tensor]
Batch = tuple[Any, ...]


class Slices(NamedTuple):
    """A sparse gradient, of an embedding: rows, each to be added at an index; indices may repeat."""

    values: tf.Tensor
    indices: tf.Tensor


class Sums(NamedTuple):
    """What some records contribute to a step. All but `private` is added over the members.

    Attributes:
        loss: the part of the loss that is a mean over the records, times their number; float32, as the next two.
        total: the part of the loss that is a sum over the records.
        count: how many records.
        gradients: of `loss`, one for every variable that has one.
        total_gradients: of `total`.
        slices: the sparse gradients among them; those of the members are not added but put one after the other, since
            Keras's optimizers treat repeated indices in a way of their own.
        moved: the new values of moving statistics, times the number of records.
        private: the new values of what is every worker's own, such as the states of random generators.
        metrics: by how much the metrics' states change, a vector.
    """

    loss: tf.Tensor
    total: tf.Tensor
    count: tf.Tensor
    gradients: Tensors
    total_gradients: Tensors
    slices: list[Slices]
    moved: Tensors
    private: Tensors
    metrics: tf.Tensor


class LocalPart:
    """Computes `Sums`; to be used while a step is traced.

    Args:
        training: the model, with variables, and its loss.
        optimizer: scales the loss where mixed precision needs it.
        spec: class weights, pieces, XLA.
        summed: which of the model's additional losses are sums over the records; the others are means.
        metrics: of (labels, outputs, weights): by how much the metrics change, a vector.
        workers: gives a tensor, how many take part in a step.

    Attributes:
        with_gradient, with_total_gradient, with_slices: which trainable variables the gradients in `Sums` belong to.
        moved, private: which non-trainable variables the values in `Sums` belong to.
        checks: operations that may fail, such as assertions: they come before anything of this part reaches the ring.

    All of them are known once a batch has been traced.
    """

    def __init__(
        self,
        training: TrainingModel,
        optimizer: Any,
        spec: TrainingSpec,
        summed: Collection[int],
        metrics: Callable[[Any, Any, Any], tf.Tensor],
        workers: Callable[[], tf.Tensor],
    ) -> None:
        self._spec, self._workers = spec, workers
        self._training, self._model, self._optimizer, self._metrics = training, training.model, optimizer, metrics
        self._class_weights, self._limit, self._summed = spec.class_weights, spec.max_local_batch, summed
        self._half = training.model.compute_dtype in ("float16", "bfloat16")
        self._trainable = list(self._model.trainable_variables)
        self._non_trainable = list(self._model.non_trainable_variables)
        self._call_arguments = call_arguments(self._model)
        self._zero = tf.Variable(0.0, trainable=False)
        self._metric_numbers = 0
        self.with_gradient: list[int] = []
        self.with_total_gradient: list[int] = []
        self.with_slices: list[int] = []
        self._indices: list[tf.DType] = []  # their types
        self.moved: list[int] = []
        self.private: list[int] = []
        self.checks: list[tf.Operation] = []
        self._compute: Any = self._sums_of
        if spec.jit_compile or self._limit:  # a function of its own: for XLA, and to be called for each piece
            function = tf.function(self._sums_of, jit_compile=spec.jit_compile or None, autograph=False)
            values = (list(map(_spec_of, group)) for group in (self._trainable, self._non_trainable))
            self._compute = function.get_concrete_function(*values, tf.TensorSpec([]), *training.input.element_spec)

    @property
    def graphs(self) -> tuple[Any, ...]:
        """The graphs that were traced, other than the caller's."""
        return (self._compute.graph,) if hasattr(self._compute, "graph") else ()

    def of(self, batch: Batch) -> Sums:
        """The sums over a batch, computed in pieces of at most `max_local_batch` records."""
        trainable, state = values_of(self._trainable), values_of(self._non_trainable)
        usual = tf.cast(self._spec.global_batch(self._workers()), tf.float32) if self._half else tf.ones([])
        compute = self._in_pieces if self._limit else self._compute
        sums = compute(trainable, state, usual, *batch)
        if self.graphs:  # what may fail is inside: all of it comes first
            self.checks = stateful_operations()
        return sums

    def _in_pieces(self, trainable: Tensors, state: Tensors, usual: tf.Tensor, *batch: Any) -> Sums:
        count, limit = _rows(batch), self._limit

        def one_more(begin: tf.Tensor, sums: Sums) -> tuple[tf.Tensor, Sums]:
            piece = tf.nest.map_structure(lambda each: each[begin : begin + limit], batch)
            now = list(state)
            for i, value in zip(self.private, sums.private, strict=True):
                now[i] = value
            return begin + limit, _added(sums, self._compute(trainable, now, usual, *piece))

        first = (tf.zeros([], tf.int32), self.nothing())
        _, sums = tf.while_loop(lambda begin, _: begin < count, one_more, first, parallel_iterations=1)
        return sums  # type: ignore[no-any-return]

    def nothing(self) -> Sums:
        """The sums over no records.

        No constants: TensorFlow would carry out a reduction of constants by itself, when it optimises the graph.
        """
        zero = tf.convert_to_tensor(self._zero)
        return Sums(
            loss=zero,
            total=zero,
            count=zero,
            gradients=[_filled(self._trainable[i], zero) for i in self.with_gradient],
            total_gradients=[_filled(self._trainable[i], zero) for i in self.with_total_gradient],
            slices=[
                _no_slices(self._trainable[i], dtype, zero)
                for i, dtype in zip(self.with_slices, self._indices, strict=True)
            ],
            moved=[_filled(self._non_trainable[i], zero) for i in self.moved],
            private=values_of([self._non_trainable[i] for i in self.private]),
            metrics=tf.fill([self._metric_numbers], zero),
        )

    def loss_of(self, batch: Batch) -> tf.Tensor:
        """The loss of a batch, summed; metrics are computed as well, so that records are found that fail there."""
        (mean, total), _, metrics = self._forward(values_of(self._trainable), values_of(self._non_trainable), batch)
        with tf.control_dependencies([metrics]):
            return mean * tf.cast(_rows(batch), tf.float32) + total

    def _sums_of(self, trainable: Tensors, before: Tensors, usual: tf.Tensor, *batch: Any) -> Sums:
        """`usual` is the number of records in a step; it matters for 16 bits only."""
        count = tf.cast(_rows(batch), tf.float32)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            (mean, total), after, metrics = self._forward(trainable, before, batch)
            self.checks = stateful_operations()
            loss = mean * count
            parts = _power_of_two(count / usual) if self._half else count
            targets = [self._optimizer.scale_loss(each) for each in (mean * parts, total)]
        of_loss, of_total = (tape.gradient(target, trainable) for target in targets)
        if self._half:
            of_loss = [each if each is None else each * tf.cast(count / parts, each.dtype) for each in of_loss]
        slices = self._slices(of_loss, of_total)
        self.with_gradient, gradients = _present(of_loss)
        self.with_total_gradient, total_gradients = _present(of_total)
        updated = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if new is not old]
        self.moved = [i for i in updated if after[i].dtype.is_floating]
        self.private = [i for i in updated if not after[i].dtype.is_floating]
        self._metric_numbers = int(metrics.shape[0])
        moved = [after[i] * tf.cast(count, after[i].dtype) for i in self.moved]
        private = [after[i] for i in self.private]
        return Sums(loss, total, count, gradients, total_gradients, slices, moved, private, metrics)

    def _slices(self, of_loss: list[Any], of_total: list[Any]) -> list[Slices]:
        """Takes out the sparse gradients. Those of pieces, or where both parts of the loss have one, become dense."""
        one, other = (of_total, of_loss) if self._training.loss_is_sum else (of_loss, of_total)
        self.with_slices = [
            i
            for i, each in enumerate(one)
            if isinstance(each, tf.IndexedSlices) and other[i] is None and not self._limit
        ]
        slices = []
        for i in self.with_slices:
            values = tf.reshape(one[i].values, [-1, *self._trainable[i].shape[1:]])
            slices.append(Slices(values, one[i].indices))
            one[i] = None
        self._indices = [each.indices.dtype for each in slices]
        return slices

    def _forward(
        self, trainable: Tensors, state: Tensors, batch: Batch
    ) -> tuple[tuple[tf.Tensor, tf.Tensor], Tensors, tf.Tensor]:
        """Both parts of the loss, a mean over the records and a sum; the new state; how the metrics change."""
        features, labels, weights = weighted(batch, self._class_weights)
        outputs, after, additional = self._model.stateless_call(
            trainable, state, features, return_losses=True, **self._call_arguments
        )
        given = (labels, outputs) if weights is None else (labels, outputs, weights)
        loss = tf.cast(self._training.loss(*given), tf.float32)
        parts = [(tf.reduce_sum(loss), True) if self._training.loss_is_sum else (tf.reduce_mean(loss), False)]
        for i, each in enumerate(additional):
            parts.append((tf.reduce_sum(tf.cast(each, tf.float32)), i in self._summed))
        mean, total = (
            tf.add_n([part for part, is_sum in parts if is_sum == wanted] or [tf.zeros([])]) for wanted in (False, True)
        )
        return (mean, total), after, self._metrics(labels, outputs, weights)


def call_arguments(model: keras.Model, training: bool = True) -> dict[str, bool]:
    """What to call the model with, besides the features, so that it trains, or does not."""
    return {"training": training} if "training" in inspect.signature(model.call).parameters else {}


def stateful_operations() -> list[tf.Operation]:
    """All operations so far that may do more than compute."""
    return [each for each in tf.compat.v1.get_default_graph().get_operations() if each.op_def.is_stateful]


def _rows(batch: Batch) -> tf.Tensor:
    return tf.shape(tf.nest.flatten(batch)[0])[0]


def values_of(variables: Sequence[keras.Variable]) -> Tensors:
    """What the variables hold now, as tensors."""
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def _spec_of(variable: keras.Variable) -> tf.TensorSpec:
    return tf.TensorSpec(variable.shape, variable.dtype)


def _power_of_two(fraction: tf.Tensor) -> tf.Tensor:
    """The power of two nearest to it.

    With 16 bits, what is differentiated is not the sum over the records, whose gradients would be too large, but the
    mean, as `fit` does: bits are rounded alike. A power of two changes no bits but makes the gradients of a part of a
    batch as large as those of the whole: they overflow together.
    """
    return tf.pow(2.0, tf.round(tf.math.log(fraction) / math.log(2.0)))


def _filled(variable: keras.Variable, value: tf.Tensor) -> tf.Tensor:
    return tf.fill(variable.shape, tf.cast(value, variable.dtype))


def _no_slices(variable: keras.Variable, indices: tf.DType, zero: tf.Tensor) -> Slices:
    return Slices(
        tf.fill([0, *variable.shape[1:]], tf.cast(zero, variable.dtype)), tf.fill([0], tf.cast(zero, indices))
    )


def _present(gradients: Sequence[Any]) -> tuple[list[int], Tensors]:
    """Those that are there, with their places; sparse ones as dense tensors."""
    places = [i for i, each in enumerate(gradients) if each is not None]
    return places, [tf.convert_to_tensor(gradients[i]) for i in places]


def _added(sums: Sums, more: Sums) -> Sums:
    added = tf.nest.map_structure(tf.add, sums, more)
    return added._replace(private=more.private)  # type: ignore[no-any-return]
