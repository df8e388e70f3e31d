"""Makes one kind of loss out of the many that users write: a function of (labels, outputs, weights)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts.arguments import ByRole, by_role
from edl_allreduce.contracts.outputs import Output, by_output, labels_of, outputs_of
from edl_allreduce.errors import ModelError


@dataclass(frozen=True)
class Term:
    """A loss that is one function.

    Attributes:
        function: of (labels, outputs, weights); gives a scalar, or a vector with one value per example.
        is_sum: whether a scalar is the sum over the batch; else it is the mean.
        of_one_output: whether it is for one output, as Keras's losses are; else it gets all that the model gives.
        name: Keras's, or the function's.
    """

    function: Callable[[Any, Any, Any], Any]
    is_sum: bool = False
    of_one_output: bool = False
    name: str = "loss"


@dataclass(frozen=True)
class OutputLoss:
    """The loss of one output.

    Attributes:
        output: which one.
        term: its loss.
        weight: its part in the whole.
        labels: finds its labels, in all labels.
    """

    output: Output
    term: Term
    weight: float
    labels: Callable[[Any], Any]


@dataclass(frozen=True)
class Loss:
    """A loss as the worker calls it.

    Attributes:
        terms: one, or one for each output: a dict by name, or a list.
        is_sum: whether a scalar is the sum over the batch; else it is the mean.
        weights: of the outputs' losses, by name or as a list; None for 1.
        names: `model.output_names`.
        where: what to call it in an error.
    """

    terms: Any
    is_sum: bool = False
    weights: Any = None
    names: Sequence[str] | None = None
    where: str = "loss"

    def __call__(self, labels: Any, outputs: Any, weights: Any = None) -> Any:
        """A scalar, or a vector with one value per example.

        Args:
            labels: as the input function gives them.
            outputs: as the model gives them.
            weights: one number per example, a vector [n], or None.

        Raises:
            ModelError: the loss, the labels and the outputs do not fit together.
        """
        nested = any(isinstance(each, (Mapping, list, tuple)) for each in (labels, outputs))
        if isinstance(self.terms, Term) and self.weights is None and not (nested and self.terms.of_one_output):
            return self.terms.function(labels, outputs, weights)
        values = [
            each.term.function(each.labels(labels), each.output.of(outputs), weights) * each.weight
            for each in self.per_output(labels, outputs)
        ]
        if any(value.shape.rank == 0 for value in values):
            reduce = tf.reduce_sum if self.is_sum else tf.reduce_mean
            values = [reduce(value) for value in values]
        return tf.add_n([tf.cast(value, tf.float32) for value in values])

    def per_output(self, labels: Any, outputs: Any) -> list[OutputLoss]:
        """The loss of every output that has one; empty when one function gets them all.

        Args:
            labels, outputs: tensors, or their specs.

        Raises:
            ModelError: as `__call__`.
        """
        if isinstance(self.terms, Term) and not self.terms.of_one_output:
            return []
        all_outputs = outputs_of(outputs, self.names)
        terms = [self.terms] * len(all_outputs)
        if not isinstance(self.terms, Term):
            terms = by_output(self.terms, all_outputs, self.where)
        weights = [None] * len(all_outputs)
        if self.weights is not None:
            weights = by_output(self.weights, all_outputs, f"{self.where}: weights of the losses")
        return list(self._paired(all_outputs, terms, weights, labels))

    def _paired(
        self, outputs: Sequence[Output], terms: Sequence[Term | None], weights: Sequence[float | None], labels: Any
    ) -> Iterator[OutputLoss]:
        used = [output for output, term in zip(outputs, terms, strict=True) if term is not None]
        if len(used) > 1 and not isinstance(labels, (Mapping, list, tuple)):
            raise ModelError(f"{self.where}: {len(used)} outputs have a loss, but the input function gives one label")
        for output, term, weight in zip(outputs, terms, weights, strict=True):
            if term is not None:

                def own(labels: Any, output: Output = output) -> Any:
                    return labels_of(output, labels, used, len(outputs))

                yield OutputLoss(output, term, 1.0 if weight is None else weight, own)


def loss_from(value: Any, where: str, weights: Any = None, names: Sequence[str] | None = None) -> Loss:
    """A loss from a Keras loss, the name of one, a function of (labels, outputs), or a dict or list of them.

    Args:
        value: what the user gave or returned; a dict or list has one per output, or None.
        where: what to call it in an error.
        weights: of the outputs' losses: a dict, list, or for a single output a number; None for 1.
        names: `model.output_names`.

    Raises:
        ModelError: it is nothing of the kind.
    """
    if isinstance(weights, (int, float)):
        weights = [weights]
    if isinstance(value, Mapping):
        terms: Any = {name: each and _term(each, where) for name, each in value.items()}
        found = [each for each in terms.values() if each]
    elif isinstance(value, (list, tuple)):
        terms = [each and _term(each, where) for each in value]
        found = [each for each in terms if each]
    else:
        terms = _term(value, where)
        found = [terms]
    if not found:
        raise ModelError(f"{where}: expected a loss for at least one output, got {value!r}")
    if len({each.is_sum for each in found}) > 1:
        raise ModelError(f"{where}: some losses are sums over the batch and some are means; give all one reduction")
    if weights is not None and isinstance(terms, Term) and not terms.of_one_output:
        raise ModelError(f"{where}: weights of losses need a loss for each output, got one function of all outputs")
    return Loss(terms, found[0].is_sum, weights, names, where)


def keras_loss(name: str, where: str) -> Any:
    """The Keras loss of that name.

    Raises:
        ModelError: there is none.
    """
    try:
        return keras.losses.get(name)
    except ValueError:
        known = "neither in the model's file nor a Keras loss such as sparse_categorical_crossentropy"
        raise ModelError(f"{where}: {name!r} is {known}") from None


def per_example(value: Any) -> Any:
    """A loss as a scalar or as a vector: all dimensions after the first are averaged."""
    value = tf.convert_to_tensor(value)
    if value.shape.rank is None or value.shape.rank <= 1:
        return value
    return tf.reduce_mean(value, axis=list(range(1, value.shape.rank)))


def kind_of_classes(labels: Any, outputs: Any) -> str:
    """How Keras's `compile` reads "accuracy" or "crossentropy", by shapes: binary, sparse_categorical or categorical.

    Source: `is_binary_or_sparse_categorical` in keras/src/trainers/compile_utils.py.
    """
    if outputs.shape[-1] == 1:
        return "binary"
    sparse = len(labels.shape) < len(outputs.shape) or labels.shape[-1] == 1
    return "sparse_categorical" if sparse else "categorical"


def _term(value: Any, where: str) -> Term:
    if isinstance(value, str) and value.lower() in ("crossentropy", "ce"):
        return Term(_crossentropy(where), False, True, value)
    name = value if isinstance(value, str) else str(getattr(value, "__name__", getattr(value, "name", "loss")))
    if isinstance(value, str):
        value = keras_loss(value, where)
    if isinstance(value, keras.losses.Loss):
        return Term(_of_keras(value, where), value.reduction == "sum", True, name)
    if not callable(value) or isinstance(value, type):
        raise ModelError(f"{where}: expected a Keras loss or a function of (labels, outputs), got {value!r}")
    is_keras = str(getattr(value, "__module__", "")).partition(".")[0] == "keras"
    return Term(_of_function(value, where, is_keras), False, is_keras, name)


def _crossentropy(where: str) -> Callable[[Any, Any, Any], Any]:
    def loss(labels: Any, outputs: Any, weights: Any = None) -> Any:
        function = keras_loss(f"{kind_of_classes(labels, outputs)}_crossentropy", where)
        return _of_function(function, where, True)(labels, outputs, weights)

    return loss


class _FunctionOfKeras(keras.losses.Loss):
    """A loss function of Keras as a loss, which respects the mask that a model's output may carry."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__(name=function.__name__)
        self.call = function


