"""The plain contract: a `keras.Model` subclass, or a function that returns a model, with defaults beside it.

They are `default_loss`, `default_optimizer` and `default_input`, and if wanted `default_metrics`,
`default_weighted_metrics`, `default_callbacks` and `default_loss_weights`: methods or attributes of the class, or
functions in the file of the function that returns the model or its (inputs, outputs).
"""

from __future__ import annotations

import inspect
from typing import Any

import keras

from edl_allreduce.contracts import parts
from edl_allreduce.contracts.assembly import assemble
from edl_allreduce.contracts.base import Mode, TrainingModel
from edl_allreduce.contracts.resolve import Definition

PARTS = {
    "loss": ("default_loss",),
    "optimizer": ("default_optimizer",),
    "input_fn": ("default_input",),
    "metrics": ("default_metrics",),
    "weighted_metrics": ("default_weighted_metrics",),
    "callbacks": ("default_callbacks",),
    "loss_weights": ("default_loss_weights",),
}


def matches(definition: Definition) -> bool:
    """Whether the definition is a `keras.Model` subclass or a function."""
    return is_model_class(definition.target) or inspect.isfunction(definition.target)


def load(definition: Definition, mode: Mode) -> TrainingModel:
    """The model of this contract.

    Raises:
        ModelError: something is missing, or the user's code failed.
    """
    is_class = is_model_class(definition.target)
    names = parts.Names(
        maker=definition.name,
        owner=f"{definition.file}: {definition.name}" if is_class else definition.file,
        add=f"add to {definition.name} a method" if is_class else f"add beside {definition.name} a function",
        parts=PARTS,
    )

    def find(model: Any, name: str) -> Any:
        return parts.attribute(model, name) if is_class else getattr(definition.module, name, None)

    return assemble(definition, mode, definition.target, find, names)


def is_model_class(target: Any) -> bool:
    """Whether `target` is a subclass of `keras.Model`."""
    return inspect.isclass(target) and issubclass(target, keras.Model)
