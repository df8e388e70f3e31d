"""The commands of `edl`: for each its function, flags and help, so that the command line is one table."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edl_allreduce import __version__
from edl_allreduce.errors import UsageError
from edl_allreduce.flags import Flag
from launcher.commands.help import VARIABLE, function_help, is_boolean, is_word, job_help, parameters_of
from launcher.settings import flags_for


@dataclass(frozen=True)
class Command:
    """One command of `edl`.

    Attributes:
        summary: one line for the overview.
        load: gives the function to call, all of its arguments strings; returns an exit code, or nothing for 0.
        raw: whether its words are passed on as they are, `--help` included.
        settings: gives its flags, where they are settings and not parameters of a function.
        optional: whether its words may be left out.
        short: the flags that a single letter stands for.
    """

    summary: str
    load: Callable[[], Callable[..., int | None]]
    raw: bool = False
    settings: Callable[[], Sequence[Flag]] | None = None
    optional: bool = False
    short: Mapping[str, str] = field(default_factory=dict)

    def flags(self) -> dict[str, bool]:
        """The command's flags; whether each is a boolean."""
        if self.settings:
            return {each.name: each.type is bool for each in self.settings()}
        return {each.name: is_boolean(each) for each in parameters_of(self.load()) if each.kind not in VARIABLE}

    def takes_words(self) -> bool:
        """Whether words that are not flags may follow."""
        return any(is_word(each) for each in parameters_of(self.load()))

    def help(self, name: str, width: int) -> str:
        """The text of `edl NAME --help`."""
        return job_help(name, self.settings(), width) if self.settings else function_help(name, self.load(), width)


def _job(kind: str, summary: str) -> Command:
    def start(**flags: str) -> int:
        from launcher.run import run

        run(flags, sys.stdout, leave=True, kind=kind)
        return 0

    return Command(summary, lambda: start, settings=lambda: flags_for(kind))


def _sql_settings() -> Sequence[Flag]:
    from launcher.sqlflow.settings import sql_flags

    return sql_flags()


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


FOLLOW = {"f": "follow"}
DATA, JOBS, ZOO = "launcher.commands.data", "launcher.commands.jobs", "launcher.commands.zoo"
IMAGE, SQL, MODELS = "launcher.commands.images", "launcher.commands.sql", "launcher.commands.models"
COMMANDS: Mapping[str, Command | Mapping[str, Command]] = {
    "train": _job("train", "train a model with any number of workers, here or on Kubernetes"),
    "evaluate": _job("evaluate", "tell loss and metrics of a trained model on other data"),
    "predict": _job("predict", "write the predictions of a trained model"),
    "sql": Command(
        "run SQL statements that train, evaluate and predict: SELECT … TRAIN … INTO …",
        _from(SQL, "sql"),
        settings=_sql_settings,
        optional=True,
    ),
    "models": {
        "list": Command("list the models that SQL statements have made", _from(MODELS, "models_list")),
        "show": Command("tell all about one of them", _from(MODELS, "models_show")),
        "delete": Command("delete one of them", _from(MODELS, "models_delete")),
    },
    "jobs": Command("list all jobs, the newest first", _from(JOBS, "jobs")),
    "status": Command("tell all about a job on one screen", _from(JOBS, "status")),
    "logs": Command("print a log of a job", _from(JOBS, "logs"), short=FOLLOW),
    "events": Command("tell what has happened to a job", _from(JOBS, "events"), short=FOLLOW),
    "scale": Command("change how many workers a running job keeps alive", _from(JOBS, "scale")),
    "stop": Command("end a running job; it saves a checkpoint", _from(JOBS, "stop")),
    "wait": Command("wait for a job's end; the exit code is the job's", _from(JOBS, "wait")),
    "dashboard": Command(
        "open the page of a job, or of recorded runs, in the browser", _from("launcher.commands.dashboard", "dashboard")
    ),
    "recordio": {
        "info": Command("say what RecordIO files hold: chunks, records, sizes", _from(DATA, "recordio_info")),
        "cat": Command("print the records of RecordIO files", _from(DATA, "recordio_cat")),
        "verify": Command("check every byte of RecordIO files", _from(DATA, "recordio_verify")),
    },
    "convert": Command(
        "turn CSV, .npz, Parquet, TFRecord files or a SQL query into RecordIO files", _from(DATA, "convert")
    ),
    "export": Command("write a trained model for Keras, TensorFlow Serving and their like", _from(ZOO, "export")),
    "zoo": {
        "list": Command("tell which models come with edl_allreduce", _from(ZOO, "zoo_list")),
        "init": Command("make a folder with a first model of your own", _from(ZOO, "zoo_init")),
    },
    "image": {
        "build": Command("build and push the image with a model zoo, for pods", _from(IMAGE, "image_build")),
        "push": Command("push an image that was built", _from(IMAGE, "image_push")),
        "base": Command("build the image that all others begin with", _from(IMAGE, "image_base")),
    },
    "horovod": Command("build, install or check Horovod", lambda: horovod, raw=True),
    "version": Command("print the version", lambda: version),
}


SECTIONS: Mapping[str, Sequence[str]] = {
    "Training": ("train", "evaluate", "predict", "sql"),
    "Jobs": ("jobs", "status", "logs", "events", "scale", "stop", "wait", "dashboard"),
    "Models and data": ("models", "zoo", "export", "convert", "recordio"),
    "Images and installation": ("image", "horovod", "version"),
}


def sections() -> dict[str, dict[str, str]]:
    """Of each section of the overview, one line per command."""
    return {title: summaries({name: COMMANDS[name] for name in names}) for title, names in SECTIONS.items()}


def summaries(commands: Mapping[str, Command | Mapping[str, Command]], path: str = "") -> dict[str, str]:
    """One line per command, those of groups included."""
    told: dict[str, str] = {}
    for name, command in commands.items():
        if isinstance(command, Command):
            told[f"{path}{name}"] = command.summary
        else:
            told |= summaries(command, f"{path}{name} ")
    return told


def check_call(name: str, function: Callable[..., Any], normal: Sequence[str], optional: bool = False) -> None:
    """Refuses words (as `normalise` gives them) that are too few or too many for a command.

    Args:
        optional: whether all of them may be left out.

    Raises:
        UsageError: names what is missing, or what is too much.
    """
    given = {word[2:].partition("=")[0] for word in normal if word.startswith("--")}
    words = [word for word in normal if not word.startswith("--")]
    parameters = [each for each in parameters_of(function) if each.name not in given]
    wanted = [each for each in parameters if is_word(each) and each.kind not in VARIABLE]
    many = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    explained = f"edl {name} --help explains it"
    for each in wanted[len(words) :]:
        raise UsageError(f"edl {name}: {each.name.upper()} is missing; {explained}")
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty:
            raise UsageError(f"--{each.name}: required and not given; {explained}")
    if many and not words and not optional:
        raise UsageError(f"edl {name}: a file is missing; {explained}")
    if not many and len(words) > len(wanted):
        raise UsageError(f"edl {name}: {words[len(wanted)]!r} is too much; {explained}")
