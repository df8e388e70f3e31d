"""Models by their names: `INTO name` is a folder of that name, with the statement that made it beside the model.

MODELS/NAME/               what `edl train` writes: trained_model.pb and so on
       statement.sql       the statement, and in a comment when and on which database
       _data/              rows as records, while they are needed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edl_allreduce import storage
from edl_allreduce.bundle import MESSAGE
from edl_allreduce.errors import DataError, UsageError, did_you_mean
from edl_allreduce.job_folder import home
from edl_allreduce.params import parse_params
from edl_allreduce.schema import Schema
from edl_allreduce.trained_model_pb2 import TrainedModel
from launcher.check import SQL_DATA, SQL_STATEMENT
from launcher.sqlflow.grammar import MODEL_NAME

VARIABLE = "EDL_MODELS"
_MARK = "-- made by edl sql, "


def folder_of_models(given: str, environ: Mapping[str, str]) -> str:
    """The folder or URL with the named models."""
    return given or environ.get(VARIABLE, "") or str(home(environ) / "models")


def place_of(models: str, name: str) -> str:
    """The folder or URL of a model.

    Raises:
        UsageError: that is no name of a model.
    """
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(f"NAME: expected the name of a model, as in INTO name, got {name!r}")
    return storage.join(models, name)


def data_of(place: str) -> str:
    """The folder for rows beside a model."""
    return storage.join(place, SQL_DATA)


def is_trained(place: str) -> bool:
    """Whether a model is complete."""
    return storage.exists(storage.join(place, MESSAGE))


def keep_statement(place: str, statement: str, database: str, now: datetime) -> None:
    """Writes down which statement makes a model.

    Args:
        database: its URL as it may be shown.
        now: with a time zone.

    Raises:
        StorageError: it cannot be written.
    """
    text = f"{_MARK}{now:%Y-%m-%d %H:%M:%S %z}, on {database}\n{statement};\n"
    storage.write_bytes_atomic(storage.join(place, SQL_STATEMENT), text.encode())


@dataclass(frozen=True)
class Made:
    """How a model was made.

    Attributes:
        when, database: of the statement; empty when they are not known.
        text: the statement; empty when it was not made by one.
    """

    when: str = ""
    database: str = ""
    text: str = ""


def made_by(place: str) -> Made:
    """The statement that made a model."""
    path = storage.join(place, SQL_STATEMENT)
    if not storage.exists(path):
        return Made()
    text = storage.read_bytes(path).decode(errors="replace")
    head, _, statement = text.partition("\n")
    if not head.startswith(_MARK):
        return Made(text=text.rstrip())
    when, _, database = head.removeprefix(_MARK).partition(", on ")
    return Made(when, database, statement.rstrip())


@dataclass(frozen=True)
class Trained:
    """What a complete model says of itself.

    Attributes:
        model: of the zoo, such as regressor.DNN.
        params: its arguments, without the schema.
        schema: of the rows that it was trained on; None: it was not trained by a statement.
        image: that it was trained in; empty: none.
    """

    model: str
    params: Mapping[str, Any]
    schema: Schema | None
    image: str


def read_trained(place: str) -> Trained:
    """Reads a complete model's description, without TensorFlow.

    Raises:
        DataError: it is damaged.
        StorageError: it cannot be read.
    """
    try:
        message = TrainedModel.FromString(storage.read_bytes(storage.join(place, MESSAGE)))
        params = parse_params(message.model_def_params)
    except (ValueError, UsageError):
        raise DataError(f"{place}: its {MESSAGE} is damaged") from None
    schema = params.pop("schema", None)
    read = None if schema is None else Schema.from_params(schema)
    return Trained(message.model_def, params, read, message.docker_commit_id)


def schema_of(models: str, name: str) -> Schema:
    """The schema that a named model was trained with.

    Raises:
        UsageError: there is no such model, it is not trained yet, or was not trained by a statement.
    """
    place = place_of(models, name)
    if not is_trained(place):
        there = names_in(models)
        if name in there:
            raise UsageError(f"model {name} in {models} has not been trained to its end; run its statement again")
        known = f"; there are {', '.join(there[:10])}" if there else "; there is none yet"
        raise UsageError(f"there is no model {name} in {models}{did_you_mean(name, there)}{known}")
    schema = read_trained(place).schema
    if schema is None:
        raise UsageError(f"model {name} in {models} was not trained by a statement; edl predict can use it")
    return schema


def names_in(models: str) -> list[str]:
    """The names of all models there, trained or not."""
    found = [name for name in storage.names_in(models) or () if MODEL_NAME.fullmatch(name)]
    marks = (MESSAGE, SQL_STATEMENT)
    return [name for name in found if any(storage.exists(storage.join(models, name, mark)) for mark in marks)]
