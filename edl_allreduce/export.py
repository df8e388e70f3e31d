"""A trained model in the forms that other programs read: Keras's file, and a SavedModel that needs no code of ours.

What is written:
    model.keras     for Keras; classes of the model's zoo must be given to whoever loads it
    saved_model/    for TensorFlow, TensorFlow Serving and their like; needs nothing but itself. Its signatures:
        serving_default      features by name -> outputs by name; the batch may be of any size
        serving_serialized   `serialized`, a vector of records as they were trained on -> the same outputs

`edl export` runs this module as a process: `python -m edl_allreduce.export --trained_model=URL --output=DIR`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edl_allreduce import storage, trained_model
from edl_allreduce.contracts import Mode
from edl_allreduce.errors import EdlError, ModelError, UsageError
from edl_allreduce.serving import write_saved_model
from edl_allreduce.storage_ranges import local_errors, local_path

KERAS_FORMAT, SAVED_MODEL_FORMAT = FORMATS = ("keras", "saved_model")
NAMES = {KERAS_FORMAT: "model.keras", SAVED_MODEL_FORMAT: "saved_model"}
MARKS = {KERAS_FORMAT: "model.keras", SAVED_MODEL_FORMAT: "saved_model/saved_model.pb"}
"""The file of each format without which the others are not taken for anything; written last."""


@dataclass(frozen=True)
class Exported:
    """One thing that was written.

    Attributes:
        path: file or folder.
        notes: what a person should know about it.
    """

    path: str
    notes: tuple[str, ...]


def export(url: str, output: str, formats: Sequence[str] = FORMATS, overwrite: bool = False) -> tuple[Exported, ...]:
    """Writes a trained model in other programs' formats; a local folder appears when it is complete.

    Args:
        url: folder or URL of the trained model.
        output: folder or URL for the result.
        formats: of `FORMATS`.
        overwrite: replace what an earlier export has written there.

    Raises:
        UsageError: there is no trained model, a format is unknown, or the output holds something.
        DataError: the trained model is damaged.
        ModelError: the model cannot be written in a format.
        StorageError: something cannot be read or written.
    """
    check_formats(formats)
    check_output(output, overwrite)
    loaded = trained_model.load(url, Mode.PREDICTION)
    with local_errors(f"{output} (being put together)"):
        folder = _beside(output)
    try:
        writers: dict[str, Callable[[Path], tuple[str, ...]]] = {
            KERAS_FORMAT: lambda path: write_keras(loaded.model, path),
            SAVED_MODEL_FORMAT: lambda path: write_saved_model(loaded.training, loaded.model_zoo, path),
        }
        with local_errors(f"{output} (being put together)"):
            notes = {name: writers[name](folder / NAMES[name]) for name in FORMATS if name in formats}
        _publish(folder, output, [MARKS[name] for name in notes])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tuple(Exported(storage.join(output, NAMES[name]), told) for name, told in notes.items())


def check_formats(formats: Sequence[str]) -> None:
    """Raises UsageError for a format that does not exist, or for none."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        known = f"{' or '.join(FORMATS)}, or both joined by a comma"
        raise UsageError(f"--format: expected {known}, got {','.join(formats)!r}")


def check_output(output: str, overwrite: bool) -> None:
    """Refuses an output that holds something; with `overwrite`, something that no export has written.

    Raises:
        UsageError: it does.
        StorageError: it cannot be looked at.
    """
    if not storage.is_remote(output) and Path(local_path(output)).is_file():
        raise UsageError(f"--output: {output} is a file; choose a folder")
    there = [name for name in storage.names_in(output) or () if not storage.is_temporary(name)]
    foreign = sorted(set(there) - set(NAMES.values()))
    if there and not overwrite:
        raise UsageError(f"--output: {output} already exists; choose another folder or add --overwrite")
    if foreign:
        raise UsageError(f"--output: {output} holds {foreign[0]!r}, which no export has written; choose another folder")


def write_keras(model: Any, path: Path) -> tuple[str, ...]:
    """Writes the model as Keras does; says what is needed to load it.

    Raises:
        ModelError: Keras cannot save it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's remarks on its own ways of saving
            model.save(path)
    except OSError:
        raise
    except Exception as error:  # whatever the model's get_config and Keras raise
        reason = " ".join(str(error).split())
        hint = f"; --format={SAVED_MODEL_FORMAT} does without"
        raise ModelError(f"Keras cannot save this model: {type(error).__name__}: {reason:.300}{hint}") from error
    with zipfile.ZipFile(path) as archive:
        return needed_by(json.loads(archive.read("config.json")))


def needed_by(config: Any) -> tuple[str, ...]:
    """What loading a model of this config takes besides Keras, in sentences."""
    parts = list(_parts_of(config))
    own = sorted({f"{part['module']}.{part['class_name']}" for part in parts if _is_own(part)})
    told = []
    if own:
        names = ", ".join(name.rpartition(".")[2] for name in own)
        told.append(
            f"to load it, give Keras the classes {', '.join(own)} of the model's zoo: "
            f"keras.saving.load_model(path, custom_objects={{…}}) with {names}; saved_model needs none"
        )
    if any(part["class_name"] in ("Lambda", "__lambda__") for part in parts):
        told.append("it has Python code in it (Lambda): Keras loads it with safe_mode=False only")
    return tuple(told)


def _parts_of(config: Any) -> Iterator[dict[str, Any]]:
    """All objects of a Keras config, the outermost first."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        for value in config.values():
            yield from _parts_of(value)
    elif isinstance(config, list):
        for value in config:
            yield from _parts_of(value)


def _is_own(part: Mapping[str, Any]) -> bool:
    module = part.get("module")
    return isinstance(module, str) and module.partition(".")[0] not in ("keras", "builtins")


def _beside(output: str) -> Path:
    """A new local folder; on the same disk as a local output, so that it can become that by being renamed."""
    if storage.is_remote(output):
        return Path(tempfile.mkdtemp(prefix="edl-export-"))
    target = Path(local_path(output)).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    folder.chmod(0o755)
    return folder


def _publish(folder: Path, output: str, marks: Sequence[str]) -> None:
    """Makes what is in `folder` the output, in place of an earlier export."""
    if storage.is_remote(output):
        for mark in MARKS.values():  # first, so that no one takes old and new files for one model
            storage.remove(storage.join(output, mark))
        storage.remove_folder(output)
        storage.upload_tree(str(folder), output, last=marks)
        return
    target = Path(local_path(output)).absolute()
    with local_errors(output):
        older = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            if target.exists():
                os.replace(target, older / "older")
            os.replace(folder, target)
        finally:
            shutil.rmtree(older, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exports as the arguments say; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m edl_allreduce.export", description=__doc__)
    parser.add_argument("--trained_model", required=True, help="folder or URL of the trained model")
    parser.add_argument("--output", required=True, help="folder or URL for the result")
    parser.add_argument("--format", default=",".join(FORMATS), help="formats, joined by commas (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export has written")
    chosen = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    formats = [name.strip() for name in chosen.format.split(",") if name.strip()]
    try:
        exported = export(chosen.trained_model, chosen.output, formats, chosen.overwrite)
    except EdlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    for each in exported:
        print("\n  ".join((f"wrote {each.path}", *each.notes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
