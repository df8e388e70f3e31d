"""Names of tables and columns as a statement has them: cut at their dots, without quotes, as the database means."""

from __future__ import annotations

import re

from edl_allreduce.errors import UsageError

_PART = re.compile(r'"(?:[^"]|"")+"|`(?:[^`]|``)+`|\[[^]]+\]|[^."`\[\]]+')
FOLDS = ("postgresql", "cockroachdb", "redshift")  # there TestData means testdata


def split_table(text: str, backend: str = "") -> tuple[str, ...]:
    """`shop."my table"` as ("shop", "my table").

    Args:
        text: quoted parts are in double quotes, backticks or brackets.
        backend: of the database, as SQLAlchemy calls it; says whether a name without quotes is in small letters.

    Raises:
        UsageError: it is no name.
    """
    parts, place = [], 0
    while found := _PART.match(text, place):
        parts.append(unquoted(found[0].strip(), backend))
        place = found.end()
        if place == len(text) and all(parts):
            return tuple(parts)
        if text[place : place + 1] != ".":
            break
        place += 1
    raise UsageError(f'PREDICT: expected the name of a table, such as testdata or shop."my table", got {text!r}')


def unquoted(name: str, backend: str = "") -> str:
    """One name without its quotes."""
    if len(name) > 2 and name[0] in '"`' and name[-1] == name[0]:
        return name[1:-1].replace(name[0] * 2, name[0])
    if len(name) > 2 and name[0] == "[" and name[-1] == "]":
        return name[1:-1]
    return name.lower() if backend in FOLDS else name
