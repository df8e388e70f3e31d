"""The one shape in which every kind of model reaches the worker, so that contracts differ only in how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Any)

_VECTORISED = "_edl_vectorised"


class Mode(str, Enum):
    """What records are read for; a string too, since ElasticDL's functions compare it with "training" and the like."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    PREDICTION = "prediction"


@dataclass(frozen=True)
class Metadata:
    """What ElasticDL's dataset functions are told about the records; those of RecordIO and TFRecord have no columns."""

    column_names: tuple[str, ...] | None = None
    column_dtypes: Mapping[str, Any] | None = None


def vectorised(function: Function) -> Function:
    """Marks an input function as taking many serialized records at once: a string tensor of shape [n].

    What it returns must have n as the first dimension of every tensor. Works above and below `@staticmethod`.
    """
    marked = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    setattr(marked, _VECTORISED, True)
    return function


def is_vectorised(function: Callable[..., Any]) -> bool:
    """Whether `vectorised` has marked `function`."""
    return bool(getattr(function, _VECTORISED, False))


@dataclass(frozen=True)
class Input:
    """An input function, traced.

    Attributes:
        vectorised: whether `apply` takes a string tensor [n], or a dataset of scalar strings.
        apply: gives (features, labels), or (features, labels, weights), for prediction the features alone: of n
            records, or a dataset of one element per record. Weights are float32, one number per example.
        element_spec: the same as `tf.TensorSpec`s of a batch; the first dimension is None.
        graphs: the TensorFlow graphs of the user's function, where operations that fail can be looked up.
        mode: what records are read for.
    """

    vectorised: bool
    apply: Callable[[Any], Any]
    element_spec: Any
    graphs: tuple[Any, ...] = ()
    mode: Mode = Mode.TRAINING

    @property
    def specs(self) -> tuple[Any, Any, Any]:
        """`element_spec` as (features, labels, weights); None for what there is not."""
        if self.mode is Mode.PREDICTION:
            return self.element_spec, None, None
        return (*self.element_spec, None)[:3]


@dataclass(frozen=True)
class Metric:
    """A metric of a model.

    Attributes:
        name: in logs and results.
        metric: a `keras.metrics.Metric`.
        of: of (labels, outputs): what `metric.update_state` gets as y_true and y_pred.
        weighted: whether it also gets the examples' weights.
    """

    name: str
    metric: Any
    of: Callable[[Any, Any], tuple[Any, Any]] = lambda labels, outputs: (labels, outputs)
    weighted: bool = False


@dataclass(frozen=True)
class TrainingModel:
    """A model and all that is needed to train, evaluate and use it.

    Attributes:
        model: a `keras.Model`, perhaps without variables yet (see `build`).
        optimizer: a `keras.optimizers.Optimizer`.
        loss: of (labels, outputs, weights=None): a scalar, the mean over the batch (the sum when `loss_is_sum`), or a
            vector with one value per example. Weights [n] multiply the examples' losses; the mean is over n.
        loss_is_sum: whether a scalar loss is the sum over the batch.
        input: the input function.
        metrics: what is told beside the loss, while training and in evaluations.
        callbacks: `keras.callbacks.Callback`s.
        outputs_processor: of ElasticDL's kind: its `process(predictions, worker_id)` gets each batch of predictions;
            None when predictions are to be written as files.
        input_for: the input function as it is in another mode; None where a contract cannot tell.
        metrics_for: the metrics as they are in another mode; None when they are the same in all.
        output_spec: what the model gives, as `tf.TensorSpec`s of a batch; None when that did not matter.
    """

    model: Any
    optimizer: Any
    loss: Callable[..., Any]
    loss_is_sum: bool
    input: Input
    metrics: tuple[Metric, ...] = ()
    callbacks: tuple[Any, ...] = ()
    outputs_processor: Any = None
    input_for: Callable[[Mode], Input] | None = None
    metrics_for: Callable[[Input], tuple[Metric, ...]] | None = None
    output_spec: Any = None

    def in_mode(self, mode: Mode) -> TrainingModel:
        """The same model with its input function and metrics as they are in another mode."""
        if self.input_for is None or mode is self.input.mode:
            return self
        input = self.input_for(mode)
        metrics = self.metrics if self.metrics_for is None else self.metrics_for(input)
        return replace(self, input=input, metrics=metrics)

    @property
    def vectorised(self) -> bool:
        """Whether records are parsed by `parse_batch`; else by `parse`."""
        return self.input.vectorised

    @property
    def graphs(self) -> tuple[Any, ...]:
        """The input function's graphs, for `user_errors.explain`."""
        return self.input.graphs

    def parse(self, records: Any) -> Any:
        """A dataset of (features, labels), one element per record, in the same order, unbatched.

        Args:
            records: a `tf.data.Dataset` of scalar strings, each a serialized record.
        """
        if self.vectorised:
            raise TypeError("this model's input function is vectorised: use parse_batch")
        return self.input.apply(records)

    def parse_batch(self, strings: Any) -> Any:
        """(features, labels) of n serialized records, a string tensor of shape [n]."""
        if not self.vectorised:
            raise TypeError("this model's input function takes one record at a time: use parse")
        return self.input.apply(strings)

    def batches(self, records: Any, batch_size: int) -> Any:
        """A dataset of (features, labels) in batches; the last one may be smaller.

        Args:
            records: a `tf.data.Dataset` of scalar strings, each a serialized record.
            batch_size: records per batch.
        """
        if self.vectorised:
            return records.batch(batch_size).map(self.parse_batch)
        return self.parse(records).batch(batch_size)

    def build(self) -> None:
        """Makes the model's variables, by tracing it once on the input function's shapes; nothing is computed."""
        from edl_allreduce.contracts.tracing import output_spec

        if self.output_spec is None:
            output_spec(self.model, self.input.specs[0])
