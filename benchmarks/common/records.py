"""Writes the same records as RecordIO for us and as TFRecord for others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edl_allreduce.recordio import Writer


def write_recordio(path: Path, records: Iterable[bytes], **settings: Any) -> None:
    """A file of RecordIO; settings: the Writer's."""
    with Writer(str(path), **settings) as out:
        for record in records:
            out.write(record)


def write_tfrecord(path: Path, records: Iterable[bytes]) -> None:
    """A file of TFRecords."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as out:
        for record in records:
            out.write(record)
