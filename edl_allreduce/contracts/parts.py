"""Finds the parts of a model that a user has written (loss, optimizer, metrics), and makes them with their params."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from edl_allreduce.contracts.arguments import ByRole, Takes, check_required, is_loss, takes
from edl_allreduce.contracts.inputs import params_of
from edl_allreduce.contracts.losses import keras_loss
from edl_allreduce.contracts.optimizers import keras_optimizer_class
from edl_allreduce.contracts.resolve import Definition, find_override
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.errors import ModelError, did_you_mean

Find = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Names:
    """What a contract calls its parts, and how errors speak of them.

    Attributes:
        maker: what makes the model, or the object that has the model.
        owner: where the parts are, as in "model_zoo/digits.py: Classifier".
        add: what to do about a missing one, as in "add to Classifier a method".
        parts: for each part the attribute or function; of several names the first one found counts.
        context: what else the maker gets, if it has a parameter for it.
    """

    maker: str
    owner: str
    add: str
    parts: Mapping[str, tuple[str, ...]]
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A part of a model as the user gave it.

    Attributes:
        kind: which one; for those that can be given as a setting, its name.
        name: what the user calls it.
        value: it, or a function that returns it.
        where: what to call it in an error.
    """

    kind: str
    name: str
    value: Any
    where: str


NOTHING = Takes((), (), False)
LEARNING_RATE = "learning_rate_scheduler"
METRICS = ("metrics", "weighted_metrics")

_WANTED = {
    "model": "that returns a keras.Model",
    "loss": "that returns a Keras loss, or takes (labels, outputs)",
    "optimizer": "that returns a Keras optimizer",
    "input_fn": "that turns a record into (features, labels)",
}
_READY = (ByRole, keras.Model, keras.losses.Loss, keras.optimizers.Optimizer, keras.metrics.Metric)
_SETTINGS = {"loss": "--loss", "optimizer": "--optimizer", "input_fn": "--input_fn"}


def attribute(model: Any, name: str) -> Any:
    """A model's attribute; a function written in its class without `self` counts as static."""
    raw = inspect.getattr_static(type(model), name, None)
    if inspect.isfunction(raw) and takes(raw).names[:1] != ("self",):
        return raw
    return getattr(model, name, None)


def make(definition: Definition, maker: Callable[..., Any], names: Names, params: Mapping[str, Any]) -> Any:
    """What the model's class or function makes, with those params that it takes.

    Raises:
        ModelError: a param is missing, or the user's code failed.
    """
    signature, name = takes(maker), names.maker
    given = {**params, **{key: value for key, value in names.context.items() if key in signature.names}}
    check_required(given, name, signature, definition.file)
    try:
        with user_code(definition.spec.model_zoo, f"{definition.file}: making {name}"):
            return maker(**signature.chosen(given))
    except ModelError as error:
        unnamed = [each for each in params if each not in signature.names]
        if not signature.anything or not unnamed:
            raise
        near = did_you_mean(unnamed[0], signature.names)
        raise ModelError(f"{error} ({name} takes {signature}, not {unnamed[0]!r}{near})") from error


def override(definition: Definition, kind: str, given: str) -> Part | None:
    """What a setting (`--loss`, `--optimizer`, `--input_fn`) gives; None when it is not set.

    Raises:
        UsageError, ModelError: it names nothing.
    """
    if not given:
        return None
    where = f"--{kind}={given}"
    value = find_override(definition, given, kind)
    if value is None and kind == "input_fn":
        raise ModelError(f"{where}: {definition.file} has no {given!r}; a function of another file is FILE.NAME")
    if value is None:
        value = keras_loss(given, where) if kind == "loss" else keras_optimizer_class(given, where)
    return Part(kind, given, value, where)


def found(made: Any, find: Find, kind: str, names: Names) -> Part | None:
    """A part that need not be there."""
    for name in names.parts.get(kind, ()):
        value = find(made, name)
        if value is not None:
            return Part(kind, name, value, f"{names.owner}.{name}" if ": " in names.owner else f"{names.owner}: {name}")
    return None


def required(made: Any, find: Find, kind: str, names: Names) -> Part:
    """A part that must be there.

    Raises:
        ModelError: it is missing; says what to add.
    """
    if part := found(made, find, kind, names):
        return part
    wanted = " or ".join(names.parts[kind])
    instead = f", or give {_SETTINGS[kind]}" if kind in _SETTINGS else ""
    raise ModelError(f"{names.owner} has no {wanted}; {names.add} {wanted} {_WANTED[kind]}{instead}")


def takes_of(part: Part, params: Mapping[str, Any]) -> Takes | None:
    """What the user's function takes that returns the part; None when the value is the part itself."""
    value = part.value
    if part.kind == "input_fn":
        return params_of(value)
    if not callable(value) or isinstance(value, _READY) or part.kind == LEARNING_RATE:
        return None
    if part.kind in ("loss", *METRICS) and not inspect.isclass(value) and is_loss(value, params):
        return None
    if inspect.isclass(value) and value.__module__.partition(".")[0] == "keras":
        return Takes(tuple(name for name in takes(value).names if name == "learning_rate"), (), False)
    return takes(value)


def made_of(definition: Definition, part: Part, params: Mapping[str, Any]) -> Any:
    """The part: its value, or what its function returns with those params that it takes.

    Raises:
        ModelError: a param is missing, or the user's code failed.
    """
    signature = takes_of(part, params)
    if signature is None:
        return part.value
    check_required(params, part.name, signature, definition.file)
    with user_code(definition.spec.model_zoo, part.where):
        return part.value(**signature.chosen(params))
