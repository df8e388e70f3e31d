"""Finds where a statement's SELECT ends and our clause begins, by the tokens of the database's own dialect.

A word in a string, a comment or a quoted name is none of ours, and neither is a table or a column called train: our
clause begins outside all brackets, with TO before TRAIN, PREDICT or EVALUATE, or with what must follow the first two.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edl_allreduce.errors import UsageError
from edl_allreduce.extras import need
from launcher.sqlflow.lexer import Lexer, error_at

# SQLAlchemy's name of a database → sqlglot's of its dialect; others have the same name in both.
_DIALECTS = {"postgresql": "postgres", "cockroachdb": "postgres", "mariadb": "mysql", "mssql": "tsql"}
_VERBS = ("TRAIN", "PREDICT", "EVALUATE")
_VERB = re.compile(rf"\b(?:{'|'.join(_VERBS)})\b", re.IGNORECASE)
_FOLLOWS = {"TRAIN": ("WITH", "COLUMN", "LABEL", "INTO"), "PREDICT": ("WITH", "USING"), "EVALUATE": ()}
# After one of these stands the name of a table or a column.
_BEFORE_NAMES = frozenset(("SELECT", "COMMA", "DOT", "FROM", "JOIN", "ALIAS", "WHERE", "AND", "OR", "NOT", "ON"))
_DEPTH = {"L_PAREN": 1, "R_PAREN": -1, "L_BRACKET": 1, "R_BRACKET": -1, "L_BRACE": 1, "R_BRACE": -1}
_QUERIES = ("SELECT", "WITH", "VALUES", "TABLE", "FROM", "(")
_OPENING = re.compile(r"""['"`\[$]|/\*""")
_MOST_TRIES = 50  # to find what is not closed


@dataclass(frozen=True)
class Split:
    """One statement, cut in two.

    Attributes:
        start: where it begins in the whole text.
        select: the query, as it was written.
        verb: where the word TRAIN, PREDICT or EVALUATE stands.
        with_to: whether TO stands before it.
    """

    start: int
    select: str
    verb: int
    with_to: bool


class Dialect:
    """How a database's own language is cut into tokens.

    Args:
        name: as SQLAlchemy calls the database, such as postgresql; of one that sqlglot does not know, standard SQL.
    """

    def __init__(self, name: str) -> None:
        sqlglot = need("sqlglot", "sql", "an SQL statement")
        known = _DIALECTS.get(name, name)
        self._glot: Any = sqlglot.Dialect.get_or_raise(known if sqlglot.Dialect.get(known) else None)
        self._error: type[Exception] = sqlglot.errors.SqlglotError

    def tokens(self, text: str) -> list[Any] | None:
        """The tokens; None when the text ends inside a string, a quoted name or a comment."""
        try:
            return list(self._glot.tokenize(text))
        except self._error:
            return None

    def tree(self, text: str) -> Any | None:
        """The query as sqlglot's expression; None when it cannot be read."""
        try:
            return self._glot.parse(text)[0]
        except self._error:
            return None


def split(text: str, start: int, dialect: Dialect) -> Split | None:
    """The first statement from `start` on; None: there is none any more.

    Raises:
        UsageError: it is none of ours, or something in it is not closed.
    """
    rest = dialect.tokens(text[start:])
    if rest is not None and all(_is(each, "SEMICOLON") for each in rest):
        return None
    probable = None
    for verb, before in _verbs(text, start, dialect):
        if _with_to(before) or _is_followed(text, verb):
            return _cut(text, start, verb, before)
        if before and before[-1].token_type.name not in _BEFORE_NAMES:
            probable = _cut(text, start, verb, before)
    if probable is None:
        raise _no_clause(text, start, rest, dialect)
    return probable


def _verbs(text: str, start: int, dialect: Dialect) -> Iterator[tuple[int, list[Any]]]:
    """Each of our verbs that is a word of its own outside brackets, and the tokens before it in the same statement."""
    for word in _VERB.finditer(text, start):
        tokens = dialect.tokens(text[start : word.end()])
        if not tokens or tokens[-1].start != word.start() - start or _is(tokens[-1], "IDENTIFIER"):
            continue
        before = _without_leading_semicolons(tokens[:-1])
        depth = 0
        for each in before:
            depth += _DEPTH.get(each.token_type.name, 0)
            if depth <= 0 and _is(each, "SEMICOLON"):
                return
        if depth <= 0:
            yield word.start(), before


def _cut(text: str, start: int, verb: int, before: Sequence[Any]) -> Split:
    with_to = _with_to(before)
    query = before[:-1] if with_to else before
    if not query:
        raise error_at(text, verb, f"expected a SELECT before {_VERB.match(text, verb)[0]}")  # type: ignore[index]
    begin, end = start + query[0].start, start + before[-1].start if with_to else verb
    if query[0].text.upper() not in _QUERIES:
        raise error_at(text, begin, f"expected a SELECT, got {query[0].text!r}")
    return Split(begin, text[begin:end].rstrip(), verb, with_to)


def _with_to(before: Sequence[Any]) -> bool:
    return bool(before) and before[-1].text.upper() == "TO" and not _is(before[-1], "IDENTIFIER")


def _is_followed(text: str, verb: int) -> bool:
    """Whether what follows a verb is what must follow it: a name, and one of certain words."""
    lexer = Lexer(text, verb)
    try:
        wanted = _FOLLOWS[lexer.take().text.upper()]
        if lexer.take().kind not in ("name", "quoted", "string"):
            return False
        while lexer.peek().is_mark("."):
            lexer.take()
            lexer.take()
        return lexer.peek().is_word(*wanted)
    except UsageError:
        return False


def _no_clause(text: str, start: int, rest: Sequence[Any] | None, dialect: Dialect) -> UsageError:
    """Why there is no clause of ours."""
    if rest is None:
        return error_at(text, _not_closed(text, start, dialect), "this quote, bracket or comment is not closed")
    statement = _without_leading_semicolons(rest)
    end = next((each for each in statement if _is(each, "SEMICOLON")), None)
    for each in statement[: statement.index(end) if end else None]:
        near = difflib.get_close_matches(each.text.upper(), _VERBS, n=1, cutoff=0.8)
        if near and not _is(each, "STRING"):
            return error_at(text, start + each.start, f"there is no {each.text!r} (did you mean {near[0]}?)")
    place = start + (end.start if end else statement[-1].end + 1)
    return error_at(text, place, "expected TRAIN, PREDICT or TO EVALUATE; the database's own client runs anything else")


def _not_closed(text: str, start: int, dialect: Dialect) -> int:
    """Where that begins which is not closed."""
    openings = [each.start() for each in _OPENING.finditer(text, start)]
    for place in reversed(openings[-_MOST_TRIES:]):
        if dialect.tokens(text[start:place]) is not None:
            return place
    return start


def _without_leading_semicolons(tokens: Sequence[Any]) -> list[Any]:
    first = next((place for place, each in enumerate(tokens) if not _is(each, "SEMICOLON")), len(tokens))
    return list(tokens[first:])


def _is(token: Any, kind: str) -> bool:
    return bool(token.token_type.name == kind)
