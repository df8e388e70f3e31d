"""TFRecord files on their way to RecordIO: their records as they are; of compressed files, too, which cannot train."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice

from edl_allreduce import storage
from edl_allreduce.errors import CorruptFile
from edl_allreduce.records.tfrecord import HEADER_BYTES, ChunkReader, is_header, records_in_stream
from edl_allreduce.table import Column, Scan, Wish

_GZIP = b"\x1f\x8b"


class TfRecordTable:
    """TFRecord files as `tf.io.TFRecordWriter` writes them, without compression or with GZIP."""

    splittable = False

    def size(self, path: str) -> int:
        """The file's size. Raises StorageError."""
        return storage.size(path)

    def scan(self, path: str, wish: Wish, rows_per_file: int) -> Scan:
        """Counts the records. Raises CorruptFile, StorageError."""
        if _is_gzip(path):
            return Scan(path, (), sum(1 for _ in _unzipped(path)), ())
        with ChunkReader(path) as reader:
            return Scan(path, (), sum(chunk.records for chunk in reader.index()), ())

    def rows(
        self, path: str, columns: Sequence[Column], start: tuple[int, int], first: int, count: int
    ) -> Iterator[bytes]:
        """`count` records from the first one on. Raises CorruptFile, StorageError."""
        yield from islice(_unzipped(path) if _is_gzip(path) else _plain(path), count)


def _is_gzip(path: str) -> bool:
    head = storage.read_range(path, 0, HEADER_BYTES)
    return head.startswith(_GZIP) and not is_header(head)


def _plain(path: str) -> Iterator[bytes]:
    with ChunkReader(path) as reader:
        for chunk in reader.index():
            yield from reader.read_chunk(chunk)


def _unzipped(path: str) -> Iterator[bytes]:
    try:
        with storage.open_read(path) as stored, gzip.GzipFile(fileobj=stored) as stream:
            yield from records_in_stream(path, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorruptFile(path, 0, f"the gzip data is damaged ({error})") from None
