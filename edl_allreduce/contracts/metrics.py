"""Makes one list of metrics out of the many ways that users write them, each with the output that it looks at.

What Keras's `compile` accepts means the same here: "accuracy" is resolved by shapes, several outputs take a list or a
dict with metrics for each. A dict whose keys are no outputs names its metrics (ElasticDL's `eval_metrics_fn`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts.arguments import ByRole, by_role
from edl_allreduce.contracts.base import Input, Metric
from edl_allreduce.contracts.losses import Loss, OutputLoss, kind_of_classes
from edl_allreduce.contracts.means import LossOfOutput, MeanOverExamples
from edl_allreduce.contracts.metric_functions import metrics_of_function
from edl_allreduce.contracts.outputs import Output, labels_of, outputs_of
from edl_allreduce.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class Wanted:
    """Metrics as the user gave them.

    Attributes:
        value: the name of one, a Keras metric, a function, or a list or dict of them; a `ByRole` gives a dict of them.
        where: what to call them in an error.
        weighted: whether they get the examples' weights.
    """

    value: Any
    where: str
    weighted: bool = False


def metrics_of(wanted: Wanted, input: Input, outputs: Any, names: Sequence[str] | None) -> list[Metric]:
    """The metrics that a user wants; built, so that their variables exist.

    Args:
        wanted: what the user gave.
        input: where labels come from, and for which mode.
        outputs: specs of what the model gives.
        names: `model.output_names`.

    Raises:
        ModelError: something is no metric, or does not fit to the outputs.
    """
    labels = input.specs[1]
    reader = _Reader(wanted, outputs_of(outputs, names), labels, outputs)
    if isinstance(wanted.value, ByRole):
        made = metrics_of_function(wanted.value, input.mode, labels, outputs, wanted.where, reader.whole)
    else:
        made = reader.read(wanted.value)
    return _built(list(made), labels, outputs)


def losses_of_outputs(loss: Loss, input: Input, outputs: Any) -> list[Metric]:
    """With several outputs, the loss of each one is a metric too, as under `fit`. May raise ModelError."""
    labels = input.specs[1]
    losses = [] if loss.is_sum else loss.per_output(labels, outputs)
    return _built(list(_losses(losses)), labels, outputs)


def named_apart(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The same metrics, each with a name of its own; Keras tells two of one name apart in the same way."""
    taken = {"loss": 0}
    apart = []
    for metric in metrics:
        count = taken[metric.name] = taken.get(metric.name, -1) + 1
        apart.append(dataclasses.replace(metric, name=f"{metric.name}_{count}" if count else metric.name))
    return tuple(apart)


def _built(metrics: list[Metric], labels: Any, outputs: Any) -> list[Metric]:
    """The same metrics, whose variables tracing an update has made; nothing is computed."""

    def update(labels: Any, outputs: Any) -> None:
        for each in metrics:
            each.metric.update_state(*each.of(labels, outputs))

    if metrics:
        tf.function(update, autograph=False).get_concrete_function(labels, outputs)
    return metrics


def plain_name(metric: keras.metrics.Metric) -> str:
    """A metric's name without the number that Keras adds to names of its own making ("auc_3", after others)."""
    base, _, number = metric.name.rpartition("_")
    own = number.isdigit() and base.replace("_", "") == type(metric).__name__.lower()
    return base if own else str(metric.name)


def _losses(losses: Sequence[OutputLoss]) -> Iterator[Metric]:
    for each in losses if len(losses) > 1 else ():
        name = f"{each.output.name or each.term.name}_loss"

        def of(labels: Any, outputs: Any, each: OutputLoss = each) -> tuple[Any, Any]:
            return each.labels(labels), each.output.of(outputs)

        yield Metric(name, LossOfOutput(each, name), of, weighted=True)


