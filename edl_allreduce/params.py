"""Parses `hidden_units=[10, 100], learning_rate=0.01`, so that shells and SQL can pass Python values as one string."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from typing import Any

from edl_allreduce.errors import UsageError


def parse_params(text: str, flag: str = "params") -> dict[str, Any]:
    """The values of a `name=value, name=value` string; each value is a Python literal and nothing else.

    Raises:
        UsageError: the string is not of that form; the text shows where.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python finds odd in a literal is no news to this user
            call = ast.parse(f"_({text}\n)", mode="eval").body
    except SyntaxError as error:
        ours = (error.lineno or 1) > text.count("\n") + 1  # Python stumbled over the last bracket
        if ours and "does not match" in error.msg:
            raise _unreadable(flag, text, "a bracket is not closed") from None
        column = max(0, (error.offset or 3) - 3)
        raise _unreadable(flag, text, f"{error.msg} near {text[column : column + 20]!r}") from None
    except (ValueError, RecursionError, MemoryError):  # a null byte before Python 3.12; nested too deeply
        raise _unreadable(flag, text, "this cannot be read") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise _unreadable(flag, text, "every value needs a name in front")
    values: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise _unreadable(flag, text, "every value needs a name in front")
        if keyword.arg in values:
            raise _unreadable(flag, text, f"{keyword.arg} is given twice")
        values[keyword.arg] = _literal(keyword, flag, text)
    return values


def format_params(values: Mapping[str, Any]) -> str:
    """The string that `parse_params` turns into `values` again."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _literal(keyword: ast.keyword, flag: str, text: str) -> Any:
    try:
        return ast.literal_eval(keyword.value)
    except (ValueError, TypeError, RecursionError, MemoryError):
        source = ast.unparse(keyword.value)
        hint = f"; write {keyword.arg}={source!r} for a string" if isinstance(keyword.value, ast.Name) else ""
        raise _unreadable(flag, text, f"{source} is not a plain value{hint}") from None


def _unreadable(flag: str, text: str, problem: str) -> UsageError:
    return UsageError(
        f"--{flag}: {problem}; got {text!r}, expected name=value pairs such as "
        '"hidden_units=[10, 100], learning_rate=0.01"'
    )
