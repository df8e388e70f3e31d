"""What a job of tasks leaves behind: the figures of an evaluation, the list of what was predicted."""

from __future__ import annotations

import json

from edl_allreduce import bundle, predictions, storage
from edl_allreduce.dataset import Dataset
from edl_allreduce.predictions import Predictions
from edl_allreduce.storage_retry import persist
from edl_allreduce.task_spec import EvaluateSpec, PredictSpec, TaskSpec
from rendezvous.telemetry import Telemetry


def begin_result(spec: TaskSpec, dataset: Dataset) -> list[int]:
    """Makes the output ready; returns the tasks that an unfinished job before this one has done.

    Raises:
        UsageError: there is a result already.
        StorageError: it cannot be read or written.
    """
    if not isinstance(spec, PredictSpec):
        return []
    return predictions.begin(spec.output.output, _predictions(spec, dataset), spec.output.overwrite)


def write_result(spec: TaskSpec, dataset: Dataset, telemetry: Telemetry, job: str) -> None:
    """Writes what makes the result complete. Raises StorageError."""
    url = spec.output.output
    if isinstance(spec, PredictSpec):
        storage.remove_temporary(url)  # of workers that were killed over them
        persist(lambda: predictions.complete(url))
    elif isinstance(spec, EvaluateSpec) and url:
        found = {
            "job": job,
            "trained_model": spec.model.trained_model,
            "data": spec.data.data,
            "records": dataset.records,
            "figures": dict(telemetry.evaluations[-1].values) if telemetry.evaluations else {},
        }
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        persist(lambda: storage.write_bytes_atomic(url, text.encode()))


def _predictions(spec: PredictSpec, dataset: Dataset) -> Predictions:
    return Predictions(
        trained_model=spec.model.trained_model,
        model=bundle.fingerprint(spec.model.trained_model),
        data=dataset.fingerprint,
        format=spec.output.output_format,
        tasks=len(dataset.tasks),
        records=dataset.records,
    )
