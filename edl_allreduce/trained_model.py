"""The trained model as a folder that says everything about itself: which code, which parameters, how it was trained.

What is in it:
    trained_model.pb      the TrainedModel message; written last: who finds it finds a complete folder
    params.safetensors    the model's weights
    model_zoo/            the Python files of the model's zoo
    spec.json             the whole job
    bundle.json           the job's name, the list of these files with their SHA-256, versions of the libraries, notes
    model.keras           the model as Keras saves it, for other tools; missing when Keras cannot save it

A model is made again from its code and params; nothing is unpickled. Loading runs the code in model_zoo/.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edl_allreduce import __version__, contracts, parameters, storage
from edl_allreduce.bundle import BUNDLE, CODE, KERAS, MESSAGE, PARAMS, SPEC, listed, written_by
from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.contracts.zoo_files import code_files
from edl_allreduce.errors import DataError, ModelError, UsageError
from edl_allreduce.fetched_model import FetchedModel, fetch, sha256
from edl_allreduce.keras_file import save_keras
from edl_allreduce.notices import notices
from edl_allreduce.spec import JobSpec, ModelSpec
from edl_allreduce.storage_ranges import local_errors
from edl_allreduce.storage_retry import persist
from edl_allreduce.trained_model_pb2 import TrainedModel


@dataclass(frozen=True)
class Loaded:
    """A trained model, ready to be used.

    Attributes:
        model: the `keras.Model` with its trained weights.
        training: the same model with all that its contract brings.
        model_zoo: the folder with its code.
        parse: of (a `tf.data.Dataset` of serialized records, a batch size): a dataset of batches (features, labels).
        spec: the job that trained it.
        message: what trained_model.pb says.
    """

    model: Any
    training: TrainingModel
    model_zoo: str
    parse: Callable[[Any, int], Any]
    spec: JobSpec
    message: TrainedModel


def write(
    model: Any, spec: JobSpec, url: str, overwrite: bool, notes: Mapping[str, str] | None = None, job: str = ""
) -> None:
    """Writes the folder of a trained model; readers see it when it is complete.

    Replacing an older one, that ceases to be complete at once, its files are overwritten one by one, and what it had
    besides is removed at the end. What may pass, such as a full disk or a store that answers 503, is waited for: see
    `storage_retry`.

    Args:
        model: a `keras.Model` with variables.
        spec: the job that trained it.
        url: folder or URL.
        overwrite: whether another job's trained model may be replaced; this job's own always is.
        notes: anything else worth keeping, for people.
        job: the job's name.

    Raises:
        UsageError: there is a trained model of another job, and `overwrite` is not set.
        ModelError: a variable holds something else than numbers.
        StorageError: something cannot be written.
    """
    there = storage.exists(storage.join(url, MESSAGE))
    if there and not overwrite and not (job and written_by(url) == job):
        raise UsageError(f"{url}: holds a trained model already; choose another folder or add --overwrite")
    older = _listed_before(url)
    with tempfile.TemporaryDirectory(prefix="edl-bundle-") as folder:
        with local_errors(f"{folder} (where the trained model is put together)"):
            files = _put_together(Path(folder), model, spec, dict(notes or {}), job)
        if there:
            storage.remove(storage.join(url, MESSAGE))
        persist(lambda: storage.upload_tree(folder, url, last=(PARAMS, BUNDLE, MESSAGE)))
    for name in older:
        if name not in files:
            storage.remove(storage.join(url, name))
    for folder in {"", *(os.path.dirname(name) for name in files)}:  # of a worker that was killed over the same
        storage.remove_temporary(storage.join(url, folder) if folder else url)


def load(
    url: str, mode: contracts.Mode = contracts.Mode.EVALUATION, column_names: tuple[str, ...] | None = None
) -> Loaded:
    """Makes the model of a folder again, from its code and its parameters.

    Args:
        url: folder or URL that `write` wrote.
        mode, column_names: see `make`.

    Raises:
        UsageError, DataError, ModelError, StorageError: what `fetch` and `make` raise.
    """
    return make(fetch(url), mode, column_names)


def make(fetched: FetchedModel, mode: contracts.Mode, column_names: tuple[str, ...] | None = None) -> Loaded:
    """Makes a model again from its files, once: its weights are removed as soon as the model has them.

    Args:
        fetched: its files.
        mode: what records will be parsed for.
        column_names: of the records, where they are rows of a table.

    Raises:
        DataError: its code is not complete, or its weights are damaged.
        ModelError: its code fails here, or makes other parameters than those stored.
    """
    url, zoo, message, spec = fetched.url, fetched.model_zoo, fetched.message, fetched.spec
    try:
        with _precision(spec.training.mixed_precision):
            training = contracts.load(_model_spec(message, zoo, spec.model.metrics), mode, column_names)
            with user_code(zoo, "making the model's variables"):
                training.build()
    except UsageError as error:
        raise DataError(f"{url}: its code is incomplete: {str(error).replace(zoo, CODE)}") from error
    except ModelError as error:
        raise ModelError(f"{url}: {str(error).replace(zoo, CODE)}") from error
    parameters.restore(training.model.weights, str(fetched.params), storage.join(url, fetched.params.name))
    fetched.params.unlink()
    return Loaded(training.model, training, zoo, training.batches, spec, message)


def _put_together(folder: Path, model: Any, spec: JobSpec, notes: dict[str, str], job: str) -> dict[str, str]:
    """Makes all files in a local folder; returns those that bundle.json lists, with their SHA-256."""
    parameters.save(model.weights, str(folder / PARAMS))
    _copy_code(spec.model.model_zoo, folder / CODE)
    _save_keras(model, folder / KERAS, spec.model)
    (folder / SPEC).write_text(spec.to_json(), encoding="utf-8")
    (folder / MESSAGE).write_bytes(_message(spec.model).SerializeToString(deterministic=True))
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    about = {"job": job, "files": files, "versions": _versions(), "notes": notes}
    (folder / BUNDLE).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return files


def _copy_code(model_zoo: str, target: Path) -> None:
    for name in code_files(model_zoo):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(model_zoo) / name, target / name)


def _save_keras(model: Any, path: Path, spec: ModelSpec) -> None:
    """Keras's own format is an extra: a model that it cannot save is no failure."""
    try:
        save_keras(model, path, spec)
    except Exception as error:  # whatever the model's get_config and Keras raise
        path.unlink(missing_ok=True)
        reason = " ".join(str(error).split())
        notices.warning("%s left out, Keras cannot save this model: %s: %.300s", KERAS, type(error).__name__, reason)


