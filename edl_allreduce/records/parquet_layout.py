"""What a Parquet file's footer says about where its rows are: pure, and remembered, since every task opens its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edl_allreduce.extras import Later
from edl_allreduce.recordio.format import ChunkRef

PART_BYTES = 256 << 20
_INFLATION = 3  # what `dataset.INFLATION` takes for granted
_VALUE_BYTES = 16  # of a number in memory: it and where it lies
_REMEMBERED = 64

pa: Any = Later("pyarrow", "parquet", "Parquet")
pq: Any = Later("pyarrow.parquet", "parquet", "Parquet")


@dataclass(frozen=True)
class Part:
    """Some rows of a row group; `first` is the first one's number in the group."""

    group: int
    first: int
    rows: int


@dataclass(frozen=True)
class Layout:
    """What a footer says.

    Attributes:
        metadata: as pyarrow has it.
        parts: the chunks, in the file's order; the same footer gives the same.
        texts: the columns of texts that are stored as numbers of different ones: kept so, they take little memory.
    """

    metadata: Any
    parts: Mapping[ChunkRef, Part]
    texts: tuple[str, ...]


@lru_cache(_REMEMBERED)
def layout_of(footer: bytes, part_bytes: int) -> Layout:
    """The layout in the last bytes of a file.

    Args:
        footer: the metadata, its length and the magic number.
        part_bytes: row groups that take more memory are cut.

    Raises:
        pyarrow.ArrowInvalid, OSError: it is damaged.
    """
    metadata = pq.read_metadata(pa.BufferReader(footer))
    return Layout(metadata, dict(_parts(metadata, part_bytes)), tuple(_dictionaries(metadata)))


def _parts(metadata: Any, part_bytes: int) -> Iterator[tuple[ChunkRef, Part]]:
    for number, offset in groups_of(metadata):
        group = metadata.row_group(number)
        columns = [group.column(each) for each in range(group.num_columns)]
        stored, memory = sum(each.total_compressed_size for each in columns), sum(map(_memory, columns))
        parts = max(1, min(-(-memory // part_bytes), group.num_rows, stored))
        for part in range(parts):
            first, after = (group.num_rows * each // parts for each in (part, part + 1))
            begin, end = (stored * each // parts for each in (part, part + 1))
            size = max(end - begin, memory // parts // _INFLATION)
            yield ChunkRef(offset + begin, size, after - first), Part(number, first, after - first)


def groups_of(metadata: Any) -> Iterator[tuple[int, int]]:
    """The row groups that have rows, each with where it begins in the file."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(each) for each in range(group.num_columns)]
        if group.num_rows and columns:
            yield number, min(each.dictionary_page_offset or each.data_page_offset for each in columns)


def _memory(column: Any) -> int:
    """About how many bytes a column of a row group takes in memory."""
    values = column.total_uncompressed_size if column.physical_type.endswith("BYTE_ARRAY") else 0
    return int(column.num_values * _VALUE_BYTES + values)


def _dictionaries(metadata: Any) -> list[str]:
    found = set()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for each in range(group.num_columns):
            column = group.column(each)
            if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
                found.add(column.path_in_schema)
    return sorted(found)
