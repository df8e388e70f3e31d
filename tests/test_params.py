"""Params are read as plain values and nothing else, and what cannot be read is said in one line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edl_allreduce.errors import UsageError
from edl_allreduce.params import format_params, parse_params

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True).map(lambda name: f"x{name}")
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("  \n", {}),
        (
            "hidden_units=[10, 100, 20, 5], learning_rate=0.01",
            {"hidden_units": [10, 100, 20, 5], "learning_rate": 0.01},
        ),
        ("a=1,", {"a": 1}),
        ("name='a, b=c', flag=True, nothing=None", {"name": "a, b=c", "flag": True, "nothing": None}),
        ("a=-1, b=(1, 2), c={'x': 1}", {"a": -1, "b": (1, 2), "c": {"x": 1}}),
        ("a=1  # a remark", {"a": 1}),
    ],
)
def test_values_are_python_literals(text: str, values: dict[str, object]) -> None:
    assert parse_params(text) == values


@settings(deadline=None)  # a busy machine is no fault of the parser
@given(st.dictionaries(NAMES, PLAIN, max_size=4))
def test_what_is_formatted_is_read_back(values: dict[str, object]) -> None:
    assert parse_params(format_params(values)) == values


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a", "every value needs a name"),
        ("*x", "every value needs a name"),
        ("**x", "every value needs a name"),
        ("a==1", "every value needs a name"),
        ("a=1, a=2", "a is given twice"),
        ("a=", "near 'a='"),
        ("a=1 b=2", "near '1 b=2'"),
        ("a=[1", "a bracket is not closed"),
        ("a=adam", "write a='adam' for a string"),
        ("a=__import__('os').system('true')", "is not a plain value"),
        ("a=[1]*1000000000", "is not a plain value"),
        ("a=f'{1}'", "is not a plain value"),
        ("a=1)(b=2", "every value needs a name"),
        ("a=1), print(b=2", "every value needs a name"),
        ("a=1\0", "a=1"),
        ("a=" + "-" * 20_000 + "1", ""),
        ("a=" + "[" * 20_000, ""),
        ("a=" + "1" * 5_000, ""),
    ],
)
def test_everything_else_is_refused_with_what_was_received(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_params(text)
    assert (
        str(caught.value).startswith("--params: ")
        and problem in str(caught.value)
        and "expected name=value" in str(caught.value)
    )
    assert "\n" not in str(caught.value)


def test_the_flag_is_named() -> None:
    with pytest.raises(UsageError, match=r"^--eval_params: "):
        parse_params("a=b", "eval_params")
