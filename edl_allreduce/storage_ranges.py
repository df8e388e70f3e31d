"""Files held open for reads at given offsets: how RecordIO reads chunks, locally and over the network."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

from edl_allreduce.errors import StorageError
from edl_allreduce.storage_retry import FullError, PassingError

# What to do about an error of the operating system.
_ADVICE = {
    errno.ENOSPC: "free some, or choose another folder",
    errno.EDQUOT: "remove what you do not need, or choose another folder",
    errno.EFBIG: "the file system, or the limit of 'ulimit -f', allows no larger file",
    errno.EROFS: "choose a folder that can be written",
}
_KINDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), FullError),
    **dict.fromkeys((errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN), PassingError),
}


class RangeReader(Protocol):
    """A file held open for reads at given offsets; also a context manager, closed on exit. Safe to share by threads."""

    remote: bool

    @property
    def size(self) -> int:
        """The file's size in bytes when it was opened (local) or first asked for (remote)."""

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`: fewer only where the file ends. Raises StorageError."""

    def close(self) -> None: ...

    def __enter__(self) -> RangeReader: ...

    def __exit__(self, *exc: object) -> None: ...


class LocalRanges:
    """A local regular file, open for reads at given offsets."""

    remote = False

    def __init__(self, path: str) -> None:
        self._path = path
        with local_errors(path):
            # O_NONBLOCK: opening a named pipe must not wait for somebody to write to it.
            self._handle = os.open(local_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise StorageError(f"{path}: is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
        self._size = status.st_size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        with local_errors(self._path):
            data = os.pread(self._handle, size, offset)
            if len(data) == size or not data:
                return data
            parts, got = [data], len(data)  # The kernel returns at most 2 GiB at once, or was interrupted.
            while got < size and (data := os.pread(self._handle, size - got, offset + got)):
                parts.append(data)
                got += len(data)
            return b"".join(parts)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> LocalRanges:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            self.close()


class RangeStream(io.RawIOBase):
    """A RangeReader as a raw stream, so that BufferedReader and csv can use it."""

    def __init__(self, source: RangeReader) -> None:
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (self._source.size if base is None else base)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        data = self._source.read(self._position, max(0, min(len(view), self._source.size - self._position)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def local_path(path: str) -> str:
    """What the operating system is asked for: without `file://`, `~` expanded."""
    return os.path.expanduser(path[len("file://") :] if path.lower().startswith("file://") else path)


@contextmanager
def local_errors(path: str, foreign: bool = False) -> Iterator[None]:
    """Turns OSErrors into StorageErrors; with `foreign`, not those that name a file: they are the caller's."""
    try:
        yield
    except OSError as error:
        if foreign and error.filename is not None:
            raise
        kind = _KINDS.get(error.errno or 0, StorageError)
        raise kind(f"{path}: {_explained(error)}") from error


def _explained(error: OSError) -> str:
    said = (error.strerror or str(error)).lower()
    if error.errno in (errno.EACCES, errno.EPERM) and hasattr(os, "geteuid"):
        return f"{said}: this process runs as user {os.geteuid()}, who may not do that there"
    advice = _ADVICE.get(error.errno or 0)
    return f"{said}: {advice}" if advice else said
