"""What the columns of a table were when a model was trained, so that every later row is treated the same.

A schema is found while a SELECT is turned into records (launcher/sqlflow/extract.py). It lies beside the records as
schema.json, and travels in the trained model as the param `schema`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edl_allreduce.errors import DataError

NUMBER, VOCABULARY, HASH = KINDS = ("number", "vocabulary", "hash")
TYPES = ("integer", "float", "decimal", "boolean", "date", "timestamp", "time", "interval", "text", "blob")
CLASS_TYPES = ("integer", "float", "decimal", "boolean", "text")

MAX_VOCABULARY = 1000
"""A column with more different texts is hashed."""
MAX_VOCABULARY_BYTES = 256 << 10
"""Of all columns together; the largest vocabularies are hashed until the others fit."""
HASH_SIZE = 1024
"""Places of a hashed column, unless a COLUMN clause says otherwise."""


@dataclass(frozen=True)
class ColumnWish:
    """What a COLUMN clause says of a column.

    Attributes:
        kind: "number", "vocabulary" or "hash"; "" for what its values suggest.
        size: "vocabulary": at most so many texts; "hash": so many places; 0: the usual.
    """

    kind: str = ""
    size: int = 0


@dataclass(frozen=True)
class SchemaColumn:
    """A column of the SELECT.

    Attributes:
        name: in the SELECT, and of the feature in the records.
        kind: "number": normalised by mean and std; "vocabulary": looked up; "hash": texts by their hash.
        type: what the database gave, one of TYPES. With the kind "number" dates are days, timestamps, times and
            intervals microseconds.
        nulls: rows without a value.
        mean, std: of the values that are there, for numbers; std is 0 when all are the same.
        vocabulary: the different values as texts, sorted (numbers by size), for "vocabulary".
        size: places, for "hash".
    """

    name: str
    kind: str
    type: str
    nulls: int = 0
    mean: float = 0.0
    std: float = 0.0
    vocabulary: tuple[str, ...] = ()
    size: int = 0

    @property
    def feature(self) -> str:
        """The kind of the feature in a tf.Example: int64, float or bytes."""
        if self.kind != NUMBER:
            return "bytes"
        return "float" if self.type in ("float", "decimal", "text", "blob") else "int64"

    @property
    def places(self) -> int:
        """How many places the column's texts have: hashes, or the vocabulary and one for all others; 0 for numbers."""
        return {NUMBER: 0, VOCABULARY: len(self.vocabulary) + 1, HASH: self.size}[self.kind]


@dataclass(frozen=True)
class Schema:
    """The columns of a SELECT's result.

    Attributes:
        columns: in the order of the SELECT, the label among them.
        label: the label's column; "" for rows that are to be predicted.
        rows: how many rows were looked at.
    """

    columns: tuple[SchemaColumn, ...]
    label: str = ""
    rows: int = 0

    @property
    def inputs(self) -> tuple[SchemaColumn, ...]:
        """All columns but the label."""
        return tuple(column for column in self.columns if column.name != self.label)

    @property
    def label_column(self) -> SchemaColumn | None:
        return next((column for column in self.columns if column.name == self.label), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The label's classes, in the order of their numbers. Raises DataError when it is no class."""
        label = self.label_column
        if label is None or label.kind != VOCABULARY:
            raise DataError(f"schema: the label {self.label!r} is a number, so there are no classes; use a regressor")
        return label.vocabulary

    @property
    def label_scale(self) -> tuple[float, float]:
        """The label's mean and its deviation, 1 when that is 0. Raises DataError when it is no number."""
        label = self.label_column
        if label is None or label.kind != NUMBER:
            raise DataError(f"schema: the label {self.label!r} names classes, so there is no mean; use a classifier")
        return label.mean, label.std or 1.0

    def to_json(self) -> str:
        """For schema.json."""
        return json.dumps(_to_dict(self), ensure_ascii=False, indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> Schema:
        """Raises DataError."""
        try:
            return Schema.from_params(json.loads(text))
        except ValueError as error:
            raise DataError(f"schema: is no JSON ({error})") from None

    def to_params(self) -> str:
        """A literal for --params: f"schema={schema.to_params()}"."""
        return repr(_to_dict(self))

    @staticmethod
    def from_params(value: Any) -> Schema:
        """What `to_params` has made, after it was parsed. Raises DataError."""
        try:
            columns = tuple(_column(name, each) for name, each in value["columns"].items())
            schema = Schema(columns, str(value["label"]), int(value["rows"]))
        except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise DataError(f"schema: is not one that `edl sql` has made ({type(error).__name__}: {error})") from None
        if schema.label and schema.label_column is None:
            raise DataError(f"schema: has no column {schema.label!r}, which it names as the label")
        return schema


def _to_dict(schema: Schema) -> dict[str, Any]:
    columns = {column.name: [column.kind, column.type, column.nulls, *_details(column)] for column in schema.columns}
    return {"label": schema.label, "rows": schema.rows, "columns": columns}


def _details(column: SchemaColumn) -> list[Any]:
    if column.kind == NUMBER:
        return [column.mean, column.std]
    return [list(column.vocabulary)] if column.kind == VOCABULARY else [column.size]


def _column(name: str, values: Sequence[Any]) -> SchemaColumn:
    kind, kind_of_value, nulls, *details = values
    if kind_of_value not in TYPES:
        raise ValueError(f"column {name!r} has the type {kind_of_value!r}, expected one of {', '.join(TYPES)}")
    column = SchemaColumn(name, kind, kind_of_value, int(nulls))
    if kind == NUMBER:
        mean, std = map(float, details)
        if not math.isfinite(mean) or not math.isfinite(std):
            raise ValueError(f"column {name!r} has no finite mean and deviation")
        return replace(column, mean=mean, std=std)
    (detail,) = details
    if kind == VOCABULARY:
        return replace(column, vocabulary=tuple(map(str, detail)))
    if kind == HASH and int(detail) > 0:
        return replace(column, size=int(detail))
    raise ValueError(f"column {name!r} is of no known kind, got {kind!r}, {detail!r}")


def within_limits(columns: Sequence[SchemaColumn], label: str) -> tuple[SchemaColumn, ...]:
    """The columns, hashed where their vocabularies take too much together; the largest first, never the label's."""
    sizes: Mapping[str, int] = {
        column.name: sum(len(text.encode()) for text in column.vocabulary) for column in columns if column.name != label
    }
    total, hashed = sum(sizes.values()), set()
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if total <= MAX_VOCABULARY_BYTES:
            break
        total -= sizes[name]
        hashed.add(name)
    return tuple(
        replace(column, kind=HASH, vocabulary=(), size=HASH_SIZE) if column.name in hashed else column
        for column in columns
    )
