"""What a model must provide, and how it is loaded; light to import, so that a model's file may import it first.

A model's file uses `vectorised`, `Mode` and the classes to derive from; the worker uses `load`. Each kind of model
(contract) is one module of this package that turns a `Definition` into a `TrainingModel`; `loading.CONTRACTS` lists
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edl_allreduce.contracts.base import Mode, TrainingModel, vectorised
from edl_allreduce.contracts.specifications import BasePredictionOutputsProcessor, ElasticDLSpec, TrainSpec

if TYPE_CHECKING:
    from edl_allreduce.spec import ModelSpec

__all__ = [
    "BasePredictionOutputsProcessor",
    "ElasticDLSpec",
    "Mode",
    "TrainSpec",
    "TrainingModel",
    "load",
    "vectorised",
]


def load(model: ModelSpec, mode: Mode = Mode.TRAINING, column_names: tuple[str, ...] | None = None) -> TrainingModel:
    """The model that `model` names, made with its params, with its loss, optimizer and input function.

    Imports TensorFlow and the user's file. Initial weights follow Keras's random seed (`keras.utils.set_random_seed`).

    Args:
        model: the settings.
        mode: what records are read for.
        column_names: of the records, when they are rows of a table; what ElasticDL's `feed` gets as its metadata.

    Raises:
        UsageError: model_zoo or model_def names no file.
        ModelError: the user's code failed, or lacks something; the text names file, line, and what is expected.
    """
    from edl_allreduce.contracts.loading import load_by_contract

    return load_by_contract(model, mode, column_names)
