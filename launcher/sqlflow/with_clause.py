"""Reads what stands behind WITH: plain values, which nobody evaluates, each for what its name's prefix says."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any

from edl_allreduce.errors import did_you_mean
from launcher.sqlflow.lexer import Token
from launcher.sqlflow.reader import CLAUSES, Reader, short

SELECT = "validation.select"
# Of each verb, what may stand before a dot; a name without a dot is one of the first.
PREFIXES = {"TRAIN": ("model", "train"), "PREDICT": ("predict",), "EVALUATE": ("evaluate",)}
_CONSTANTS = {"TRUE": "True", "FALSE": "False", "NULL": "None", "NONE": "None"}
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class With:
    """What stands in WITH.

    Attributes:
        params: arguments of the model.
        settings: flags of the job.
        validation: a SELECT; empty: none.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation: str = ""


def read_with(reader: Reader, verb: str) -> With:
    """Reads `name=value, …`, up to what is no part of it.

    Raises:
        UsageError: a name means nothing or is given twice, or a value is no plain one.
    """
    found: dict[str, dict[str, Any]] = {"": {}, **{prefix: {} for prefix in PREFIXES[verb]}}
    while True:
        first = reader.peek()
        prefix, name = _key(reader, verb)
        key = reader.text[first.start : reader.peek().start].rstrip()
        reader.expect("=", key)
        if name in found[prefix]:
            raise reader.error(first, f"{key} is given twice")
        found[prefix][name] = _value(reader, key)
        if name == SELECT and not isinstance(found[prefix][name], str):
            raise reader.error(first, f"{SELECT}: expected a SELECT as a string")
        if not reader.is_mark(","):
            break
        reader.take()
    settings = found[PREFIXES[verb][-1]]
    return With(found.get("model", {}), settings, found[""].get(SELECT, ""))


def _key(reader: Reader, verb: str) -> tuple[str, str]:
    """What a name is for, and the name. `validation.select` is whole."""
    first, prefixes = reader.peek(), PREFIXES[verb]
    words = [token.value for token in reader.names("a name, as in hidden_units=[10, 100]", "WITH")]
    key = ".".join(words)
    if not words[-1].isidentifier() or iskeyword(words[-1]):
        raise reader.error(first, f"{short(key)} is no name of an argument")
    if verb == "TRAIN" and key == SELECT:
        return "", SELECT
    if len(words) == 1:
        return prefixes[0], key
    if len(words) == 2 and words[0] in prefixes:
        return words[0], words[1]
    known = [*(f"{prefix}.NAME" for prefix in prefixes), *([SELECT] if verb == "TRAIN" else [])]
    near = did_you_mean(words[0], prefixes) or did_you_mean(key, known)
    raise reader.error(first, f"{short(key)} means nothing in WITH{near}; expected {' or '.join(known)}")


def _value(reader: Reader, key: str) -> Any:
    """The value up to the next comma or clause, if it is a plain one."""
    first, depth = reader.peek(), 0
    tokens: list[Token] = []
    while not reader.at_end:
        token = reader.peek()
        if depth == 0 and (token.is_mark(",") or token.is_word(*CLAUSES)):
            break
        if token.kind == "mark":
            depth += (token.text in _OPEN) - (token.text in _CLOSE)
        tokens.append(reader.take())
    if not tokens:
        raise reader.unexpected(["a value"], f"{key}=")
    if depth > 0:
        raise reader.error(first, f"{key}: a bracket is not closed")
    try:
        return ast.literal_eval(_python(tokens))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        written = short(reader.text[first.start : tokens[-1].end])
    bare = len(tokens) == 1 and first.kind == "name"
    hint = f"; write {key}='{written}' for a string" if bare else ", such as 0.01, 'text' or [10, 100]"
    raise reader.error(first, f"{key}: {written} is not a plain value{hint}")


def _python(tokens: Sequence[Token]) -> str:
    """A value as Python writes it; two strings in a row are not one."""
    words = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.kind == "string":
            words += ["", repr(token.value)] if before is None or before.kind != "string" else ["?", ""]
        else:
            words.append(_CONSTANTS.get(token.text.upper(), token.text) if token.kind == "name" else token.text)
    return " ".join(filter(None, words))
