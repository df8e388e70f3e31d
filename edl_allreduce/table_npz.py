"""NumPy .npz archives as tables: each array is a column, its first dimension the rows. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edl_allreduce import storage
from edl_allreduce.errors import DataError
from edl_allreduce.table import BYTES, FLOAT, INT64, MAX_CLASSES, Column, Scan, Wish, chosen
from edl_allreduce.tf_example import Value

_KINDS = {"i": INT64, "u": INT64, "b": INT64, "f": FLOAT, "S": BYTES, "U": BYTES}
_SUFFIX = ".npy"


class NpzTable:
    """Archives as `numpy.savez` and `numpy.savez_compressed` write them."""

    splittable = False

    def size(self, path: str) -> int:
        """The file's size. Raises StorageError."""
        return storage.size(path)

    def scan(self, path: str, wish: Wish, rows_per_file: int) -> Scan:
        """Reads the arrays' headers, and a text label's values. Raises DataError, StorageError."""
        with storage.open_read(path) as stream:
            archive = _open(path, stream)
            headers = {
                name.removesuffix(_SUFFIX): _header(path, archive, name)
                for name in archive.namelist()
                if name.endswith(_SUFFIX)
            }
            if not headers:
                raise DataError(f"{path}: holds no array")
            wanted = chosen(path, list(headers), wish)
            columns = tuple((name, _type(path, name, headers[name][1], wish.type_of(name))) for name in wanted)
            rows = {name: headers[name][0][0] if headers[name][0] else -1 for name in wanted}
            if min(rows.values()) != max(rows.values()) or min(rows.values()) < 0:
                shapes = ", ".join(f"{name} {headers[name][0]}" for name in wanted)
                raise DataError(f"{path}: the arrays' first dimensions differ: {shapes}; choose some with --columns")
            texts: frozenset[str] | None = frozenset()
            if wish.label and dict(columns)[wish.label] == BYTES and not wish.type_of(wish.label):
                texts = _texts(_array(path, archive, wish.label))
            return Scan(path, columns, rows[wanted[0]], (), texts)

    def rows(
        self, path: str, columns: Sequence[Column], start: tuple[int, int], first: int, count: int
    ) -> Iterator[dict[str, Value]]:
        """The features of `count` rows from row `first` on; `start` has no meaning here."""
        with storage.open_read(path) as stream:
            archive = _open(path, stream)
            parts = [_prepared(_array(path, archive, column.name)[first : first + count], column) for column in columns]
        features = [column.feature for column in columns]
        for values in zip(*parts, strict=True):
            yield dict(zip(features, values, strict=True))


def _open(path: str, stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: is not an .npz archive ({error})") from None


def _header(path: str, archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        with archive.open(member) as stream:
            read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(stream)
            return shape, dtype
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(f"{path}: array {member.removesuffix(_SUFFIX)!r} is damaged ({error})") from None


def _array(path: str, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    try:
        with archive.open(name + _SUFFIX) as stream:
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
            return array
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(f"{path}: array {name!r} is damaged ({error})") from None


def _type(path: str, name: str, dtype: np.dtype[Any], given: str) -> str:
    found = _KINDS.get(dtype.kind)
    if found is None:
        why = "Python objects, which are never unpickled" if dtype.hasobject else f"{dtype}, not numbers, bytes or text"
        raise DataError(f"{path}: array {name!r} holds {why}; choose others with --columns")
    if given and given != BYTES and (found, given) not in ((found, found), (INT64, FLOAT)):
        raise DataError(f"{path}: array {name!r} holds {dtype}, which cannot become {given}")
    return given or found


def _texts(array: NDArray[Any]) -> frozenset[str] | None:
    values = {_text(value) for value in np.unique(array).tolist()}
    return frozenset(values) if len(values) <= MAX_CLASSES else None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def _prepared(part: NDArray[Any], column: Column) -> Sequence[Value]:
    """One value per row; numbers as bytes are the row's, in C order and little-endian: what tf.io.decode_raw reads."""
    if column.classes:
        numbers = {text: number for number, text in enumerate(column.classes)}
        return [[numbers[_text(value)] for value in np.ravel(row).tolist()] for row in part]
    if column.type == BYTES and part.dtype.kind in "iubf":
        little = np.ascontiguousarray(part.astype(part.dtype.newbyteorder("<"), copy=False))
        return [row.tobytes() for row in little]
    if part.dtype.kind == "b":
        part = part.astype(np.int64)
    if column.type == FLOAT and part.dtype.kind != "f":
        part = part.astype(np.float64)
    return part.tolist() if part.ndim == 1 else list(part)
