"""Files behind URLs, through fsspec: which file system a URL needs, and its many errors as one line each.

Nothing is cached between calls: a listing is what the store says now. Whole objects are put at once, so that a reader
sees an object complete or not at all.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from edl_allreduce import storage_glob
from edl_allreduce.errors import StorageError, did_you_mean
from edl_allreduce.storage_ranges import local_errors

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# URL scheme: the package that serves it, and the extra of ours that installs it.
_EXTRAS = {"gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}
_CREDENTIALS = {
    "gcsfs": "set GOOGLE_APPLICATION_CREDENTIALS or run 'gcloud auth application-default login'",
    "s3fs": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
_ENDPOINTS = {"gcsfs": "STORAGE_EMULATOR_HOST", "s3fs": "AWS_ENDPOINT_URL"}

# The exceptions of botocore, google.auth and aiohttp by name, since those packages may not be installed.
_NO_CREDENTIALS = {
    "CredentialRetrievalError", "DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError",
    "RefreshError", "TokenRetrievalError", "UnauthorizedSSOTokenError",
}  # fmt: skip
_NO_CONNECTION = {"ClientConnectionError", "ConnectionError", "ConnectTimeoutError", "FSTimeoutError", "TimeoutError"}


def matches(url: str) -> list[str]:
    """The files that one URL, glob or folder names; perhaps none. Raises StorageError."""
    with _filesystem(url) as (fs, path):
        try:
            if not storage_glob.is_pattern(path):
                if fs.info(path)["type"] != "directory":
                    return [url]
                path = f"{path.rstrip('/')}/{storage_glob.RECORDIO}"
            found = fs.glob(path, detail=True)
        except FileNotFoundError:
            return []
        return [f"{_scheme(url)}://{name.lstrip('/')}" for name, info in found.items() if info["type"] != "directory"]


def names_in(folder: str) -> list[str] | None:
    """The names in a folder or bucket, or None when there is no such folder. Raises StorageError."""
    with _filesystem(folder) as (fs, path):
        try:
            return sorted({name.rstrip("/").rpartition("/")[2] for name in fs.ls(path, detail=False)})
        except (FileNotFoundError, NotADirectoryError):
            return None


def exists(url: str) -> bool:
    """Whether an object or a folder is there. Raises StorageError."""
    with _filesystem(url) as (fs, path):
        try:
            fs.info(path)
        except FileNotFoundError:
            return False
        return True


def read_bytes(url: str) -> bytes:
    """The whole object. Raises StorageError."""
    with _filesystem(url) as (fs, path):
        return cast(bytes, fs.cat_file(path))


def write_bytes(url: str, data: bytes) -> None:
    """Puts a whole object at once. Raises StorageError."""
    with _filesystem(url) as (fs, path):
        fs.pipe_file(path, data)


def upload(source: str, url: str) -> None:
    """Puts a local file as one whole object. Raises StorageError."""
    with _filesystem(url) as (fs, path):
        fs.put_file(source, path)


@contextmanager
def spooled(url: str) -> Iterator[BinaryIO]:
    """A local temporary file that is uploaded when the `with` block ends without an error. Raises StorageError."""
    spooling = local_errors(f"{url} (the temporary file before its upload)", foreign=True)
    with spooling, tempfile.NamedTemporaryFile(prefix="edl-upload-") as spool:
        yield cast(BinaryIO, spool)
        spool.flush()
        upload(spool.name, url)


def remove(url: str) -> None:
    """Removes an object; nothing happens when there is none. Raises StorageError."""
    with _filesystem(url) as (fs, path):
        try:
            fs.rm_file(path)
        except FileNotFoundError:
            return


class RemoteRanges:
    """An object, for reads at given offsets: one request each, and one for its size when that is asked for."""

    remote = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._size: int | None = None
        with _filesystem(url) as (self._fs, self._path):
            pass

    @property
    def size(self) -> int:
        if self._size is None:
            with _errors(self._url):
                info = self._fs.info(self._path)
                if info["type"] == "directory":
                    raise StorageError(f"{self._url}: is a folder")
                self._size = int(info["size"])
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        with _errors(self._url):
            return cast(bytes, self._fs.cat_file(self._path, start=offset, end=offset + size))

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> RemoteRanges:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def _filesystem(url: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """The file system that serves `url` and the path in it; whatever fails inside becomes a StorageError."""
    with _errors(url):
        import fsspec

        package, extra = _EXTRAS.get(_scheme(url), ("", ""))
        if package and importlib.util.find_spec(package) is None:
            raise StorageError(f"{_scheme(url)}:// needs {package}: pip install 'edl_allreduce[{extra}]'")
        if _scheme(url) not in fsspec.available_protocols():
            hint = did_you_mean(_scheme(url), ["gs", "s3", "memory", "file"])
            raise StorageError(f"{url}: there is no storage for {_scheme(url)}://{hint}")
        if package == "gcsfs":
            fs = _google()
        else:
            fs = fsspec.filesystem(_scheme(url), **({"use_listings_cache": False} if package else {}))
        yield fs, fs._strip_protocol(url)


def _google() -> AbstractFileSystem:
    # It logs each failure with a traceback; ours is the one line that is raised.
    logging.getLogger("gcsfs").addHandler(logging.NullHandler())
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        # The default class asks Google's gRPC service what kind each bucket is: no emulator speaks that, and it waits
        # for a minute. An emulator needs no credentials either.
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(token="anon", use_listings_cache=False)
    from gcsfs import GCSFileSystem

    return GCSFileSystem(use_listings_cache=False)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # Each cloud package raises its own kinds, and not all of them are OSErrors.
        raise StorageError(f"{url}: {_reason(error, _EXTRAS.get(_scheme(url), ('', ''))[0])}") from error


def _reason(error: Exception, package: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = " ".join(str(error).split()) or type(error).__name__
    if kinds & _NO_CREDENTIALS:
        return f"no valid credentials ({said}): {_CREDENTIALS.get(package, 'see the documentation of this storage')}"
    if kinds & _NO_CONNECTION:
        endpoint = _ENDPOINTS.get(package, "")
        asked = f"; {endpoint} is {os.environ[endpoint]!r}" if os.environ.get(endpoint) else ""
        return f"cannot connect ({said}){asked}"
    if isinstance(error, FileNotFoundError):
        return "no such file, folder or bucket"
    if isinstance(error, PermissionError):
        return f"permission denied ({said})"
    return said if isinstance(error, OSError) else f"{type(error).__name__}: {said}"
