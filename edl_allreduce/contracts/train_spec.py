"""The contract of `TrainSpec`: a class whose properties are the model and its parts, the same on every access."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from edl_allreduce.contracts.arguments import by_role
from edl_allreduce.contracts.assembly import assemble
from edl_allreduce.contracts.base import Mode, TrainingModel
from edl_allreduce.contracts.elasticdl_spec import check_complete, names_of
from edl_allreduce.contracts.resolve import Definition
from edl_allreduce.contracts.specifications import TrainSpec
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.errors import ModelError

PARTS = {
    "model": ("model",),
    "loss": ("loss",),
    "optimizer": ("optimizer",),
    "input_fn": ("dataset",),
    "metrics": ("metrics",),
}


def matches(definition: Definition) -> bool:
    """Whether the definition is a subclass of `TrainSpec`."""
    return inspect.isclass(definition.target) and issubclass(definition.target, TrainSpec)


def load(definition: Definition, mode: Mode) -> TrainingModel:
    """The model of this contract.

    Raises:
        ModelError: something is missing or not the same on every access, or the user's code failed.
    """
    check_complete(definition)

    def find(spec: Any, name: str) -> Any:
        where = f"{definition.file}: {definition.name}.{name}"
        with user_code(definition.spec.model_zoo, where):
            value, again = getattr(spec, name), getattr(spec, name)
        if not _same(value, again):
            problem = "gives another object on each access"
            raise ModelError(f"{where}: {problem}; make it in __init__, keep it in self, and return that")
        return _part(name, value)

    return assemble(definition, mode, definition.target, find, names_of(definition, PARTS))


def _same(one: Any, other: Any) -> bool:
    """Whether two accesses gave one object; a dict, list or tuple may be new if what it holds is not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or ((isinstance(one, (str, int, float)) or inspect.ismethod(one)) and one == other)


def _part(name: str, value: Any) -> Any:
    """A property's value; a function is the part itself, nothing that would have to be called for it."""
    function = inspect.isfunction(value) or inspect.ismethod(value)
    if name == "dataset" and function:
        return lambda dataset, mode: value(dataset, mode)
    if name in ("loss", "metrics") and function and not value.__module__.startswith("keras."):
        return by_role(value, ("outputs", "labels"))
    return value
