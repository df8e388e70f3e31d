"""Reads what stands behind COLUMN: which columns are used, and how."""

from __future__ import annotations

import re

from edl_allreduce.errors import did_you_mean
from edl_allreduce.schema import HASH, NUMBER, VOCABULARY, ColumnWish
from launcher.sqlflow.lexer import Token
from launcher.sqlflow.names import unquoted
from launcher.sqlflow.reader import Reader

_KINDS = {"NUMERIC": NUMBER, "DENSE": NUMBER, "CATEGORY_HASH": HASH, "CATEGORY_ID": VOCABULARY}


def read_columns(reader: Reader, database: str) -> dict[str, ColumnWish]:
    """Reads `name, NUMERIC(name), CATEGORY_HASH(name, 100), …`, up to what is no part of it.

    Args:
        database: as its URL names it; it decides what a name without quotes means.

    Raises:
        UsageError: a function is not known, lacks its number or has a wrong one, or a column is named twice.
    """
    columns: dict[str, ColumnWish] = {}
    while True:
        first = reader.peek()
        name, wish = _column(reader, database)
        if name in columns:
            raise reader.error(first, f"column {name} is named twice")
        columns[name] = wish
        if not reader.is_mark(","):
            return columns
        reader.take()


def _column(reader: Reader, database: str) -> tuple[str, ColumnWish]:
    first = reader.name("a column", "COLUMN")
    if not reader.is_mark("("):
        return unquoted(first.text, database), ColumnWish()
    kind = _KINDS.get(first.text.upper())
    if kind is None:
        near = did_you_mean(first.text.upper(), _KINDS)
        known = f"{', '.join(_KINDS)}, or a column's name alone"
        raise reader.error(first, f"COLUMN does not know {first.text}{near}; it knows {known}")
    reader.take()
    name = unquoted(reader.name("a column", f"{first.text}(").text, database)
    size = 0
    if reader.is_mark(","):
        reader.take()
        size = _size(reader, first)
    reader.expect(")", f"{first.text}({name}")
    if kind == NUMBER:
        if size > 1:
            raise reader.error(first, f"{first.text}({name}, {size}): a column of a table holds one number, not {size}")
        return name, ColumnWish(kind)
    if not size:
        raise reader.error(first, f"{first.text}({name}): say how many, as in {first.text}({name}, 100)")
    return name, ColumnWish(kind, size)


def _size(reader: Reader, function: Token) -> int:
    token = reader.peek()
    if not re.fullmatch("[1-9][0-9]{0,8}", token.text):
        raise reader.unexpected(["a whole number, 1 or more"], f"{function.text}(…,")
    return int(reader.take().text)
