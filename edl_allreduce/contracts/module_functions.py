"""ElasticDL's contract: a file with the functions `custom_model`, `loss`, `optimizer`, and `feed` or `dataset_fn`.

And if wanted `eval_metrics_fn`, `callbacks`, `learning_rate_scheduler`, `loss_weights` and the class
`PredictionOutputsProcessor`. As in sql-machine-learning/elasticdl's model zoo. `model_def` names the file, or a model
class or function in it. The order of `loss`'s arguments has changed over ElasticDL's life; their names decide.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from edl_allreduce.contracts import parts
from edl_allreduce.contracts.assembly import assemble
from edl_allreduce.contracts.base import Mode, TrainingModel
from edl_allreduce.contracts.keras_class import is_model_class
from edl_allreduce.contracts.resolve import Definition
from edl_allreduce.contracts.specifications import ElasticDLSpec, TrainSpec
from edl_allreduce.errors import ModelError, did_you_mean

INPUTS = ("feed", "dataset_fn")
PARTS = {
    "loss": ("loss",),
    "optimizer": ("optimizer",),
    "input_fn": INPUTS,
    "metrics": ("eval_metrics_fn",),
    "callbacks": ("callbacks",),
    "loss_weights": ("loss_weights",),
    parts.LEARNING_RATE: (parts.LEARNING_RATE,),
}


def matches(definition: Definition) -> bool:
    """Whether the definition is a whole file, or a model without defaults in a file with ElasticDL's functions."""
    module, target = definition.module, definition.target
    if target is module:
        return True
    if not is_model_class(target) and not inspect.isfunction(target):
        return False
    has_functions = all(callable(getattr(module, name, None)) for name in ("loss", "optimizer"))
    has_input = any(callable(getattr(module, name, None)) for name in INPUTS)
    return has_functions and has_input and not hasattr(target if inspect.isclass(target) else module, "default_input")


def load(definition: Definition, mode: Mode) -> TrainingModel:
    """The model of this contract.

    Raises:
        ModelError: something is missing, or the user's code failed.
    """
    target = definition.target
    maker = _custom_model(definition) if isinstance(target, ModuleType) else target
    names = parts.Names(
        maker=definition.name or "custom_model",
        owner=definition.file,
        add="add a function",
        parts=PARTS,
    )
    return assemble(definition, mode, maker, lambda model, name: getattr(definition.module, name, None), names)


def _is_spec(value: Any) -> bool:
    bases = (ElasticDLSpec, TrainSpec)
    return inspect.isclass(value) and issubclass(value, bases) and value not in bases


def _custom_model(definition: Definition) -> Any:
    maker = getattr(definition.module, "custom_model", None)
    if maker is not None:
        return maker
    public = {name: value for name, value in vars(definition.module).items() if not name.startswith("_")}
    models = [name for name, value in public.items() if is_model_class(value) or _is_spec(value)]
    if models:
        named = f"--model_def={definition.spec.model_def}.{models[-1]}"
        raise ModelError(f"{definition.file} has no custom_model; to use the class {models[-1]} of it, write {named}")
    near = did_you_mean("custom_model", public)
    raise ModelError(f"{definition.file} has no custom_model{near}; add a function that returns a keras.Model")
