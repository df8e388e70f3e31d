"""Files behind URLs, through fsspec: which file system a URL needs, and its many errors as one line each.

Nothing is cached between calls: a listing is what the store says now. Whole objects are put at once, so that a reader
sees an object complete or not at all.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from edl_allreduce import storage_glob
from edl_allreduce.errors import StorageError, did_you_mean
from edl_allreduce.storage_ranges import local_errors
from edl_allreduce.storage_retry import PassingError, persist

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
_NO_CONNECTION = {
    "ClientConnectionError", "ClientPayloadError", "ConnectionError", "FSTimeoutError", "HTTPClientError",
    "IncompleteReadError", "ServerDisconnectedError", "TimeoutError",
}  # fmt: skip
_PASSING_STATUS = {408, 429, 500, 502, 503, 504, 509}

MAX_REASON = 300  # characters of a foreign error; some libraries list all places where they have looked
_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD

Result = TypeVar("Result")


def matches(url: str) -> list[str]:
    """The files that one URL, glob or folder names; perhaps none. Raises StorageError."""

    def look(fs: AbstractFileSystem, path: str) -> list[str]:
        if not storage_glob.is_pattern(path):
            try:
                if fs.info(path)["type"] != "directory":
                    return [url]
            except FileNotFoundError:
                return []
            path = f"{path.rstrip('/')}/{storage_glob.RECORDIO}"
        found = storage_glob.matches_listed(path, lambda folder: _listed(fs, folder) or {})
        return [f"{_scheme(url)}://{name.lstrip('/')}" for name in found]

    return _ask(url, look)


def names_in(folder: str) -> list[str] | None:
    """The names in a folder or bucket, or None when there is no such folder. Raises StorageError."""

    def look(fs: AbstractFileSystem, path: str) -> list[str] | None:
        names = _listed(fs, path)
        return None if names is None else sorted(names)

    return _ask(folder, look)


def _listed(fs: AbstractFileSystem, folder: str) -> dict[str, bool] | None:
    """The names in a folder, each with whether it is a folder; None when there is no such folder."""
    try:
        entries = fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    inside = [
        each for each in entries if each["name"].strip("/") != folder.strip("/")
    ]  # some stores list the folder too
    return {each["name"].rstrip("/").rpartition("/")[2]: each["type"] == "directory" for each in inside}


def exists(url: str) -> bool:
    """Whether an object or a folder is there. Raises StorageError."""

    def look(fs: AbstractFileSystem, path: str) -> bool:
        try:
            fs.info(path)
        except FileNotFoundError:
            return False
        return True

    return _ask(url, look)


def read_bytes(url: str) -> bytes:
    """The whole object. Raises StorageError."""
    return _ask(url, lambda fs, path: cast(bytes, fs.cat_file(path)))


def write_bytes(url: str, data: bytes) -> None:
    """Puts a whole object at once. Raises StorageError."""
    _ask(url, lambda fs, path: fs.pipe_file(path, data))


def upload(source: str, url: str) -> None:
    """Puts a local file as one whole object. Raises StorageError."""
    _ask(url, lambda fs, path: fs.put_file(source, path))


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
    with suppress(FileNotFoundError):
        _ask(url, lambda fs, path: fs.rm_file(path), passed=(FileNotFoundError,))


def remove_folder(url: str) -> None:
    """Removes all objects below a folder; nothing happens when there are none. Raises StorageError."""
    with suppress(FileNotFoundError):
        _ask(url, lambda fs, path: fs.rm(path, recursive=True), passed=(FileNotFoundError,))


class RemoteRanges:
    """An object, for reads at given offsets: one request each, and one for its size when that is asked for."""

    remote = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._size: int | None = None
        with _errors(url):
            _filesystem(url)

    @property
    def size(self) -> int:
        if self._size is None:
            info = _ask(self._url, lambda fs, path: fs.info(path))
            if info["type"] == "directory":
                raise StorageError(f"{self._url}: is a folder")
            self._size = int(info["size"])
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        return _ask(self._url, lambda fs, path: cast(bytes, fs.cat_file(path, start=offset, end=offset + size)))

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> RemoteRanges:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _ask(
    url: str, action: Callable[[AbstractFileSystem, str], Result], passed: tuple[type[Exception], ...] = ()
) -> Result:
    """What `action`, given the file system that serves `url` and the path in it, returns; tried again where that helps.

    Raises:
        StorageError: whatever failed, in one line; but the exceptions in `passed` as they are.
    """

    def once() -> Result:
        with _errors(url, passed):
            fs = _filesystem(url)
            return action(fs, fs._strip_protocol(url))

    return persist(once)


def _filesystem(url: str) -> AbstractFileSystem:
    import fsspec

    package, extra = _EXTRAS.get(_scheme(url), ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise StorageError(f"{_scheme(url)}:// needs {package}: pip install 'edl_allreduce[{extra}]'")
    if _scheme(url) not in fsspec.available_protocols():
        hint = did_you_mean(_scheme(url), ["gs", "s3", "memory", "file"])
        raise StorageError(f"{url}: there is no storage for {_scheme(url)}://{hint}")
    if package == "gcsfs":
        return _google()
    parameters = inspect.signature(fsspec.get_filesystem_class(_scheme(url)).__init__).parameters.values()
    needed = [each.name for each in parameters if each.default is each.empty and each.kind is _PLAIN][1:]
    if needed:
        raise StorageError(f"{url}: {_scheme(url)}:// is not served: it needs more than a URL ({', '.join(needed)})")
    return fsspec.filesystem(_scheme(url), **({"use_listings_cache": False} if package else {}))


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
def _errors(url: str, passed: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    untouched: tuple[type[Exception], ...] = (StorageError, *passed)
    try:
        yield
    except untouched:
        raise
    except Exception as error:  # Each cloud package raises its own kinds, and not all of them are OSErrors.
        kind = PassingError if _may_pass(error) else StorageError
        raise kind(f"{url}: {_reason(error, _EXTRAS.get(_scheme(url), ('', ''))[0])}") from error


def _may_pass(error: BaseException | None) -> bool:
    """Whether the store was only overloaded, or the connection broken: by the error or by what caused it."""
    while error is not None:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & _NO_CONNECTION or _status(error) in _PASSING_STATUS:
            return True
        error = error.__cause__
    return False


def _status(error: BaseException) -> int:
    """The HTTP status that came with an error of gcsfs, aiohttp or botocore; 0: none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = getattr(error, "code", None) or getattr(error, "status", None)
    return int(str(code)) if str(code).isdecimal() else 0


def _reason(error: Exception, package: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = textwrap.shorten(str(error), MAX_REASON, placeholder=" …") or type(error).__name__
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