@dataclass(frozen=True)
class _Reader:
    """Reads what one user wants, for outputs whose shapes are known."""

    wanted: Wanted
    every: tuple[Output, ...]
    labels: Any
    outputs: Any

    def read(self, value: Any) -> Iterator[Metric]:
        """The metrics of the whole model."""
        if isinstance(value, Mapping):
            yield from self._named(value, None)
        elif len(self.every) == 1:
            for each in tf.nest.flatten(value):
                yield self._metric(each, self.every[0])
        elif isinstance(value, (list, tuple)) and len(value) == len(self.every):
            for output, each in zip(self.every, value, strict=True):
                yield from self._of_output(each, output)
        elif callable(value) and not isinstance(value, (type, keras.metrics.Metric)):
            yield self._metric(value, None)
        else:
            raise self._error(f"expected a dict or list with the metrics of each of {len(self.every)} outputs", value)

    def whole(self, labels: Any, outputs: Any) -> tuple[Any, Any]:
        """The labels and the output of a model that has one output, else all of them."""
        if len(self.every) > 1:
            return labels, outputs
        return labels_of(self.every[0], labels, self.every, 1), self.every[0].of(outputs)

    def _named(self, values: Mapping[str, Any], output: Output | None) -> Iterator[Metric]:
        """A dict: of outputs, else of metrics by their names."""
        by_name = {each.name: each for each in self.every}
        for name, value in values.items():
            if output is None and name in by_name:
                yield from self._of_output(value, by_name[name])
            else:
                at = output or (self.every[0] if len(self.every) == 1 else None)
                yield self._metric(value, at, name)

    def _of_output(self, value: Any, output: Output) -> Iterator[Metric]:
        if isinstance(value, Mapping):
            yield from self._named(value, output)
        else:
            yield from (self._metric(each, output) for each in tf.nest.flatten(value) if each is not None)

    def _metric(self, value: Any, output: Output | None, name: str = "") -> Metric:
        """One metric of one output, or a function of all that the model gives."""

        def of(labels: Any, outputs: Any) -> tuple[Any, Any]:
            if output is None:
                return labels, outputs
            return labels_of(output, labels, self.every, len(self.every)), output.of(outputs)

        if output is None and (isinstance(value, (str, keras.metrics.Metric)) or not callable(value)):
            known = [each.name for each in self.every if each.name]
            raise self._error(f"{name!r} is none of the model's outputs{did_you_mean(name, known)} {known}", value)
        metric = self._made(value, *of(self.labels, self.outputs), name)
        name = name or plain_name(metric)
        if output is not None and output.name and len(self.every) > 1:
            name = f"{output.name}_{name}"
        return Metric(name, metric, of, self.wanted.weighted)

    def _made(self, value: Any, labels: Any, output: Any, name: str) -> Any:
        if isinstance(value, str):
            value, name = self._by_name(value, labels, output), name or value
        if isinstance(value, type) and issubclass(value, keras.metrics.Metric):
            value = value()
        if isinstance(value, keras.metrics.Metric):
            if name:
                value.name = name
            return value
        if isinstance(value, type) or not callable(value):
            raise self._error("expected a Keras metric, the name of one, or a function of (labels, outputs)", value)
        name = name or getattr(value, "__name__", "metric")
        if str(getattr(value, "__module__", "")).partition(".")[0] == "keras":
            return keras.metrics.MeanMetricWrapper(value, name=name)
        return MeanOverExamples(by_role(value), name)

    def _by_name(self, name: str, labels: Any, output: Any) -> Any:
        try:
            if name.lower() in ("accuracy", "acc"):
                return keras.metrics.get(f"{kind_of_classes(labels, output)}_accuracy")
            return keras.metrics.get(name)
        except ValueError:
            near = did_you_mean(name, [each for each in dir(keras.metrics) if not each.startswith("_")])
            raise self._error(f"neither in the model's file nor a Keras metric{near}", name) from None

    def _error(self, problem: str, value: Any) -> ModelError:
        return ModelError(f"{self.wanted.where}: {problem}; got {value!r}")
