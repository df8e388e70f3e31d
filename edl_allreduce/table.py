"""What all kinds of tables have in common on their way to RecordIO: columns, and what a look at them has found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edl_allreduce.errors import DataError, UsageError, did_you_mean
from edl_allreduce.tf_example import Value

INT64, FLOAT, BYTES = TYPES = ("int64", "float", "bytes")  # each holds what those before it hold
LABEL = "label"

# More different texts than this in a label column are not the names of classes.
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Column:
    """A column, and the feature that it becomes.

    Attributes:
        name: in the source.
        feature: in the tf.Example.
        type: "int64", "float" or "bytes".
        classes: what the texts of a label column are numbered by; empty for every other column.
    """

    name: str
    feature: str
    type: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What the user said about columns.

    Attributes:
        types: the wanted columns in their order; "" stands for a type to be inferred. None: all columns.
        label: the column that becomes the feature "label", or "".
    """

    types: Mapping[str, str] | None
    label: str

    def type_of(self, column: str) -> str:
        return (self.types or {}).get(column, "")


@dataclass(frozen=True)
class Scan:
    """What one pass over a source has found.

    Attributes:
        path: the source.
        columns: name and type of each wanted column.
        rows: number of rows.
        starts: where in the source each output file's first row is (byte offset, line number); empty for a source that
            is not splittable.
        texts: the different values of a text label column; None when there are too many.
        notes: what a person should know, e.g. why a column that looked like numbers is text.
    """

    path: str
    columns: tuple[tuple[str, str], ...]
    rows: int
    starts: tuple[tuple[int, int], ...]
    texts: frozenset[str] | None = frozenset()
    notes: tuple[str, ...] = ()


class Table(Protocol):
    """A kind of source. Its functions run in other processes too.

    Attributes:
        splittable: whether reading some rows costs less than reading all.
    """

    splittable: bool

    def size(self, path: str) -> int:
        """How many bytes there are to convert. Raises StorageError."""

    def scan(self, path: str, wish: Wish, rows_per_file: int) -> Scan:
        """One pass over a source. Raises DataError, StorageError."""

    def rows(
        self, path: str, columns: Sequence[Column], start: tuple[int, int], first: int, count: int
    ) -> Iterator[dict[str, Value] | bytes]:
        """`count` rows from row `first` on, which is at `start`: their features, or whole records.

        Raises:
            DataError, StorageError: a row is not what it should be, or cannot be read.
        """


def parse_columns(text: str) -> Mapping[str, str] | None:
    """`name:type,name:type` as a mapping; a type left out is "", an empty text is None. Raises UsageError."""
    wanted: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, kind = (word.strip() for word in part.rpartition(":")) if ":" in part else (part, "", "")
        if kind not in ("", *TYPES):
            raise UsageError(f"--columns: expected NAME:TYPE with a type of {', '.join(TYPES)}, got {part!r}")
        if not name or name in wanted:
            raise UsageError(f"--columns: {f'{name!r} is named twice' if name else 'a name is missing'} in {text!r}")
        wanted[name] = kind
    return wanted or None


def chosen(path: str, names: Sequence[str], wish: Wish) -> list[str]:
    """The wanted ones of the columns that a source has. Raises DataError when one is not there."""
    wanted = list(names) if wish.types is None else list(wish.types)
    for name in [*wanted, *([wish.label] if wish.label else [])]:
        if name not in names:
            raise DataError(f"{path}: has no column {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}")
    if wish.label and wish.label not in wanted:
        wanted.append(wish.label)
    if wish.label and wish.label != LABEL and LABEL in wanted:
        raise DataError(f"{path}: has a column {LABEL!r} already, so {wish.label!r} cannot take that name")
    return wanted


def agree(scans: Sequence[Scan], wish: Wish) -> tuple[Column, ...]:
    """The columns that suit all sources: a type that holds every source's values.

    Raises:
        DataError: the sources have different columns, or a text label has too many different values.
    """
    names = [name for name, _ in scans[0].columns]
    kinds = [0] * len(names)
    for scan in scans:
        if [name for name, _ in scan.columns] != names:
            theirs = ", ".join(name for name, _ in scan.columns)
            raise DataError(f"{scan.path}: has the columns {theirs}, but {scans[0].path} has {', '.join(names)}")
        kinds = [max(kind, TYPES.index(theirs)) for kind, (_, theirs) in zip(kinds, scan.columns, strict=True)]
    made = []
    for name, kind in zip(names, kinds, strict=True):
        feature = LABEL if name == wish.label else name
        if name == wish.label and TYPES[kind] == BYTES and not wish.type_of(name):
            made.append(Column(name, feature, INT64, _classes(scans, name)))
        else:
            made.append(Column(name, feature, TYPES[kind]))
    return tuple(made)


def _classes(scans: Sequence[Scan], name: str) -> tuple[str, ...]:
    texts: set[str] = set()
    for scan in scans:
        texts.update(scan.texts or ())
        if scan.texts is None or len(texts) > MAX_CLASSES:
            raise DataError(
                f"{scan.path}: label {name!r} has more than {MAX_CLASSES} different texts, so they are no classes; "
                f"--columns={name}:bytes keeps texts as they are"
            )
    return tuple(sorted(texts))
