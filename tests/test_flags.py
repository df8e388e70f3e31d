"""Settings groups: strings and typed values are read the same way, and every mistake is named with what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edl_allreduce.errors import UsageError
from edl_allreduce.flags import flag, flags_of, from_json, parse


@dataclass(frozen=True)
class Things:
    """Some things."""

    path: str = flag("a path", check="not empty", metavar="PATH")
    count: int = flag("how many", 1, check="positive")
    ratio: float = flag("seconds", 0.5, check="not negative")
    limit: int | None = flag("at most so many", None, check="positive", advanced=True)
    shiny: bool = flag("make it shine", True)


GROUPS: dict[str, type] = {"things": Things}


def read(**values: Any) -> Things:
    made: Things = parse(GROUPS, {"path": "x"} | values)["things"]
    return made


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("count", "3", 3),
        ("count", 3, 3),
        ("count", 3.0, 3),
        ("count", np.int64(3), 3),
        ("ratio", "2", 2.0),
        ("ratio", 2, 2.0),
        ("ratio", "1e-3", 0.001),
        ("ratio", np.float32(0.5), 0.5),
        ("limit", "", None),
        ("limit", "none", None),
        ("limit", None, None),
        ("limit", "7", 7),
        ("shiny", "no", False),
        ("shiny", "FALSE", False),
        ("shiny", "0", False),
        ("shiny", "Yes", True),
        ("shiny", False, False),
        ("path", "[1, 2]", "[1, 2]"),
        ("path", "007", "007"),
        ("path", "None", "None"),
        ("path", Path("a/b"), "a/b"),
    ],
)
def test_typed_values_and_strings_are_read_alike(name: str, given: Any, expected: Any) -> None:
    value = getattr(read(**{name: given}), name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "many"}, "--count: expected a whole number, greater than 0, got 'many'"),
        ({"count": 0}, "--count: expected a whole number, greater than 0, got 0"),
        ({"count": "9" * 20}, f"--count: expected a whole number up to 4,294,967,295, got {'9' * 20!r}"),
        ({"count": 2.5}, "--count: expected a whole number, greater than 0, got 2.5"),
        ({"count": True}, "--count: expected a whole number, greater than 0, got True"),
        ({"count": None}, "--count: expected a whole number, greater than 0, got nothing"),
        ({"count": "1" * 5000}, "--count: expected a whole number, greater than 0, got '1"),
        ({"ratio": "nan"}, "--ratio: expected a number, 0 or more, got 'nan'"),
        ({"ratio": float("inf")}, "--ratio: expected a number, 0 or more, got inf"),
        ({"ratio": "-0.1"}, "--ratio: expected a number, 0 or more, got '-0.1'"),
        ({"shiny": "maybe"}, "--shiny: expected true or false, got 'maybe'"),
        ({"shiny": 1}, "--shiny: expected true or false, got 1"),
        ({"path": ["a"]}, "--path: expected a string, not empty, got ['a']"),
        ({"path": ""}, "--path: required and not given; --help explains it"),
        ({"cuont": 3}, "--cuont: there is no such flag (did you mean 'count'?); --help lists them all"),
        ({"xyzzy": 3}, "--xyzzy: there is no such flag; --help lists them all"),
    ],
)
def test_a_mistake_is_named_with_what_was_received(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(**values)
    assert str(caught.value).startswith(message)


def test_flags_know_what_help_and_signature_need() -> None:
    flags = {each.name: each for each in flags_of(Things)}
    assert list(flags) == ["path", "count", "ratio", "limit", "shiny"]
    assert flags["path"].required and not flags["count"].required
    assert (flags["limit"].type, flags["limit"].optional, flags["limit"].advanced) == (int, True, True)
    assert {each.group for each in flags.values()} == {"Some things"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"path": "x", "cuont": 1}, "job: there is no field 'cuont' (did you mean 'count'?)"),
        ({"count": 1}, "job: the field 'path' is missing"),
        ([1], r"job: expected an object, got \[1\]"),
        ({"path": "x", "count": "many"}, "--count: expected a whole number"),
    ],
)
def test_a_document_with_other_fields_is_refused(document: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        from_json(Things, document, "job")
