"""Cuts the clauses that are ours (TRAIN … INTO …) into tokens that know their place, and shows that place in errors.

The rest of a statement is the database's own language; see `split`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from edl_allreduce.errors import UsageError

_TOKEN = re.compile(
    r"""(?P<space> \s+ | (?:--|\#)[^\n]* | /\*.*?\*/ )
      | (?P<string> '(?:[^']|'')*' | "(?:[^"]|"")*" )
      | (?P<quoted> `(?:[^`]|``)*` )
      | (?P<number> (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w) )
      | (?P<name> [^\W\d]\w* )
      | (?P<mark> [][(){},=.;:+-] )""",
    re.VERBOSE | re.DOTALL,
)
_SHOWN = 100  # characters of a line in an error
_OPENING = {"'": "this string is not closed", '"': "this quote is not closed", "`": "this quote is not closed"}


@dataclass(frozen=True)
class Token:
    """A piece of a clause.

    Attributes:
        kind: string, quoted, number, name or mark; end: there is nothing more.
        text: as it was written.
        start, end: its place in the whole text.
    """

    kind: str
    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """A string or quoted name without its quotes, which are doubled inside; anything else as it was written."""
        if self.kind not in ("string", "quoted"):
            return self.text
        return self.text[1:-1].replace(self.text[0] * 2, self.text[0])

    def is_mark(self, mark: str) -> bool:
        """Whether this is a certain mark."""
        return self.kind == "mark" and self.text == mark

    def is_word(self, *words: str) -> bool:
        """Whether this is one of some keywords, in small letters or capitals."""
        return self.kind == "name" and self.text.upper() in words


class Lexer:
    """The tokens of a text, one after the other, from a certain place on.

    Raises:
        UsageError: at a character that begins no token.
    """

    def __init__(self, text: str, place: int) -> None:
        self.text = text
        self._next = self._read(place)

    def peek(self) -> Token:
        """The next token."""
        if isinstance(self._next, UsageError):
            raise self._next
        return self._next

    def take(self) -> Token:
        """The next token, which is then behind us."""
        token = self.peek()
        if token.kind != "end":
            self._next = self._read(token.end)
        return token

    def _read(self, place: int) -> Token | UsageError:
        """The token at a place. What is wrong there is wrong only for who needs that token."""
        while place < len(self.text):
            found = _TOKEN.match(self.text, place)
            if found is None:
                character = self.text[place]
                known = "this comment is not closed" if self.text.startswith("/*", place) else _OPENING.get(character)
                return error_at(self.text, place, known or f"{character!r} means nothing here")
            if found.lastgroup and found.lastgroup != "space":
                return Token(found.lastgroup, found[0], place, found.end())
            place = found.end()
        return Token("end", "", place, place)


def error_at(text: str, place: int, problem: str) -> UsageError:
    """The error for a place in a text: its line and column (from 1), what is wrong, and the line with a caret."""
    before = text[:place]
    line, column = before.count("\n") + 1, place - (before.rfind("\n") + 1)
    whole = text[place - column :].partition("\n")[0].rstrip("\r")
    first = max(0, column - _SHOWN // 2) if len(whole) > _SHOWN else 0
    shown, inside = whole[first : first + _SHOWN], column - first
    blank = "".join("\t" if each == "\t" else " " * _width(each) for each in shown[:inside])
    return UsageError(f"line {line}, column {column + 1}: {problem}\n  {shown}\n  {blank}^")


def _width(character: str) -> int:
    """How many cells of a terminal a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
