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
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edl_allreduce import storage, trained_model
from edl_allreduce.contracts import Mode
from edl_allreduce.errors import EdlError, ModelError, UsageError
from edl_allreduce.keras_file import write_keras
from edl_allreduce.serving import write_saved_model
from edl_allreduce.storage_ranges import local_errors, local_path

log = logging.getLogger(__name__)

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


def export(url: str, output: str, formats: Sequence[str] = (), overwrite: bool = False) -> tuple[Exported, ...]:
    """Writes a trained model in other programs' formats; a local folder appears when it is complete.

    Args:
        url: folder or URL of the trained model.
        output: folder or URL for the result.
        formats: of `FORMATS`; none: all that the model can be written in.
        overwrite: replace what an earlier export has written there.

    Raises:
        UsageError: there is no trained model, a format is unknown, or the output holds something.
        DataError: the trained model is damaged.
        ModelError: the model cannot be written in a format that was asked for, or in none.
        StorageError: something cannot be read or written.
    """
    check_formats(formats)
    check_output(output, overwrite)
    loaded = trained_model.load(url, Mode.PREDICTION)
    with local_errors(f"{output} (being put together)"):
        folder = _beside(output)
    try:
        with local_errors(f"{output} (being put together)"):
            notes = _write(loaded, folder, formats)
        _publish(folder, output, [MARKS[name] for name in notes])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tuple(Exported(storage.join(output, NAMES[name]), told) for name, told in notes.items())


def _write(loaded: trained_model.Loaded, folder: Path, formats: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Writes each format into a local folder; returns the notes on each."""
    notes = {}
    if not formats or SAVED_MODEL_FORMAT in formats:
        path = folder / NAMES[SAVED_MODEL_FORMAT]
        notes[SAVED_MODEL_FORMAT] = write_saved_model(loaded.training, loaded.model_zoo, path)
    try:
        if not formats or KERAS_FORMAT in formats:
            notes[KERAS_FORMAT] = write_keras(loaded.model, folder / NAMES[KERAS_FORMAT], loaded.spec.model)
    except ModelError as error:
        if formats:
            raise
        log.warning("%s left out: %s", NAMES[KERAS_FORMAT], error)
    return notes


def check_formats(formats: Sequence[str]) -> None:
    """Raises UsageError for a format that does not exist."""
    if any(name not in FORMATS for name in formats):
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
    parser = argparse.ArgumentParser(prog="python -m edl_allreduce.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("--trained_model", required=True, help="folder or URL of the trained model")
    parser.add_argument("--output", required=True, help="folder or URL for the result")
    parser.add_argument("--format", default="", help=f"{' or '.join(FORMATS)}, or both joined by a comma")
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
