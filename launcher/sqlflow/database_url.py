"""Which database is meant, without its password ever standing where others could read it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from edl_allreduce.errors import StorageError, UsageError

VARIABLE, DEFAULT = "EDL_DATABASE", "sqlite:///edl.db"
_PASSWORD = re.compile(r"(?<=://)([^:/?#]*):(?:[^@]*)@|\b(password|passwd|pwd)=[^&]*", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(\+\w+)?://")


def resolve(given: str, environ: Mapping[str, str]) -> str:
    """The URL of the database.

    Args:
        given: a URL, the path of an SQLite file, or @ and the path of a file with the URL in it; empty: EDL_DATABASE
            says it, in the same way, and without it the file edl.db is meant.

    Raises:
        UsageError: the file holds no URL.
        StorageError: it cannot be read.
    """
    url = given or environ.get(VARIABLE, "") or DEFAULT
    if url.startswith("@"):
        url = _read(os.path.expanduser(url[1:]))
    return url if _SCHEME.match(url) else f"sqlite:///{url}"


def check_default(url: str) -> None:
    """Refuses the database that is meant when nobody says which, if there is none.

    Raises:
        UsageError: says where to say it.
    """
    if url == DEFAULT and not os.path.exists(DEFAULT.removeprefix("sqlite:///")):
        nor = f"nor does {VARIABLE} say it, nor is edl.db here"
        raise UsageError(f"--database: required and not given, such as sqlite:///shop.db; {nor}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            url = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"--database: {path}: {getattr(error, 'strerror', None) or 'is no text'}") from None
    if not _SCHEME.match(url) or len(url.split()) != 1:
        raise UsageError(f"--database: {path}: expected the URL of a database in it, DATABASE://USER@HOST/NAME")
    return url


def dialect_of(url: str) -> str:
    """What SQLAlchemy calls the database, such as postgresql."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else "sqlite"


def has_password(url: str) -> bool:
    """Whether there is a password in a URL."""
    return bool(_PASSWORD.search(url))


def identity(url: str) -> str:
    """What tells this database from others, for this user: the URL without its password; a file by its whole path."""
    scheme, _, path = url.partition(":///")
    if dialect_of(url) == "sqlite":
        return f"{scheme}:///{os.path.abspath(path.partition('?')[0])}"
    return _PASSWORD.sub(r"\1@", url)
