"""Fetches what is needed to make a trained model again, each file checked: what can be done without TensorFlow."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from edl_allreduce import storage
from edl_allreduce.bundle import BUNDLE, CODE, MESSAGE, SPEC, listed
from edl_allreduce.errors import DataError, StorageError, UsageError
from edl_allreduce.spec import JobSpec
from edl_allreduce.trained_model_pb2 import TrainedModel


@dataclass(frozen=True)
class FetchedModel:
    """A trained model's files in a folder of this process, which goes when the process does.

    Attributes:
        url: where they come from.
        model_zoo: the folder with the model's code.
        params: the file of its weights.
        spec: the job that trained it.
        message: what trained_model.pb says.
    """

    url: str
    model_zoo: str
    params: Path
    spec: JobSpec
    message: TrainedModel


def fetch(url: str) -> FetchedModel:
    """Copies a trained model's code, weights and settings to this machine.

    Args:
        url: folder or URL that `trained_model.write` wrote.

    Raises:
        UsageError: there is no trained model.
        DataError: a file of it is missing or damaged, or it is being replaced.
        StorageError: it cannot be read.
    """
    if not storage.exists(storage.join(url, MESSAGE)):
        there = f"it has no {MESSAGE}: not finished, or being replaced"
        raise UsageError(f"{url}: is no trained model: {there if storage.exists(url) else 'there is no such folder'}")
    folder = Path(tempfile.mkdtemp(prefix="edl-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # the code must stay: tracebacks and late imports use it
    files = listed(url)
    _fetch(url, MESSAGE, files, folder)
    try:
        message = TrainedModel.FromString((folder / MESSAGE).read_bytes())
    except DecodeError:
        raise DataError(f"{url}: its {MESSAGE} is damaged") from None
    for name in {message.params_filename, SPEC, *(name for name in files if name.startswith(f"{CODE}/"))}:
        _fetch(url, name, files, folder)
    return FetchedModel(url, str(folder / CODE), folder / message.params_filename, _read_spec(url, folder), message)


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fetch(url: str, name: str, files: Mapping[str, str], folder: Path) -> None:
    """Copies one file into a local folder, and checks it."""
    if name not in files:
        raise DataError(f"{url}: its {BUNDLE} lists no {name!r}")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with storage.open_read(storage.join(url, name)) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except StorageError as error:
        raise DataError(f"{url}: a file of the trained model cannot be read: {error}") from error
    if sha256(target) != files[name]:
        raise DataError(f"{url}: {name} is not the one that {BUNDLE} lists: damaged, or being replaced right now")


def _read_spec(url: str, folder: Path) -> JobSpec:
    try:
        return JobSpec.from_json((folder / SPEC).read_text(encoding="utf-8"))
    except (UsageError, ValueError) as error:
        raise DataError(f"{url}: its {SPEC} is none of this version of edl_allreduce: {error}") from error
