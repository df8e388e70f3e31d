"""One door to files, so that every path a user gives may be local or a URL (gs://, s3://, memory://, file://).

Local paths are served by plain system calls; fsspec and its cloud packages are imported when the first URL is met.
Every failure is a StorageError of one line that names the path. Clouds are found as their own tools find them: the
standard variables for credentials, AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST are honoured.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edl_allreduce import storage_glob, storage_remote
from edl_allreduce.errors import StorageError
from edl_allreduce.storage_ranges import LocalRanges, RangeReader, RangeStream, local_errors, local_path

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")  # what `writer_atomic` writes to
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_COPY_BYTES = 1 << 20
_REMOTE_READ_BYTES = 8 << 20


def is_remote(path: str) -> bool:
    """Whether `path` is a URL that is not on this machine's file system."""
    return bool(_SCHEME.match(path)) and not path.lower().startswith("file://")


def join(base: str, *names: str) -> str:
    """`base` (a path or URL) extended by `names`, which use `/` between them."""
    if is_remote(base):
        return "/".join([base.rstrip("/"), *(name.strip("/") for name in names)])
    return os.path.join(base, *names)


def basename(path: str) -> str:
    """The last part of a path or URL, whether or not it ends with a slash."""
    return posixpath.basename(path.rstrip("/"))


def expand(pattern: str) -> list[str]:
    """The files that `pattern` names, sorted, each once.

    `pattern` is a path or URL, a glob (`*`, `?`, `[...]`, `**`), a folder (its `*.recordio` files), or several of these
    separated by commas. Raises StorageError when a part names no file, saying what is there instead.
    """
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    if not parts:
        raise StorageError(f"no file is named by {pattern!r}: give a path, a glob, a folder, or several with commas")
    found: set[str] = set()
    for part in parts:
        named = matches(part)
        if not named:
            remote = is_remote(part)
            names_in = storage_remote.names_in if remote else storage_glob.names_in_local
            raise StorageError(storage_glob.nothing_found(part if remote else local_path(part), names_in))
        found.update(named)
    return sorted(found)


def matches(pattern: str) -> list[str]:
    """The files that one path, glob or folder names, sorted; perhaps none. Raises StorageError."""
    if is_remote(pattern):
        return sorted(storage_remote.matches(pattern))
    with local_errors(pattern):
        return sorted(storage_glob.matches_local(local_path(pattern)))


def exists(path: str) -> bool:
    """Whether a file or folder is there. Raises StorageError when that cannot be told (no access, no connection)."""
    if is_remote(path):
        return storage_remote.exists(path)
    return os.path.exists(local_path(path))


def names_in(folder: str) -> list[str] | None:
    """The names of files and folders in a folder, sorted; None when there is no such folder. Raises StorageError."""
    if is_remote(folder):
        return storage_remote.names_in(folder)
    with local_errors(folder):
        return storage_glob.names_in_local(local_path(folder))


def size(path: str) -> int:
    """The file's size in bytes. Raises StorageError."""
    with open_ranges(path) as source:
        return source.size


def open_ranges(path: str) -> RangeReader:
    """Opens a file for several reads at given offsets. Raises StorageError."""
    if is_remote(path):
        return storage_remote.RemoteRanges(path)
    return LocalRanges(path)


def open_read(path: str) -> BinaryIO:
    """Opens a file as a seekable binary stream. Raises StorageError, while reading too."""
    return io.BufferedReader(RangeStream(open_ranges(path)), _REMOTE_READ_BYTES if is_remote(path) else _COPY_BYTES)


def read_bytes(path: str) -> bytes:
    """The whole file. Raises StorageError."""
    if is_remote(path):
        return storage_remote.read_bytes(path)
    with LocalRanges(path) as source:
        return source.read(0, source.size)


def read_range(path: str, offset: int, size: int) -> bytes:
    """At most `size` bytes from `offset`: fewer only where the file ends. Raises StorageError."""
    with open_ranges(path) as source:
        return source.read(offset, size)


def write_bytes_atomic(path: str, data: bytes) -> None:
    """Writes a whole file such that a reader sees the old content or the new, never a part. Raises StorageError."""
    if is_remote(path):
        storage_remote.write_bytes(path, data)
    else:
        with writer_atomic(path) as out:
            out.write(data)


@contextmanager
def writer_atomic(path: str) -> Iterator[BinaryIO]:
    """A stream to `path` that becomes visible, whole, when the `with` block ends without an error.

    Otherwise nothing is left behind. Local: a temporary file in the same folder (made if missing), fsync, rename.
    Remote: a local temporary file, then one upload of the whole object. Raises StorageError.
    """
    if is_remote(path):
        with storage_remote.spooled(path) as out:
            yield out
        return
    target = local_path(path)
    folder = os.path.dirname(target) or "."
    temporary = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
    with local_errors(path):
        if os.path.isdir(target):
            raise StorageError(f"{path}: is a folder, not a file")
        os.makedirs(folder, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with local_errors(path, foreign=True), os.fdopen(handle, "wb", buffering=_COPY_BYTES) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        with local_errors(path):
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Makes a rename in `folder` survive a power cut, where the file system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(path: str) -> None:
    """Removes a file; nothing happens when there is none. Raises StorageError."""
    if is_remote(path):
        storage_remote.remove(path)
        return
    with local_errors(path):
        Path(local_path(path)).unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that a process killed in the middle of an atomic write has left."""
    return bool(_TEMPORARY.fullmatch(name))


def remove_temporary(folder: str) -> None:
    """Removes what processes killed in the middle of a write have left in a local folder. Raises StorageError.

    Only for who alone writes there.
    """
    if not is_remote(folder):
        for name in filter(is_temporary, names_in(folder) or ()):
            remove(join(folder, name))


def remove_folder(path: str) -> None:
    """Removes a folder with all that is in it; nothing happens when there is none. Raises StorageError."""
    if is_remote(path):
        storage_remote.remove_folder(path)
        return
    with local_errors(path), suppress(FileNotFoundError):
        shutil.rmtree(local_path(path))


def upload_tree(local_dir: str, url: str, last: Sequence[str] = (), workers: int = 8) -> None:
    """Copies every file under `local_dir` to `url` (a URL or a local folder), each file atomically.

    Those named in `last` (relative to `local_dir`) are written one after the other once all others are there: a reader
    who finds them finds everything. Raises StorageError.
    """
    root = local_path(local_dir)
    with local_errors(local_dir):
        names = storage_glob.files_below(root)
    missing = [name for name in last if name not in names]
    if missing:
        raise StorageError(f"{local_dir}: has no file {missing[0]!r}, which was to be written last")
    early = [name for name in names if name not in last]
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda name: _copy(os.path.join(root, name), join(url, name)), early):
            pass
    for name in last:
        _copy(os.path.join(root, name), join(url, name))


def _copy(source: str, target: str) -> None:
    if is_remote(target):
        storage_remote.upload(source, target)
        return
    with open_read(source) as reader, writer_atomic(target) as writer:
        shutil.copyfileobj(reader, writer, _COPY_BYTES)
