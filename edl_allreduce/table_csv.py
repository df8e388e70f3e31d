"""CSV files with a header row as tables: one pass infers every column's type, a second turns rows into features.

The first pass also notes the byte offset of every output file's first row: so the parts of one large file are
converted in parallel.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import islice

from edl_allreduce import storage
from edl_allreduce.errors import DataError
from edl_allreduce.table import BYTES, INT64, MAX_CLASSES, TYPES, Column, Scan, Wish, chosen
from edl_allreduce.tf_example import Value

_BATCH_ROWS = 4096
_MAX_FIELD_BYTES = 256 << 20
_INT64_RANGE = range(-(1 << 63), 1 << 63)

Row = list[str]


class _Lines:
    """The lines of a CSV file from a byte offset on; counts what has been read."""

    def __init__(self, path: str, offset: int, line: int) -> None:
        self._path, self.offset, self.line = path, offset, line
        self._stream = storage.open_read(path)
        self._stream.seek(offset)

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.offset += len(line)
            self.line += 1
            try:
                yield line.decode("utf-8-sig" if self.line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{self._path}, line {self.line}: is not UTF-8 text ({error.reason})") from None

    def close(self) -> None:
        self._stream.close()


def _read(lines: _Lines, path: str, width: int | None) -> Iterator[Row]:
    """The rows, each of `width` cells (None: whatever they have); blank lines are left out."""
    csv.field_size_limit(_MAX_FIELD_BYTES)
    try:
        for row in csv.reader(iter(lines), strict=True):
            if row and width is not None and len(row) != width:
                raise DataError(f"{path}, line {lines.line}: expected {width} cells as in the header, got {len(row)}")
            if row:
                yield row
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line}: cannot be read as CSV ({error})") from None


class _Kind:
    """The type of one column as far as it has been read: int64, else float, else bytes."""

    def __init__(self, path: str, name: str, given: str) -> None:
        self._path, self._name, self._given = path, name, given
        self._type, self._seen = given or INT64, False
        self.note = ""

    @property
    def type(self) -> str:
        """The type; a column of empty cells alone is bytes."""
        return self._type if self._seen or self._given else BYTES

    def see(self, cells: Sequence[str], first: int) -> None:
        """Takes the cells of the rows from `first` on into account. Raises DataError when one breaks a given type."""
        while self._type != BYTES and (bad := _misfit(cells, self._type)) is not None:
            if self._given:
                where = f"line {_line_of(self._path, first + bad)}, column {self._name!r}"
                raise DataError(f"{self._path}, {where}: expected {self._given}, got {cells[bad]!r}")
            self._type = TYPES[TYPES.index(self._type) + 1]
            if self._type == BYTES and (self._seen or any(cells[:bad])):
                where = f"{self._path}, line {_line_of(self._path, first + bad)}"
                self.note = f"{where}: {cells[bad]!r} makes column {self._name!r} text, not numbers"
        self._seen |= any(cells)


def _misfit(cells: Sequence[str], kind: str) -> int | None:
    """The place of the first cell that is not of this type, or None. Empty cells are of every type."""
    if _are(cells, kind):
        return None
    return next(place for place, cell in enumerate(cells) if not _are([cell], kind))


def _are(cells: Sequence[str], kind: str) -> bool:
    try:
        _numbers(cells, kind)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str], kind: str) -> list[int | float | None]:
    """The cells as numbers, None for an empty one. Raises ValueError."""
    text = "".join(cells)
    if "_" in text or not text.isascii():  # Python would read 1_000, and digits of other scripts
        raise ValueError("is not a number")
    read: type[int] | type[float] = int if kind == INT64 else float
    numbers: list[int | float | None] = (
        [read(cell) if cell else None for cell in cells] if "" in cells else [*map(read, cells)]
    )
    if kind == INT64 and not all(number is None or number in _INT64_RANGE for number in numbers):
        raise ValueError("has more than 64 bits")
    return numbers


def _line_of(path: str, row: int) -> int:
    """The line on which a row (from 0, without the header) ends."""
    lines = _Lines(path, 0, 0)
    try:
        next(islice(_read(lines, path, None), row + 1, None))
        return lines.line
    finally:
        lines.close()


class CsvTable:
    """CSV files whose first row names the columns."""

    splittable = True

    def size(self, path: str) -> int:
        """The file's size. Raises StorageError."""
        return storage.size(path)

    def scan(self, path: str, wish: Wish, rows_per_file: int) -> Scan:
        """One pass over the file. Raises DataError, StorageError."""
        lines = _Lines(path, 0, 0)
        try:
            names = self._header(path, lines)
            wanted = chosen(path, names, wish)
            places = [names.index(name) for name in wanted]
            kinds = [_Kind(path, name, wish.type_of(name)) for name in wanted]
            label = wanted.index(wish.label) if wish.label else -1
            texts: set[str] | None = set() if wish.label else None
            starts, rows = [], 0
            reader = _read(lines, path, len(names))
            while True:
                if rows % rows_per_file == 0:
                    starts.append((lines.offset, lines.line))
                batch = list(islice(reader, min(_BATCH_ROWS, rows_per_file - rows % rows_per_file)))
                if not batch:
                    break
                columns = list(zip(*batch, strict=True))
                for kind, place in zip(kinds, places, strict=True):
                    kind.see(columns[place], rows)
                rows += len(batch)
                if texts is not None:
                    texts.update(filter(None, columns[places[label]]))
                    texts = texts if len(texts) <= MAX_CLASSES else None
        finally:
            lines.close()
        types = tuple((name, kind.type) for name, kind in zip(wanted, kinds, strict=True))
        notes = tuple(kind.note for kind in kinds if kind.note)
        return Scan(path, types, rows, tuple(starts), None if texts is None else frozenset(texts), notes)

    def _header(self, path: str, lines: _Lines) -> Row:
        names = [name.strip() for name in next(_read(lines, path, None), [])]
        if not names:
            raise DataError(f"{path}: is empty; expected a header row that names the columns")
        for number, name in enumerate(names):
            if not name or name in names[:number]:
                problem = f"column {number + 1} has no name" if not name else f"two columns are named {name!r}"
                raise DataError(f"{path}, header row: {problem}")
        return names

    def rows(
        self, path: str, columns: Sequence[Column], start: tuple[int, int], first: int, count: int
    ) -> Iterator[dict[str, Value]]:
        """The features of `count` rows from `start` on. An empty cell gives no feature, but b"" in a bytes column."""
        header = _Lines(path, 0, 0)
        names = self._header(path, header)
        header.close()
        lines = _Lines(path, *start)
        try:
            reader = islice(_read(lines, path, len(names)), count)
            while batch := list(islice(reader, _BATCH_ROWS)):
                cells = list(zip(*batch, strict=True))
                read = [_values(cells[names.index(column.name)], column) for column in columns]
                features = [column.feature for column in columns]
                for values in zip(*read, strict=True):
                    yield {name: value for name, value in zip(features, values, strict=True) if value is not None}
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: has changed while it was converted ({error})") from None
        finally:
            lines.close()


def _values(cells: Sequence[str], column: Column) -> Sequence[bytes | int | float | None]:
    if column.classes:
        numbers = {text: number for number, text in enumerate(column.classes)}
        return [numbers[cell] if cell else None for cell in cells]
    return [cell.encode() for cell in cells] if column.type == BYTES else _numbers(cells, column.type)
