"""The commands of `edl`: for each its function, flags and help, so that the command line is one table."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edl_allreduce import __version__
from edl_allreduce.errors import UsageError
from launcher.help import function_help, train_help
from launcher.settings import TRAIN_FLAGS


@dataclass(frozen=True)
class Command:
    """One command of `edl`.

    Attributes:
        summary: one line for the overview.
        load: gives the function to call, all of its arguments strings; returns an exit code, or nothing for 0.
        raw: whether its words are passed on as they are, `--help` included.
    """

    summary: str
    load: Callable[[], Callable[..., int | None]]
    raw: bool = False

    def flags(self) -> dict[str, bool]:
        """The command's flags; whether each is a boolean."""
        if self.load is load_train:
            return {each.name: each.type is bool for each in TRAIN_FLAGS}
        parameters = inspect.signature(self.load()).parameters.values()
        return {each.name: isinstance(each.default, bool) for each in parameters if each.kind is each.KEYWORD_ONLY}

    def takes_words(self) -> bool:
        """Whether words that are not flags may follow."""
        kinds = [each.kind for each in inspect.signature(self.load()).parameters.values()]
        return any(
            kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL) for kind in kinds
        )

    def help(self, name: str, width: int) -> str:
        """The text of `edl NAME --help`."""
        return train_help(TRAIN_FLAGS, width) if self.load is load_train else function_help(name, self.load(), width)


def load_train() -> Callable[..., int | None]:
    return train


def train(**flags: str) -> int:
    """Trains a Keras model on RecordIO data with any number of workers."""
    from launcher.run import run

    run(flags, sys.stdout, leave=True)
    return 0


def version() -> None:
    """Prints the version."""
    print(f"edl_allreduce {__version__}")


def horovod(*words: str) -> int:
    """Builds, installs or checks the Horovod that workers need."""
    return subprocess.run([sys.executable, "-m", "edl_allreduce.horovod_wheel", *words], check=False).returncode


def _from(module: str, name: str) -> Callable[[], Callable[..., int | None]]:
    def load() -> Any:
        return getattr(importlib.import_module(module), name)

    return load


DATA = "launcher.data_commands"
COMMANDS: Mapping[str, Command | Mapping[str, Command]] = {
    "train": Command("train a model with any number of workers of this machine", load_train),
    "recordio": {
        "info": Command("say what RecordIO files hold: chunks, records, sizes", _from(DATA, "recordio_info")),
        "cat": Command("print the records of RecordIO files", _from(DATA, "recordio_cat")),
        "verify": Command("check every byte of RecordIO files", _from(DATA, "recordio_verify")),
    },
    "convert": Command("turn CSV or .npz files into RecordIO files of tf.Example", _from(DATA, "convert")),
    "horovod": Command("build, install or check Horovod", lambda: horovod, raw=True),
    "version": Command("print the version", lambda: version),
}


def summaries(commands: Mapping[str, Command | Mapping[str, Command]], path: str = "") -> dict[str, str]:
    """One line per command, those of groups included."""
    told: dict[str, str] = {}
    for name, command in commands.items():
        if isinstance(command, Command):
            told[f"{path}{name}"] = command.summary
        else:
            told |= summaries(command, f"{path}{name} ")
    return told


def check_call(name: str, function: Callable[..., Any], words: list[str]) -> None:
    """Refuses words that are too few or too many for a command.

    Raises:
        UsageError: names what is missing, or what is too much.
    """
    parameters = inspect.signature(function).parameters.values()
    wanted = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    many = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    needed = [each.name for each in wanted if each.default is each.empty]
    if len(words) < len(needed):
        raise UsageError(f"edl {name}: {needed[len(words)].upper()} is missing; edl {name} --help explains it")
    if many and not wanted and not words:
        raise UsageError(f"edl {name}: a file is missing; edl {name} --help explains it")
    if not many and len(words) > len(wanted):
        raise UsageError(f"edl {name}: {words[len(wanted)]!r} is too much; edl {name} --help explains what it takes")
