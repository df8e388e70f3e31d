"""What a model has predicted as the values that go into a table: numbers, or classes as the training table had them."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edl_allreduce import predictions, recordio, storage
from edl_allreduce.errors import DataError, UsageError
from edl_allreduce.schema import NUMBER, Schema, SchemaColumn
from edl_allreduce.tf_example import read_example

_MOST_NAME_BYTES = 63  # of a column, in PostgreSQL
_MOST_PROBABILITIES = 200
_CLASSES: dict[str, Callable[[str], Any]] = {
    "integer": int,
    "float": float,
    "decimal": decimal.Decimal,
    "boolean": lambda text: bool(int(text)),
    "text": str,
}


@dataclass(frozen=True)
class PredictedColumn:
    """A column of predictions.

    Attributes:
        name: in the table.
        type: "float", "integer", "decimal", "boolean" or "text".
        scale: digits after the point of a decimal.
    """

    name: str
    type: str
    scale: int = 0


def predicted_columns(schema: Schema, column: str, probabilities: bool) -> tuple[PredictedColumn, ...]:
    """The columns that predictions become: `column`, and if wanted COLUMN_CLASS for each class.

    Raises:
        UsageError: probabilities cannot be columns, or the label is a number.
    """
    label = _label(schema)
    if label.kind == NUMBER:
        if probabilities:
            raise UsageError(f"probabilities: the label {label.name!r} is a number, so there are none")
        return (PredictedColumn(column, "float"),)
    scale = max((max(0, -_exponent(text)) for text in label.vocabulary), default=0) if label.type == "decimal" else 0
    names = [f"{column}_{text}" for text in label.vocabulary] if probabilities else []
    long = next((name for name in names if len(name.encode()) > _MOST_NAME_BYTES), None)
    if len(names) > _MOST_PROBABILITIES or long:
        why = f"a column {long!r} has too long a name" if long else f"{len(names)} classes are too many columns"
        raise UsageError(f"probabilities: {why}")
    return (PredictedColumn(column, label.type, scale), *(PredictedColumn(name, "float") for name in names))


def _exponent(text: str) -> int:
    return int(decimal.Decimal(text).as_tuple().exponent)


def _label(schema: Schema) -> SchemaColumn:
    if schema.label_column is None:
        raise DataError("schema: names no label, so it is not known what the model predicts")
    return schema.label_column


def predicted_rows(url: str, schema: Schema, rows: int, probabilities: bool) -> Iterator[tuple[Any, ...]]:
    """The values of `predicted_columns` for each record, in the order of the records.

    Args:
        url: folder of `edl predict`'s output.
        schema: of the model.
        rows: how many there must be.
        probabilities: whether those are wanted.

    Raises:
        DataError: the predictions are not complete, not those of these rows, or not what the label needs.
        StorageError: they cannot be read.
    """
    there = predictions.read(url)
    if there is None or not there.complete:
        raise DataError(f"{url}: holds no complete predictions")
    if there.format != "recordio":
        raise DataError(f"{url}: expected predictions as recordio, got {there.format}")
    if there.records != rows:
        raise DataError(f"{url}: holds {there.records} predictions, but the SELECT gave {rows} rows")
    label = _label(schema)
    value_of = _number if label.kind == NUMBER else _Classes(label, probabilities)
    row = 0
    for part in there.parts:
        for record in recordio.Reader(storage.join(url, part)):
            row += 1
            where = f"{url}: prediction {row}"
            yield value_of(_outputs(record, where), where)


def _outputs(record: bytes, where: str) -> Sequence[float]:
    outputs = read_example(record) or {}
    if len(outputs) != 1:
        raise DataError(f"{where}: expected a model with one output, got {', '.join(outputs) or 'none'}")
    (values,) = outputs.values()
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise DataError(f"{where}: expected numbers, got {values[:5]}; has training diverged?")
    return values


def _number(outputs: Sequence[float], where: str) -> tuple[Any, ...]:
    if len(outputs) != 1:
        raise DataError(f"{where}: expected one number, got {len(outputs)}")
    return (float(outputs[0]),)


class _Classes:
    def __init__(self, label: SchemaColumn, probabilities: bool) -> None:
        self._classes = [_CLASSES[label.type](text) for text in label.vocabulary]
        self._with_probabilities = probabilities

    def __call__(self, outputs: Sequence[float], where: str) -> tuple[Any, ...]:
        if len(outputs) != len(self._classes):
            expected = f"one number for each of the {len(self._classes)} classes"
            raise DataError(f"{where}: expected {expected}, got {len(outputs)}")
        best = self._classes[max(range(len(outputs)), key=outputs.__getitem__)]
        return (best, *_probabilities(outputs)) if self._with_probabilities else (best,)


def _probabilities(outputs: Sequence[float]) -> list[float]:
    """Outputs that are probabilities as they are, others (logits) by the softmax function."""
    values = np.asarray(outputs, np.float64)
    if values.min() < 0 or abs(values.sum() - 1) > 1e-3:
        values = np.exp(values - values.max())
    return list(map(float, values / values.sum()))