def _of_keras(value: Any, where: str) -> Callable[[Any, Any, Any], Any]:
    def loss(labels: Any, outputs: Any, weights: Any = None) -> Any:
        _check_numbers(labels, where)
        if weights is None:
            return per_example(value(labels, outputs))
        if value.reduction == "mean_with_sample_weight":
            problem = "reduction 'mean_with_sample_weight' makes an example's part depend on who shares its batch"
            raise ModelError(f"{where}: {problem}; use the default, 'sum_over_batch_size'")
        labels, outputs = _as_columns(labels, outputs)
        rank = value.call(*(keras.ops.convert_to_tensor(each, value.dtype) for each in (labels, outputs))).shape.rank
        if not rank:
            raise _needs_examples(where)
        return per_example(value(labels, outputs, tf.reshape(weights, [-1] + [1] * (rank - 1))))

    return loss


def _of_function(function: Callable[..., Any], where: str, is_keras: bool) -> Callable[[Any, Any, Any], Any]:
    call = function if isinstance(function, ByRole) else by_role(function)

    def loss(labels: Any, outputs: Any, weights: Any = None) -> Any:
        if is_keras:
            _check_numbers(labels, where)
        if is_keras and getattr(outputs, "_keras_mask", None) is not None:
            return _of_keras(_FunctionOfKeras(function), where)(_of_same_rank(labels, outputs), outputs, weights)
        labels, outputs = _of_same_rank(labels, outputs), tf.nest.map_structure(_full_precision, outputs)
        if weights is None:
            return per_example(call(labels=labels, outputs=outputs))
        if call.gets("weights"):
            return per_example(call(labels=labels, outputs=outputs, weights=weights))
        if is_keras:
            labels, outputs = _as_columns(labels, outputs)
        value = per_example(call(labels=labels, outputs=outputs))
        if value.shape.rank == 0:
            raise _needs_examples(where)
        return value * tf.cast(weights, value.dtype)

    return loss


