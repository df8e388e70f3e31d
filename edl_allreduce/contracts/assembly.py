"""Puts a model together from a user's parts, the same way for every contract that finds them under fixed names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from edl_allreduce.contracts.arguments import ByRole, by_role, check_all_taken, is_loss, takes
from edl_allreduce.contracts.base import Input, Metadata, Metric, Mode, TrainingModel
from edl_allreduce.contracts.callbacks import LearningRateByVersion, callbacks_from, outputs_processor_from
from edl_allreduce.contracts.elements import features_by_name
from edl_allreduce.contracts.inputs import input_from
from edl_allreduce.contracts.losses import Loss, Term, loss_from
from edl_allreduce.contracts.metrics import Wanted, losses_of_outputs, metrics_of, named_apart
from edl_allreduce.contracts.optimizers import optimizer_from
from edl_allreduce.contracts.parts import (
    LEARNING_RATE,
    METRICS,
    NOTHING,
    Find,
    Names,
    Part,
    found,
    made_of,
    make,
    override,
    required,
    takes_of,
)
from edl_allreduce.contracts.resolve import Definition, find_override
from edl_allreduce.contracts.tracing import output_spec
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.errors import ModelError

_OPTIONAL = (*METRICS, "loss_weights", "callbacks", LEARNING_RATE)
_OUTPUTS_PROCESSOR = "PredictionOutputsProcessor"
_OWN_STEPS = ("train_step", "test_step", "compute_loss", "compute_metrics")


def assemble(definition: Definition, mode: Mode, maker: Callable[..., Any], find: Find, names: Names) -> TrainingModel:
    """Makes the model with its params, then its loss, optimizer, input function, metrics and callbacks.

    Args:
        definition: what the user named.
        mode: what records are read for.
        maker: the model's class, the function that returns it, or the class of an object that has all parts.
        find: gives the part of a name, of what was made or its file; None when there is none.
        names: the contract's.

    Raises:
        ModelError: something is missing or of the wrong kind, a param has no taker, or the user's code failed.
    """
    params, spec = definition.spec.values, definition.spec
    made = make(definition, maker, names, params)
    model = None if "model" in names.parts else _model(definition, made, names.maker)
    kinds = [("model", "")] if "model" in names.parts else []
    kinds += [("loss", spec.loss), ("optimizer", spec.optimizer), ("input_fn", spec.input_fn)]
    parts = {kind: override(definition, kind, given) or required(made, find, kind, names) for kind, given in kinds}
    named = _named_metrics(definition)
    optional = [kind for kind in _OPTIONAL if not (named and kind in METRICS)]
    parts |= {kind: part for kind in optional if (part := found(made, find, kind, names))}
    every = [*parts.values(), *named]
    takers = {names.maker: takes(maker)} | {part.name: takes_of(part, params) or NOTHING for part in every}
    check_all_taken(params, takers, definition.file)
    unused = {"input_fn"} if mode is Mode.TRAINING else {"input_fn", "callbacks", LEARNING_RATE}
    values = {kind: made_of(definition, part, params) for kind, part in parts.items() if kind not in unused}
    if model is None:
        model = _model(definition, values["model"], parts["model"].name)
    wanted = [Wanted(made_of(definition, part, params), part.where) for part in named]
    return _Assembly(definition, model, parts, values, wanted).training_model(mode)


def _named_metrics(definition: Definition) -> list[Part]:
    """The metrics of `--metrics`: functions of the zoo, else names of Keras's."""
    names = [name.strip() for name in definition.spec.metrics.split(",") if name.strip()]
    found = [(name, find_override(definition, name, "metrics")) for name in names]
    return [Part("metrics", name, name if value is None else value, f"--metrics={name}") for name, value in found]


def _model(definition: Definition, model: Any, name: str) -> Any:
    """The model that a user's function returned, perhaps as (inputs, outputs)."""
    if isinstance(model, (tuple, list)) and len(model) == 2:
        with user_code(definition.spec.model_zoo, f"{definition.file}: {name}'s (inputs, outputs)"):
            model = keras.Model(inputs=model[0], outputs=model[1])
    if not isinstance(model, keras.Model):
        got = f"{type(model).__module__}.{type(model).__name__}".removeprefix("builtins.")
        raise ModelError(f"{definition.file}: {name} must make a keras.Model, it made a {got}")
    for own in _OWN_STEPS:
        at = next(base for base in type(model).__mro__ if own in vars(base))
        if at.__module__.partition(".")[0] != "keras":
            what = "would not be called: steps are made here, from the model's call, loss, add_loss and metrics"
            raise ModelError(f"{definition.file}: {at.__name__}.{own} {what}; remove it")
    return model


