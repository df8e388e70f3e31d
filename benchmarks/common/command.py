"""Runs a benchmark with the flags of a command line, as `edl` does: what is wrong with them is told in one line."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fire
from fire.decorators import SetParseFn

from edl_allreduce.errors import EdlError, UsageError
from launcher.commands.arguments import BOOLEAN_WORDS, TRUE_WORDS, normalise
from launcher.commands.help import function_help, is_boolean, parameters_of

KINDS: dict[type, str] = {int: "a whole number", float: "a number"}


def run(benchmark: Callable[..., None]) -> None:
    """Calls the benchmark and ends the process; SIGTERM ends it as an exception does, so that nothing is left behind.

    Every parameter has a default, which tells its type: a string, a boolean, a positive number, or a tuple of numbers.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(_run(benchmark, sys.argv[1:]))
    except EdlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(benchmark: Callable[..., None], words: Sequence[str]) -> int:
    if {"-h", "--help"} & set(words):
        name = os.path.relpath(inspect.getfile(benchmark))
        about = inspect.getdoc(sys.modules[benchmark.__module__]) or ""
        text = function_help(name, benchmark, min(120, shutil.get_terminal_size().columns))
        print(f"{about}\n\n{text.replace('usage: edl', 'usage: python', 1)}")
        return 0
    parameters = {each.name: each for each in parameters_of(benchmark)}
    flags = normalise(words, {name: is_boolean(each) for name, each in parameters.items()}, takes_words=False)

    def call(**texts: str) -> None:
        benchmark(**{name: typed(name, text, parameters[name].default) for name, text in texts.items()})

    fire.Fire(SetParseFn(str)(call), command=[*flags, "--", "--separator=\n"], name=Path(sys.argv[0]).name)
    return 0


def typed(name: str, text: str, default: Any) -> Any:
    """A flag's value, of the type that its default has.

    Raises:
        UsageError: it is not of that type, or a number that is not positive.
    """
    if isinstance(default, bool):
        if text.lower() not in BOOLEAN_WORDS:
            raise UsageError(f"--{name}: expected true or false, got {text!r}")
        return text.lower() in TRUE_WORDS
    if isinstance(default, tuple):
        return tuple(typed(name, part, default[0]) for part in text.strip("()[] ").split(","))
    kind = type(default)
    if kind not in KINDS:
        return text
    try:
        value = kind(text.strip())
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise UsageError(f"--{name}: expected {KINDS[kind]} greater than 0, got {text!r}")
    return value
