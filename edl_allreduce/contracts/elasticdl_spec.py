"""ElasticDL's later contract: a class derived from `ElasticDLSpec`, whose methods make the model and its parts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from edl_allreduce.contracts.arguments import by_role
from edl_allreduce.contracts.assembly import assemble
from edl_allreduce.contracts.base import Mode, TrainingModel
from edl_allreduce.contracts.parts import Names
from edl_allreduce.contracts.resolve import Definition
from edl_allreduce.contracts.specifications import ElasticDLSpec
from edl_allreduce.errors import ModelError

PARTS = {
    "model": ("create_model",),
    "loss": ("create_loss",),
    "optimizer": ("create_optimizer",),
    "input_fn": ("create_dataset",),
    "metrics": ("create_metrics",),
}

_ORDER = {"create_loss": ("outputs", "labels"), "create_metrics": ("mode", "outputs", "labels")}


def matches(definition: Definition) -> bool:
    """Whether the definition is a subclass of `ElasticDLSpec`."""
    return inspect.isclass(definition.target) and issubclass(definition.target, ElasticDLSpec)


def load(definition: Definition, mode: Mode) -> TrainingModel:
    """The model of this contract.

    Raises:
        ModelError: something is missing, or the user's code failed.
    """
    check_complete(definition)
    return assemble(definition, mode, definition.target, _part, names_of(definition, PARTS))


def check_complete(definition: Definition) -> None:
    """Refuses a class that has not all that its base class asks for; raises ModelError."""
    if missing := sorted(definition.target.__abstractmethods__):
        raise ModelError(f"{definition.file}: {definition.name} lacks {', '.join(missing)}; add what is missing")


def names_of(definition: Definition, parts: Mapping[str, tuple[str, ...]]) -> Names:
    """How the parts of a class are called; its constructor gets `context` if it has a parameter for it."""
    return Names(
        maker=definition.name,
        owner=f"{definition.file}: {definition.name}",
        add=f"add to {definition.name} a method",
        parts=parts,
        context={"context": None},
    )


def _part(spec: Any, name: str) -> Any:
    method = getattr(spec, name)
    if name == "create_dataset":
        return lambda dataset, mode: method(dataset, mode)
    if name == "create_metrics" and type(spec).create_metrics is ElasticDLSpec.create_metrics:
        return None
    return by_role(method, _ORDER[name]) if name in _ORDER else method