@dataclass(frozen=True)
class _Assembly:
    """The parts of one model.

    Attributes:
        definition: what the user named.
        model: made.
        parts: as the user gave them.
        values: what they are, or what their functions returned; but for the input function.
        named: metrics to use instead of the model's own.
    """

    definition: Definition
    model: Any
    parts: Mapping[str, Part]
    values: Mapping[str, Any]
    named: Sequence[Wanted]

    def training_model(self, mode: Mode) -> TrainingModel:
        """All of it, for records that are read in some mode."""
        input = self._input(mode)
        loss = self._loss()
        metrics_for = self._metrics_for(loss)
        metrics, outputs = metrics_for(input)
        return TrainingModel(
            model=self.model,
            optimizer=optimizer_from(self.values["optimizer"], self.parts["optimizer"].where),
            loss=loss,
            loss_is_sum=loss.is_sum,
            input=input,
            metrics=metrics,
            callbacks=self._callbacks(),
            outputs_processor=self._outputs_processor() if mode is Mode.PREDICTION else None,
            input_for=self._input,
            metrics_for=lambda input: metrics_for(input)[0],
            output_spec=outputs,
        )

    def _input(self, mode: Mode) -> Input:
        part = self.parts["input_fn"]
        with self._user_code(part.where):
            metadata = Metadata(self.definition.column_names)
            input = input_from(part.value, self.definition.spec.values, mode, part.where, metadata)
            return features_by_name(input, self.model)

    def _loss(self) -> Loss:
        names, weights = getattr(self.model, "output_names", None), self.values.get("loss_weights")
        return loss_from(self.values["loss"], self.parts["loss"].where, weights, names)

    def _metrics_for(self, loss: Loss) -> Callable[[Input], tuple[tuple[Metric, ...], Any]]:
        """A function of the input that gives the metrics, and what the model gives, if that had to be known."""
        wanted, names = self._wanted(), getattr(self.model, "output_names", None)
        several = not isinstance(loss.terms, Term) or (loss.terms.of_one_output and len(names or ()) > 1)

        traced: list[Any] = []

        def metrics_for(input: Input) -> tuple[tuple[Metric, ...], Any]:
            if input.mode is Mode.PREDICTION or not (wanted or several):
                return (), None
            if not traced:
                with self._user_code(f"{self.definition.file}: calling the model"):
                    traced.append(output_spec(self.model, input.specs[0]))
            with self._user_code(loss.where):
                metrics = losses_of_outputs(loss, input, traced[0])
            for each in wanted:
                with self._user_code(each.where):
                    metrics += metrics_of(each, input, traced[0], names)
            return named_apart(metrics), traced[0]

        return metrics_for

    def _wanted(self) -> list[Wanted]:
        wanted = list(self.named)
        for kind in METRICS:
            value = self.values.get(kind)
            if value is not None:
                if callable(value) and not isinstance(value, ByRole) and self._computes_all(value):
                    value = by_role(value)
                wanted.append(Wanted(value, self.parts[kind].where, kind == "weighted_metrics"))
        return wanted

    def _computes_all(self, function: Callable[..., Any]) -> bool:
        """Whether a function gives the metrics of a batch, as opposed to being one."""
        return not isinstance(function, (type, keras.metrics.Metric)) and is_loss(function, self.definition.spec.values)

    def _callbacks(self) -> tuple[Any, ...]:
        made = callbacks_from(self.values.get("callbacks"), getattr(self.parts.get("callbacks"), "where", ""))
        if LEARNING_RATE in self.values:
            made = (*made, LearningRateByVersion(self.values[LEARNING_RATE], self.parts[LEARNING_RATE].where))
        return made

    def _outputs_processor(self) -> Any:
        value = getattr(self.definition.module, _OUTPUTS_PROCESSOR, None)
        if value is None:
            return None
        where = f"{self.definition.file}: {_OUTPUTS_PROCESSOR}"
        with self._user_code(where):
            return outputs_processor_from(value, where)

    def _user_code(self, doing: str) -> Any:
        return user_code(self.definition.spec.model_zoo, doing)
