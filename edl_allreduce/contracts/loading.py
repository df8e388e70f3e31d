"""The one place that decides which contract a model follows."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from edl_allreduce.contracts import elasticdl_spec, keras_class, module_functions, train_spec
from edl_allreduce.contracts.base import Mode, TrainingModel
from edl_allreduce.contracts.resolve import find_definition
from edl_allreduce.errors import ModelError
from edl_allreduce.spec import ModelSpec

CONTRACTS: tuple[ModuleType, ...] = (module_functions, elasticdl_spec, train_spec, keras_class)
"""In this order; each has `matches(definition) -> bool` and `load(definition, mode) -> TrainingModel`."""


def load_by_contract(spec: ModelSpec, mode: Mode, column_names: tuple[str, ...] | None) -> TrainingModel:
    """Finds the model's definition and loads it by the first contract that matches; raises as `contracts.load` says."""
    definition = replace(find_definition(spec), column_names=column_names)
    for contract in CONTRACTS:
        if contract.matches(definition):
            loaded: TrainingModel = contract.load(definition, mode)
            return loaded
    expected = "a keras.Model subclass, a function that returns a model, an ElasticDLSpec or a TrainSpec"
    raise ModelError(f"{definition.file}: {definition.name} is {_described(definition.target)}; expected {expected}")


def _described(target: Any) -> str:
    if isinstance(target, type):
        return f"a class derived from {', '.join(base.__name__ for base in target.__bases__)}"
    return f"a {type(target).__name__}"
