"""Which files a trained model's folder has and who wrote them: what can be told without TensorFlow.

trained_model.pb makes the folder complete. It is written last, and removed first when the folder is replaced.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

from edl_allreduce import storage
from edl_allreduce.errors import DataError, StorageError

MESSAGE, PARAMS, CODE, SPEC = "trained_model.pb", "params.safetensors", "model_zoo", "spec.json"
BUNDLE, KERAS = "bundle.json", "model.keras"


def written_by(url: str) -> str | None:
    """The job that wrote the trained model in a folder; None: there is no complete one, or it cannot be told."""
    try:
        if not storage.exists(storage.join(url, MESSAGE)):
            return None
        job = _about(url).get("job")
    except (DataError, StorageError):
        return None
    return job if isinstance(job, str) and job else None


def fingerprint(url: str) -> str:
    """What changes when anything in a trained model's folder does: a SHA-256 of the list of its files.

    Raises:
        DataError: their list is missing or damaged.
    """
    return hashlib.sha256(json.dumps(listed(url), sort_keys=True).encode()).hexdigest()


def listed(url: str) -> dict[str, str]:
    """The files of the trained model in a folder, with their SHA-256.

    Raises:
        DataError: their list is missing or damaged.
    """
    files = _about(url).get("files")
    if isinstance(files, dict) and all(isinstance(digest, str) and _is_inside(name) for name, digest in files.items()):
        return files
    raise DataError(f"{url}: its {BUNDLE} is damaged")


def _about(url: str) -> dict[str, Any]:
    try:
        about = json.loads(storage.read_bytes(storage.join(url, BUNDLE)))
    except StorageError as error:
        raise DataError(f"{url}: its {BUNDLE} cannot be read: {error}") from error
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise DataError(f"{url}: its {BUNDLE} is damaged")
    return about


def _is_inside(name: str) -> bool:
    """Whether a relative path stays in its folder."""
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and name != ""