def _message(model: ModelSpec) -> TrainedModel:
    return TrainedModel(
        docker_commit_id=commit_id(model.image),
        model_def=model.model_def,
        model_def_params=model.params,
        params_filename=PARAMS,
        input_function=model.input_fn,
        loss=model.loss,
        optimizer=model.optimizer,
    )


def commit_id(image: str) -> str:
    """The pullable image of a trained model; empty where a name might mean another image by the time it is used."""
    return f"docker-pullable://{image}" if "@sha256:" in image else ""


@contextmanager
def _precision(policy: str) -> Iterator[None]:
    """While the model is made, Keras's policy is the one it was trained with."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _model_spec(message: TrainedModel, model_zoo: str, metrics: str) -> ModelSpec:
    return ModelSpec(
        model_zoo=model_zoo,
        model_def=message.model_def,
        params=message.model_def_params,
        input_fn=message.input_function,
        loss=message.loss,
        optimizer=message.optimizer,
        metrics=metrics,
    )


def _versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in ("keras", "numpy", "safetensors")}
    return {"edl_allreduce": __version__, "python": platform.python_version(), **libraries}


def _listed_before(url: str) -> dict[str, str]:
    """The files of an older trained model; none when there is no list of them that can be read."""
    try:
        return listed(url)
    except DataError:
        return {}
