"""What `edl sql` does with its words: finds the text of the statements, and warns of passwords that others can see."""

from __future__ import annotations

import sys

from edl_allreduce.errors import StorageError, UsageError
from launcher.sqlflow import database_url
from launcher.sqlflow.api import run_statements

STANDARD_INPUT = "-"


def sql(*statement: str, **flags: str) -> int:
    """Runs the statements of a word, a file or the standard input."""
    text = text_of(statement, flags.get("file", ""))
    if database_url.has_password(flags.get("database", "")):
        print(
            "warning: --database has a password in it, which the list of this machine's processes shows to others; set "
            f"{database_url.VARIABLE} instead, or give --database=@FILE, or leave the password out (~/.pgpass)",
            file=sys.stderr,
        )
    run_statements(text, flags, sys.stdout, leave=True)
    return 0


def text_of(words: tuple[str, ...], file: str) -> str:
    """The text of the statements.

    Raises:
        UsageError: there is none, or more than one.
        StorageError: the file cannot be read.
    """
    if words and file:
        raise UsageError("--file: give a statement or a file, not both")
    if len(words) > 1:
        raise UsageError(f"edl sql: {words[1]!r} is too much; put the statement in quotes")
    if not words and not file:
        raise UsageError("edl sql: STATEMENT is missing; edl sql --help explains it")
    if file:
        return _read(file)
    return sys.stdin.read() if words[0] == STANDARD_INPUT else words[0]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as source:
            return source.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"--file: {path}: {getattr(error, 'strerror', None) or 'is no text in UTF-8'}") from None
