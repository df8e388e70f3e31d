"""Looks at the values of one column as they stream by: makes features of them, and finds out what the schema says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from edl_allreduce.errors import DataError
from edl_allreduce.schema import (
    CLASS_TYPES,
    HASH,
    HASH_SIZE,
    MAX_VOCABULARY,
    NUMBER,
    VOCABULARY,
    ColumnWish,
    SchemaColumn,
)
from edl_allreduce.sql_values import as_text, plain, plain_all, type_name
from edl_allreduce.table import MAX_CLASSES

Feature = int | float | bytes | None

_WHOLE = ("boolean", "integer")
_NUMBERS = (*_WHOLE, "float", "decimal")  # each may become one after it
_SHOWN = 40


class ColumnScan:
    """One column of a SELECT.

    Args:
        source: the database, for errors.
        name: of the column.
        wish: what a COLUMN clause says of it.
        target: "class" or "number" for a label, "label" when its values decide; "" for an input.
        known: the column as a model was trained with it; the values must suit it.

    Attributes:
        became_float: whether the column held whole numbers alone for a while, and then others.
    """

    def __init__(
        self, source: str, name: str, wish: ColumnWish, target: str = "", known: SchemaColumn | None = None
    ) -> None:
        self.name, self.became_float = name, False
        self._source, self._wish, self._target, self._known = source, wish, target, known
        self._type = self._kind = ""
        self._nulls = 0
        self._numbers = _Moments()
        self._texts: set[Any] | None = set()

    def see(self, cells: Sequence[Any], first: int) -> Sequence[Feature]:
        """The features of the rows from `first` (from 0) on; None where there is none.

        Raises:
            DataError: a value is not what the column may hold; names row and column.
        """
        self._first = first
        kinds = set(map(type, cells))
        for kind in sorted(kinds - {type(None)}, key=lambda kind: kind.__name__):
            self._meet(kind, cells)
        if kinds & {bytearray, memoryview}:
            cells = [plain(cell) for cell in cells]
        if not self._kind and not self._target:
            self._nulls += len(cells)
            return cells
        made = self._see_numbers(cells) if self._kind == NUMBER else self._see_texts(cells)
        missing = sum(feature is None for feature in made)
        self._nulls += missing
        if self._target and missing:
            row = next(row for row, feature in enumerate(made) if feature is None)
            self._refuse(row, f"the label is NULL; leave such rows out: WHERE {self.name} IS NOT NULL")
        return made

    def _meet(self, kind: type, cells: Sequence[Any]) -> None:
        """Takes note that the column holds values of a class. Raises DataError."""
        row = next(row for row, cell in enumerate(cells) if type(cell) is kind)
        found = type_name(kind)
        if not found:
            try:
                plain(cells[row])
            except TypeError as error:
                self._refuse(row, str(error))
        if self._known is not None:
            self._meet_known(self._known, found, row, cells[row])
        elif not self._type:
            self._type, self._kind = found, self._kind_of(found, row, cells[row])
        elif found != self._type:
            both = {found, self._type}
            if self._kind != NUMBER or not both <= set(_NUMBERS):
                told = f"{_a(found)} ({_shown(cells[row])}), where the rows before have {_a(self._type)}"
                self._refuse(row, f"{told}; CAST it in the SELECT")
            self.became_float |= self._type in _WHOLE and found not in _WHOLE
            self._type = max(both, key=_NUMBERS.index)

    def _meet_known(self, known: SchemaColumn, found: str, row: int, value: Any) -> None:
        alike = found == known.type or (known.kind == NUMBER and {found, known.type} <= set(_NUMBERS))
        if not alike and not (known.kind == NUMBER and known.type == "text"):
            told = f"{_a(found)} ({_shown(value)}), but the model was trained with {_a(known.type)}"
            self._refuse(row, f"{told}; CAST it in the SELECT")
        self._type, self._kind = known.type, known.kind

    def _kind_of(self, found: str, row: int, value: Any) -> str:
        if self._target == "number" and found in ("text", "blob"):
            self._refuse(row, f"the label is {_a(found)} ({_shown(value)}); a regressor needs numbers")
        if self._target == "class" or (self._target == "label" and found in ("text", "boolean")):
            if found not in CLASS_TYPES:
                self._refuse(row, f"the label is {_a(found)}, which cannot name classes; CAST it in the SELECT")
            return VOCABULARY
        if self._target:
            return NUMBER
        if self._wish.kind == VOCABULARY and found == "blob":
            self._refuse(row, "a blob cannot be looked up in a vocabulary; hash it, or CAST it in the SELECT")
        return self._wish.kind or {"text": VOCABULARY, "blob": HASH}.get(found, NUMBER)

    def _see_numbers(self, cells: Sequence[Any]) -> Sequence[Feature]:
        made = self._plain_numbers(cells)
        values = np.array([math.nan if value is None else value for value in made], np.float64)
        missing = np.isnan(values)
        for row in np.flatnonzero(np.isinf(values))[:1]:
            self._refuse(int(row), f"{values[row]} is no number that can be learned from; leave such rows out")
        self._numbers.add(values[~missing])
        if self._known is None and self._type in _WHOLE and not _in_64_bits(values[~missing]):
            self._type, self.became_float = "decimal", True
        whole = (
            self._known.feature == "int64" if self._known else self._type not in ("float", "decimal", "text", "blob")
        )
        for row in np.flatnonzero(missing):
            made[row] = None
        if not whole:
            return [None if value is None else float(value) for value in made]
        return self._wholes(made) if any(type(value) is float for value in made) else made

    def _wholes(self, made: Sequence[Any]) -> list[Feature]:
        """Whole numbers that came as floats. Raises DataError for others."""
        for row, value in enumerate(made):
            if isinstance(value, float) and not value.is_integer():
                self._refuse(row, f"{value!r}, but the model was trained with whole numbers; ROUND it in the SELECT")
            if isinstance(value, float) and not _in_64_bits(np.array(value)):
                self._refuse(row, f"{value!r} does not fit in 64 bits; CAST it in the SELECT")
        return [None if value is None else int(value) for value in made]

    def _plain_numbers(self, cells: Sequence[Any]) -> list[Any]:
        kinds = set(map(type, cells)) - {type(None)}
        if kinds <= {int, float}:
            return list(cells)
        if len(kinds) == 1 and not kinds & {str, bytes}:
            return list(plain_all(cells, *kinds))
        return [self._number(cell) for cell in cells]

    def _number(self, value: Any) -> float | int | None:
        cell = plain(value)
        if isinstance(cell, (str, bytes)):
            try:
                return float(cell)
            except ValueError:
                self._refuse_value(value, f"{_shown(value)} is no number")
        return cell

    def _see_texts(self, cells: Sequence[Any]) -> Sequence[Feature]:
        values = set(cells)
        if self._known is not None and self._target:
            for value in values - {None}:
                if as_text(value) not in self._known.vocabulary:
                    told = ", ".join(self._known.vocabulary[:20])
                    self._refuse_value(value, f"{_shown(value)} is none of the model's classes: {told}", cells)
        if self._texts is not None and self._kind == VOCABULARY and self._known is None:
            self._texts |= {value for value in values if value is not None and value == value}
            if len(self._texts) > self._most:
                self._texts = None
        made = {value: _bytes(value) for value in values}
        return [made[cell] for cell in cells]

    @property
    def feature(self) -> str:
        """The kind of the features that `see` has given last: int64, float or bytes."""
        if self._known is not None:
            return self._known.feature
        return SchemaColumn(self.name, self._kind or VOCABULARY, self._type or "text").feature

    @property
    def _most(self) -> int:
        if self._target:
            return MAX_CLASSES
        return (self._wish.size if self._wish.kind == VOCABULARY else 0) or MAX_VOCABULARY

    def column(self) -> SchemaColumn:
        """What the schema says of the column. Raises DataError for a label that cannot be learned."""
        if self._known is not None:
            return self._known
        kind, known_type = self._kind or self._wish.kind or VOCABULARY, self._type or "text"
        if kind == NUMBER:
            return SchemaColumn(self.name, kind, known_type, self._nulls, self._numbers.mean, self._numbers.deviation)
        if self._target and (self._texts is None or len(self._texts) < 2):
            many = f"more than {MAX_CLASSES} different values" if self._texts is None else "one value only"
            raise DataError(f"{self._source}: the label {self.name!r} has {many}, so they are no classes")
        if kind == HASH or self._texts is None:
            size = self._wish.size if self._wish.kind == HASH and self._wish.size else HASH_SIZE
            return SchemaColumn(self.name, HASH, known_type, self._nulls, size=size)
        vocabulary = tuple(dict.fromkeys(map(as_text, sorted(self._texts))))
        return SchemaColumn(self.name, kind, known_type, self._nulls, vocabulary=vocabulary)

    def _refuse_value(self, value: Any, problem: str, cells: Iterable[Any] = ()) -> NoReturn:
        row = next((row for row, cell in enumerate(cells) if cell == value), None)
        if row is not None:
            self._refuse(row, problem)
        raise DataError(f"{self._source}: column {self.name!r}: {problem}")

    def _refuse(self, row: int, problem: str) -> NoReturn:
        raise DataError(f"{self._source}: row {self._first + row + 1}, column {self.name!r}: {problem}")


class _Moments:
    """Mean and deviation of numbers that come in batches (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self._count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: Any) -> None:
        if not values.size:
            return
        mean, total = float(values.mean()), self._count + values.size
        apart = mean - self.mean
        self._squares += float(np.square(values - mean).sum()) + apart * apart * self._count * values.size / total
        self.mean += apart * values.size / total
        self._count = total

    @property
    def deviation(self) -> float:
        """Of the values themselves (divided by their number)."""
        return math.sqrt(self._squares / self._count) if self._count else 0.0


def _in_64_bits(values: Any) -> bool:
    return bool(np.all((values >= -(2.0**63)) & (values < 2.0**63)))


def _bytes(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes) or value != value:
        return value if isinstance(value, bytes) else None
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return as_text(value).encode()


def _a(type_of_value: str) -> str:
    return (
        f"an {type_of_value}"
        if type_of_value[0] in "aeiou"
        else type_of_value
        if type_of_value == "text"
        else f"a {type_of_value}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
