"""Predicts task by task: one file of predictions for each, complete or not there, in the order of the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edl_allreduce import storage
from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.dataset import Dataset
from edl_allreduce.prediction_files import WRITERS, Columns
from edl_allreduce.predictions import part_name
from edl_allreduce.storage_retry import persist
from edl_allreduce.worker.leases import Sums
from edl_allreduce.worker.task_reader import TaskBatch, TaskReader

NO_SUMS: Sums = np.zeros(0)


class Predictor:
    """A model, traced for prediction.

    Args:
        training: the model, with its variables, and its input function for prediction.
        dataset: what is predicted.
        model_zoo: the user's folder, to name their line in an error.
        batch_size: records per batch.
        output: folder or URL.
        format: one of `prediction_files.WRITERS`.
        worker_id: for a model's own `outputs_processor`.
    """

    def __init__(
        self,
        training: TrainingModel,
        dataset: Dataset,
        model_zoo: str,
        batch_size: int,
        output: str,
        format: str,
        worker_id: int,
    ) -> None:
        self._training, self._zoo, self._worker_id = training, model_zoo, worker_id
        self._reader = TaskReader(training, dataset, model_zoo, batch_size)
        self._names, self._tasks = output_names(training.model), len(dataset.tasks)
        self._output, self._format = output, format
        with user_code(model_zoo, "tracing the prediction"):
            self._predict = tf.function(
                lambda features: training.model(features, training=False), autograph=False
            ).get_concrete_function(training.input.element_spec)

    def open(self, tasks: Sequence[int]) -> Iterator[TaskBatch]:
        """Begins to read tasks."""
        return self._reader.open(tasks)

    def perform(self, tasks: Sequence[int], batches: Iterator[TaskBatch]) -> Sums:
        """Predicts the batches of one task and writes its file, or gives them to the model's own processor.

        Raises:
            ModelError: the user's code fails.
            StorageError: the file cannot be written.
        """
        found = [self._outputs(batch) for batch in batches]
        if self._training.outputs_processor is not None:
            return NO_SUMS
        [task] = tasks
        columns = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        self._write(storage.join(self._output, part_name(task, self._tasks, self._format)), columns)
        return NO_SUMS

    def _outputs(self, batch: TaskBatch) -> Columns:
        try:
            outputs = self._predict(batch.values)
        except Exception as error:
            raise self._reader.blame(batch, error, self._predict, (self._predict.graph,)) from error
        if self._training.outputs_processor is not None:
            with user_code(self._zoo, "processing predictions"):
                self._training.outputs_processor.process(
                    tf.nest.map_structure(lambda each: each.numpy(), outputs), self._worker_id
                )
        return columns_of(outputs, self._names)

    def _write(self, path: str, columns: Columns) -> None:
        write: Callable[[str, Columns], None] = WRITERS[self._format]
        persist(lambda: write(path, columns))


def output_names(model: Any) -> list[str]:
    """The names of a functional model's outputs; none for another model."""
    try:
        return [str(name) for name in model.output_names]
    except AttributeError:
        return []


def columns_of(outputs: Any, names: Sequence[str]) -> Columns:
    """A model's outputs by name: a dict's keys; `names` for several outputs in a list; "prediction" for a single one.

    Args:
        names: of the model's outputs; none where they are not known.
    """
    if isinstance(outputs, dict):
        return {str(name): np.asarray(value) for name, value in outputs.items()}
    flat = tf.nest.flatten(outputs)
    if len(flat) == 1:
        return {"prediction": flat[0].numpy()}
    chosen = names if len(names) == len(flat) else [f"prediction_{i}" for i in range(len(flat))]
    return {name: value.numpy() for name, value in zip(chosen, flat, strict=True)}
