"""What `edl models list`, `edl models show` and `edl models delete` do. The docstrings are their help texts."""

from __future__ import annotations

import os
import sys

from edl_allreduce import storage
from edl_allreduce.errors import UsageError, did_you_mean
from edl_allreduce.params import format_params
from edl_allreduce.schema import NUMBER, SchemaColumn
from launcher.commands.arguments import boolean
from launcher.local import jobs
from launcher.sqlflow import models as named

_MOST_CLASSES = 10  # that are shown


def models_list(*, models: str = "") -> None:
    """Lists the models that statements have made: SELECT … TRAIN … INTO name.

    --models  folder or URL of the models (default: $EDL_MODELS, else EDL_HOME/models)
    """
    folder = named.folder_of_models(models, os.environ)
    rows = [("name", "model", "label", "rows", "made")]
    for name in named.names_in(folder):
        place = named.place_of(folder, name)
        made = named.made_by(place).when[: len("2026-11-22 21:38")]
        if not named.is_trained(place):
            rows.append((name, "not trained to its end", "", "", made))
            continue
        trained = named.read_trained(place)
        schema = trained.schema
        rows.append((name, trained.model, schema.label if schema else "", f"{schema.rows:,}" if schema else "", made))
    if len(rows) == 1:
        print(f"no models in {folder}")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def models_show(name: str, *, models: str = "") -> None:
    """Tells all about a model: the statement that made it, its arguments, the columns it was trained on.

    NAME      of the model, as in INTO name
    --models  folder or URL of the models (default: $EDL_MODELS, else EDL_HOME/models)
    """
    place = _existing(name, models)
    made = named.made_by(place)
    print(place)
    if made.text:
        print(f"made {made.when}, on {made.database} by\n{_indented(made.text)}" if made.when else _indented(made.text))
    if not named.is_trained(place):
        print("not trained to its end: the same statement goes on with it")
        return
    trained = named.read_trained(place)
    print(f"model {trained.model}" + (f" with {format_params(trained.params)}" if trained.params else ""))
    if trained.image:
        print(f"image {trained.image}")
    if trained.schema:
        print(f"trained on {trained.schema.rows:,} rows")
        width = max(len(column.name) for column in trained.schema.columns)
        for column in trained.schema.columns:
            label = "label, " if column.name == trained.schema.label else ""
            print(f"  {column.name:<{width}}  {label}{_described(column)}")


def _described(column: SchemaColumn) -> str:
    nulls = f", {column.nulls:,} NULL" if column.nulls else ""
    if column.kind == NUMBER:
        return f"{column.type}, mean {column.mean:g}, deviation {column.std:g}{nulls}"
    if not column.vocabulary:
        return f"{column.type}, hashed into {column.size}{nulls}"
    known = column.vocabulary
    some = ", ".join(map(repr, known)) if len(known) <= _MOST_CLASSES else f"{len(known):,} values"
    return f"{column.type}, one of {some}{nulls}" if len(known) <= _MOST_CLASSES else f"{column.type}, {some}{nulls}"


def models_delete(name: str, *, models: str = "", yes: str | bool = False) -> int:
    """Deletes a model: its folder with everything in it, checkpoints and rows included. Asks first.

    NAME      of the model, as in INTO name
    --models  folder or URL of the models (default: $EDL_MODELS, else EDL_HOME/models)
    --yes     do not ask
    """
    place = _existing(name, models)
    if writer := jobs.writer_of(place, os.environ):
        raise UsageError(f"edl models delete {name}: job {writer} is training it; edl stop {writer} ends that")
    if not boolean("yes", yes):
        if not sys.stdin.isatty():
            raise UsageError(f"edl models delete {name}: nobody is here to be asked; --yes deletes {place}")
        if input(f"delete {place} with everything in it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing is deleted")
            return 1
    storage.remove_folder(place)
    print(f"deleted {place}")
    return 0


def _existing(name: str, models: str) -> str:
    folder = named.folder_of_models(models, os.environ)
    place = named.place_of(folder, name)
    there = named.names_in(folder)
    if name not in there:
        raise UsageError(f"there is no model {name} in {folder}{did_you_mean(name, there)}; edl models list lists all")
    return place


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
