"""Puts a model together from a user's parts, the same way for every contract that finds them under fixed names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from edl_allreduce.contracts.arguments import Takes, check_all_taken, check_required, is_loss, takes
from edl_allreduce.contracts.base import Input, Mode, TrainingModel
from edl_allreduce.contracts.inputs import input_from, params_of
from edl_allreduce.contracts.losses import keras_loss, loss_from
from edl_allreduce.contracts.optimizers import keras_optimizer_class, optimizer_from
from edl_allreduce.contracts.resolve import Definition, find_override
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.errors import ModelError, did_you_mean

Find = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Names:
    """What a contract calls its parts, and how errors speak of them.

    Attributes:
        maker: what makes the model.
        loss: the attribute or function with the loss.
        optimizer: the same for the optimizer.
        input: the same for the input function; of several names the first one found counts.
        owner: where they are, as in "model_zoo/digits.py: Classifier".
        add: what to do about a missing one, as in "add to Classifier a method".
    """

    maker: str
    loss: str
    optimizer: str
    input: tuple[str, ...]
    owner: str
    add: str


@dataclass(frozen=True)
class Part:
    """A loss, optimizer or input function as the user gave it.

    Attributes:
        flag: the setting that replaces it.
        name: what the user calls it.
        value: it, or a function that returns it.
        where: what to call it in an error.
    """

    flag: str
    name: str
    value: Any
    where: str


def assemble(definition: Definition, mode: Mode, maker: Callable[..., Any], find: Find, names: Names) -> TrainingModel:
    """Makes the model with its params, then its loss, optimizer and input function.

    Args:
        definition: what the user named.
        mode: what records are read for.
        maker: the model's class, or the function that returns it.
        find: gives the part of a name, of the made model or its file; None when there is none.
        names: the contract's.

    Raises:
        ModelError: something is missing or of the wrong kind, a param has no taker, or the user's code failed.
    """
    params = definition.spec.values
    model = _make_model(definition, maker, names.maker, params)
    parts = [
        _override(definition, flag, given) or _find(model, find, flag, candidates, names)
        for flag, given, candidates in (
            ("loss", definition.spec.loss, (names.loss,)),
            ("optimizer", definition.spec.optimizer, (names.optimizer,)),
            ("input_fn", definition.spec.input_fn, names.input),
        )
    ]
    takers = {names.maker: takes(maker)} | {part.name: _takes(part, params) or NOTHING for part in parts}
    check_all_taken(params, takers, definition.file)
    loss, optimizer, input_fn = parts
    made_loss = loss_from(_made(definition, loss, params), loss.where)
    made_optimizer = optimizer_from(_made(definition, optimizer, params), optimizer.where)

    def input_for(mode: Mode) -> Input:
        with user_code(definition.spec.model_zoo, input_fn.where):
            return input_from(input_fn.value, params, mode, input_fn.where)

    return TrainingModel(
        model, made_optimizer, made_loss.function, made_loss.is_sum, input_for(mode), input_for=input_for
    )


def attribute(model: Any, name: str) -> Any:
    """A model's attribute; a function written in its class without `self` counts as static."""
    raw = inspect.getattr_static(type(model), name, None)
    if inspect.isfunction(raw) and takes(raw).names[:1] != ("self",):
        return raw
    return getattr(model, name, None)


NOTHING = Takes((), (), False)

_WANTED = {
    "loss": "that returns a Keras loss, or takes (labels, outputs)",
    "optimizer": "that returns a Keras optimizer",
    "input_fn": "that turns a record into (features, labels)",
}


def _make_model(definition: Definition, maker: Callable[..., Any], name: str, params: Mapping[str, Any]) -> Any:
    signature = takes(maker)
    check_required(params, name, signature, definition.file)
    try:
        with user_code(definition.spec.model_zoo, f"{definition.file}: making {name}"):
            model = maker(**signature.chosen(params))
    except ModelError as error:
        unnamed = [each for each in params if each not in signature.names]
        if not signature.anything or not unnamed:
            raise
        near = did_you_mean(unnamed[0], signature.names)
        raise ModelError(f"{error} ({name} takes {signature}, not {unnamed[0]!r}{near})") from error
    if not isinstance(model, keras.Model):
        got = f"{type(model).__module__}.{type(model).__name__}".removeprefix("builtins.")
        hint = "; (inputs, outputs) is not supported yet" if isinstance(model, tuple) else ""
        raise ModelError(f"{definition.file}: {name} must make a keras.Model, it made a {got}{hint}")
    return model


def _override(definition: Definition, flag: str, given: str) -> Part | None:
    if not given:
        return None
    where = f"--{flag}={given}"
    value = find_override(definition, given, flag)
    if value is None and flag == "input_fn":
        raise ModelError(f"{where}: {definition.file} has no {given!r}; a function of another file is FILE.NAME")
    if value is None:
        value = keras_loss(given, where) if flag == "loss" else keras_optimizer_class(given, where)
    return Part(flag, given, value, where)


def _find(model: Any, find: Find, flag: str, candidates: tuple[str, ...], names: Names) -> Part:
    for name in candidates:
        value = find(model, name)
        if value is not None:
            return Part(flag, name, value, f"{names.owner}.{name}" if ": " in names.owner else f"{names.owner}: {name}")
    wanted = " or ".join(candidates)
    raise ModelError(f"{names.owner} has no {wanted}; {names.add} {wanted} {_WANTED[flag]}, or give --{flag}")


def _takes(part: Part, params: Mapping[str, Any]) -> Takes | None:
    """What the user's function takes that returns the part; None when the value is the part itself."""
    value = part.value
    if part.flag == "input_fn":
        return params_of(value)
    if not callable(value) or isinstance(value, (keras.losses.Loss, keras.optimizers.Optimizer)):
        return None
    if part.flag == "loss" and is_loss(value, params):
        return None
    if inspect.isclass(value) and value.__module__.partition(".")[0] == "keras":
        return Takes(tuple(name for name in takes(value).names if name == "learning_rate"), (), False)
    return takes(value)


def _made(definition: Definition, part: Part, params: Mapping[str, Any]) -> Any:
    signature = _takes(part, params)
    if signature is None:
        return part.value
    check_required(params, part.name, signature, definition.file)
    with user_code(definition.spec.model_zoo, part.where):
        return part.value(**signature.chosen(params))
