"""The steps from a SELECT to a job and back, which `edl sql` and the programs of `--print_submitter` both take."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Literal

from edl_allreduce import checkpoint, storage
from edl_allreduce.errors import UsageError
from edl_allreduce.schema import ColumnWish
from edl_allreduce.sql_source import shown
from launcher.check import SQL_DATA
from launcher.sqlflow import models
from launcher.sqlflow.database_url import resolve
from launcher.sqlflow.extract import DONE, Extracted, extract

Tell = Callable[[str], None]


def tell(line: str) -> None:
    """Prints a line of progress."""
    print(line, file=sys.stdout, flush=True)


def database() -> str:
    """The URL that EDL_DATABASE says."""
    return resolve("", os.environ)


def training_rows(
    database: str,
    select: str,
    folder: str,
    *,
    output: str,
    label: str | None = None,
    target: Literal["number", "class", ""] = "",
    columns: Mapping[str, ColumnWish] | None = None,
    resume: str = "auto",
    tell: Tell = tell,
) -> Extracted:
    """The rows to train on, as records: those from before where their training goes on, else fresh ones.

    Args:
        database: its URL.
        select: the query.
        folder: where the records are, or are to be.
        output: where the trained model is to be, and its checkpoints are.
        label, target, columns, tell: see `extract`.
        resume: as for `edl train`.

    Raises:
        EdlError: see `extract`.
    """
    if storage.exists(storage.join(folder, DONE)):
        if resume != "never" and not models.is_trained(output) and checkpoint.newest(output):
            tell(f"the training in {output} goes on with its rows, in {folder}; --resume=never takes new ones")
        else:
            storage.remove_folder(folder)
    wishes = columns or {}
    return extract(database, select, folder, label=label, target=target, columns=wishes, schema=None, tell=tell)


def validation_rows(database: str, select: str, folder: str, *, training: Extracted, tell: Tell = tell) -> Extracted:
    """The rows to evaluate on while training, in columns like those it has.

    Args:
        folder: below that of the training's rows, so that both are made anew together.
    """
    like = training.schema
    return extract(database, select, folder, label=like.label, target="", columns={}, schema=like, tell=tell)


def rows_for_model(
    database: str,
    select: str,
    folder: str,
    *,
    models_folder: str,
    name: str,
    label: str | None = None,
    into: str = "",
    tell: Tell = tell,
) -> Extracted:
    """The rows that a trained model is evaluated on, or predicts, in columns like those of its training; always anew.

    Args:
        models_folder, name: the model.
        label: its column, for an evaluation; the model's own is the only one possible.
        into: for a prediction: the table that it goes to.

    Raises:
        EdlError: there is no such model, it has another label; or see `extract`.
    """
    schema = models.schema_of(models_folder, name)
    storage.remove_folder(folder)
    if not into and label not in (None, schema.label):
        raise UsageError(f"LABEL {label}: model {name} was trained with the label {schema.label}")
    wanted = "" if into else schema.label
    return extract(database, select, folder, label=wanted, target="", columns={}, schema=schema, tell=tell, into=into)


def keep_statement(place: str, statement: str, database: str) -> None:
    """Writes down beside a model which statement makes it, and on which database, without password."""
    models.keep_statement(place, statement, shown(database), datetime.now(timezone.utc))


def remove(folder: str) -> None:
    """Removes a folder with rows; after the last one beside a model also the place for them, and an empty model's.

    Raises:
        StorageError: it cannot be removed.
    """
    storage.remove_folder(folder)
    data = _above(folder)
    if storage.basename(data) != SQL_DATA:
        return
    for empty in (data, _above(data)):
        if storage.names_in(empty) == []:
            storage.remove_folder(empty)


def _above(folder: str) -> str:
    return folder.rstrip("/").removesuffix(storage.basename(folder)).rstrip("/")
