"""Writing RecordIO: records collected into chunks, the file visible only when it is complete."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import BinaryIO

from edl_allreduce import storage
from edl_allreduce.errors import DataError, UsageError, did_you_mean
from edl_allreduce.recordio.codec import COMPRESSORS
from edl_allreduce.recordio.format import LENGTH, MAX_PAYLOAD_BYTES, encode_chunk

DEFAULT_CHUNK_BYTES = 32 << 20


class Writer:
    """Writes a RecordIO file: `with Writer(path) as w: w.write(record)`.

    The file appears, complete, when the block ends without an error; otherwise what was at `path` stays as it was.

    Args:
        path: a local path or URL.
        compressor: "none", "snappy" (the framing format) or "gzip".
        max_chunk_bytes: a chunk holds at most so many bytes of records (their lengths not counted, as in the original).
            A record as large or larger gets a chunk of its own; the original refuses it.

    Attributes:
        records: how many records were written so far.

    Raises:
        UsageError: there is no such compressor, or the chunk size is not positive.
        DataError: a record is larger than a reader accepts (1 GiB).
        StorageError: the file cannot be written.
    """

    def __init__(self, path: str, compressor: str = "snappy", max_chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
        numbers = {name: number for number, name in COMPRESSORS.items()}
        if compressor not in numbers:
            known = ", ".join(numbers)
            raise UsageError(f"compressor: expected {known}, got {compressor!r}{did_you_mean(compressor, numbers)}")
        if not 0 < max_chunk_bytes <= MAX_PAYLOAD_BYTES // 2:
            raise UsageError(f"max_chunk_bytes: expected 1 to {MAX_PAYLOAD_BYTES // 2}, got {max_chunk_bytes}")
        self._path, self._compressor, self._limit = path, numbers[compressor], max_chunk_bytes
        # Lengths do not count, but what very many, very short records take has to stay within the limit as well.
        self._most_records = max(max_chunk_bytes, 1 << 20) // LENGTH.size
        self._target: AbstractContextManager[BinaryIO] | None = None
        self._out: BinaryIO | None = None
        self._chunk: list[bytes] = []
        self._chunk_bytes = 0
        self.records = 0

    def write(self, record: bytes) -> None:
        """Appends one record, which may be empty."""
        if self._out is None:
            raise UsageError(f"{self._path}: is not open for writing; use `with Writer(path) as writer:`")
        if len(record) > MAX_PAYLOAD_BYTES - LENGTH.size:
            raise DataError(f"{self._path}: a record has at most {MAX_PAYLOAD_BYTES} bytes, got {len(record)}")
        if self._chunk_bytes + len(record) > self._limit or len(self._chunk) >= self._most_records:
            self._flush(self._out)
        self._chunk.append(bytes(record))
        self._chunk_bytes += len(record)
        self.records += 1

    def _flush(self, out: BinaryIO) -> None:
        if self._chunk:
            out.write(encode_chunk(self._chunk, self._compressor))
            self._chunk, self._chunk_bytes = [], 0

    def __enter__(self) -> Writer:
        self._target = storage.writer_atomic(self._path)
        self._out = self._target.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        target, out, self._target, self._out = self._target, self._out, None, None
        assert target is not None and out is not None
        if error is None:
            try:
                self._flush(out)
            except BaseException as failure:
                target.__exit__(type(failure), failure, failure.__traceback__)
                raise
        target.__exit__(kind, error, trace)
