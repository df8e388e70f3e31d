"""Writes the same texts in every format that a job can read, in small chunks, and tells the text of a record."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import google_crc32c
import pytest

from edl_allreduce import recordio
from edl_allreduce.records import FORMATS, format_of
from edl_allreduce.tf_example import read_example

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'edl_allreduce[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")

__all__ = ["CHUNK_BYTES", "FORMATS", "text_of", "write"]

CHUNK_BYTES = 70
PER_GROUP = 6  # rows in a Parquet file's row group


def write(path: str, texts: Sequence[str]) -> None:
    """Writes a file of the format that its ending says."""
    match format_of(path):
        case "recordio":
            with recordio.Writer(path, max_chunk_bytes=CHUNK_BYTES) as out:
                for text in texts:
                    out.write(text.encode())
        case "tfrecord":
            with open(path, "wb") as file:
                file.write(b"".join(tfrecord(text.encode()) for text in texts))
        case "csv":
            with open(path, "w", encoding="utf-8") as file:
                file.write("text\n" + "".join(f"{text}\n" for text in texts))
        case "parquet":
            pq.write_table(pa.table({"text": texts}), path, row_group_size=PER_GROUP, write_page_checksum=True)


def text_of(path: str, record: bytes) -> str:
    """The text that a record of such a file stands for."""
    if format_of(path) != "parquet":
        return record.decode()
    example = read_example(record)
    assert example is not None and list(example) == ["text"]
    return str(example["text"][0].decode())


def tfrecord(data: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + _masked_checksum(length) + data + _masked_checksum(data)


def _masked_checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
