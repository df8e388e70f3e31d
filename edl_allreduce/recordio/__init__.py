"""RecordIO files, byte-compatible with github.com/wangkuiyi/recordio, so that data made for ElasticDL trains here.

docs/data.md describes the format and what is verified. Nothing here imports TensorFlow.
"""

from __future__ import annotations

from edl_allreduce.recordio.format import ChunkRef
from edl_allreduce.recordio.reader import ChunkReader, Reader, index, index_many, open_reader, read_chunk
from edl_allreduce.recordio.records import Records
from edl_allreduce.recordio.writer import Writer

__all__ = [
    "ChunkReader",
    "ChunkRef",
    "Reader",
    "Records",
    "Writer",
    "index",
    "index_many",
    "open_reader",
    "read_chunk",
]
