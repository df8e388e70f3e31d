"""Reads names from a clause, and says what was expected where something else stands."""

from __future__ import annotations

from collections.abc import Collection

from edl_allreduce.errors import UsageError, did_you_mean
from launcher.sqlflow.lexer import Lexer, Token, error_at

CLAUSES = ("WITH", "COLUMN", "LABEL", "INTO", "USING")
END = "the end of the statement"
_SHOWN = 40  # characters of a word in an error


class Reader(Lexer):
    """A lexer that knows names."""

    @property
    def at_end(self) -> bool:
        """Whether the statement ends here."""
        token = self.peek()
        return token.kind == "end" or token.is_mark(";")

    def is_mark(self, mark: str) -> bool:
        """Whether this mark is next."""
        return self.peek().is_mark(mark)

    def name(self, what: str, after: str) -> Token:
        """A name, perhaps in double quotes or backticks.

        Args:
            what: is expected, for an error; e.g. "a column".
            after: behind what it is expected, e.g. "LABEL".

        Raises:
            UsageError: something else is next.
        """
        token = self.peek()
        quoted = token.kind == "quoted" or (token.kind == "string" and token.text[0] == '"')
        if not token.value or not (quoted or (token.kind == "name" and not token.is_word(*CLAUSES))):
            raise self.unexpected([what], after)
        return self.take()

    def names(self, what: str, after: str) -> list[Token]:
        """Names joined by dots; see `name`."""
        found = [self.name(what, after)]
        while self.is_mark("."):
            self.take()
            found.append(self.name("a name", f"{found[-1].text}."))
        return found

    def expect(self, mark: str, after: str) -> None:
        """Takes a mark. Raises UsageError."""
        if not self.is_mark(mark):
            raise self.unexpected([repr(mark)], after)
        self.take()

    def unexpected(self, wanted: Collection[str], after: str = "") -> UsageError:
        """The error that something else is next than what is wanted."""
        token = self.peek()
        got = END if self.at_end else short(token.text)
        near = did_you_mean(token.text.upper(), wanted) if token.kind == "name" else ""
        behind = f" after {after}" if after else ""
        return self.error(token, f"expected {' or '.join(wanted)}{behind}, got {got}{near}")

    def error(self, token: Token, problem: str) -> UsageError:
        """The error for a token's place."""
        return error_at(self.text, token.start, problem)


def short(text: str) -> str:
    """A text that is not too long for an error."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