def _check_numbers(labels: Any, where: str) -> None:
    if getattr(labels, "dtype", None) == tf.string:
        problem = "Keras's losses take numbers as labels, but the input function gives texts"
        raise ModelError(f"{where}: {problem}; make numbers of them there (`edl convert --label=COLUMN` does)")


def _needs_examples(where: str) -> ModelError:
    expected = "with sample weights, a loss must give one value per example, or take sample_weight"
    return ModelError(f"{where}: {expected}; it gives one value for the whole batch")


def _full_precision(value: Any) -> Any:
    """Outputs of a model in mixed precision as float32, as Keras's losses get them."""
    return tf.cast(value, tf.float32) if tf.is_tensor(value) and value.dtype in (tf.float16, tf.bfloat16) else value


def _as_columns(labels: Any, outputs: Any) -> tuple[Any, Any]:
    """Outputs [n] as [n, 1]: Keras's losses would take the examples for the values of one example."""
    if outputs.shape.rank == 1:
        return tf.reshape(labels, [-1, 1]), tf.reshape(outputs, [-1, 1])
    return labels, outputs


def _of_same_rank(labels: Any, outputs: Any) -> Any:
    """Labels [n] for outputs [n, 1] become [n, 1], and the reverse, as in Keras's `fit`: they must not broadcast."""
    if not tf.is_tensor(labels) or not tf.is_tensor(outputs) or None in (labels.shape.rank, outputs.shape.rank):
        return labels
    if labels.shape.rank == outputs.shape.rank - 1 and outputs.shape[-1] == 1:
        return tf.expand_dims(labels, -1)
    if labels.shape.rank == outputs.shape.rank + 1 and labels.shape[-1] == 1:
        return tf.squeeze(labels, -1)
    return labels
