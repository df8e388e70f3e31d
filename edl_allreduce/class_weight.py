"""Parses `{0: 1.0, 1: 5.0}`, how much the records of each class count."""

from __future__ import annotations

import ast
import math
from typing import Any

from edl_allreduce.errors import UsageError

MAX_CLASS = 10_000_000  # a table of all classes up to the highest one is made


def parse_class_weight(text: str, flag: str = "class_weight") -> dict[int, float]:
    """The weights by class; "" means none.

    Raises:
        UsageError: the text is no dict of class numbers and weights.
    """
    try:
        weights = ast.literal_eval(text.strip()) if text.strip() else {}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        weights = None
    if not isinstance(weights, dict) or not all(_is_class(key) and _is_weight(value) for key, value in weights.items()):
        raise UsageError(f"--{flag}: expected class numbers and weights such as {{0: 1.0, 1: 5.0}}, got {text!r}")
    return {key: float(value) for key, value in weights.items()}


def _is_class(key: Any) -> bool:
    return isinstance(key, int) and not isinstance(key, bool) and 0 <= key <= MAX_CLASS


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
