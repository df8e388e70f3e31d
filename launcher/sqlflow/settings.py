"""The flags of `edl sql`: its own, and those of the jobs that its statements become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edl_allreduce import flags
from edl_allreduce.errors import UsageError, did_you_mean
from edl_allreduce.flags import Flag, flag, flags_of
from launcher.settings import flags_for


@dataclass(frozen=True)
class SqlSpec:
    """Statement."""

    database: str = flag(
        "URL of the database, an SQLite file, or @FILE with the URL in it (default: $EDL_DATABASE, else "
        "sqlite:///edl.db); leave passwords out, or in the variable or the file",
        "",
        metavar="URL",
    )
    file: str = flag("file with the statements, instead of STATEMENT", "", metavar="FILE")
    models: str = flag(
        "folder or URL of the named models (default: $EDL_MODELS, else EDL_HOME/models)", "", metavar="FOLDER"
    )
    model_zoo: str = flag(
        "folder with the models' Python files (default: those that come with edl_allreduce)", "", metavar="FOLDER"
    )
    data_folder: str = flag(
        "folder or URL for the rows as records, while they are needed (default: beside the model)",
        "",
        metavar="FOLDER",
    )
    keep_data: bool = flag("keep the rows as records afterwards", False)
    probabilities: bool = flag("PREDICT by a classifier writes the probability of each class, too", False)
    print_submitter: bool = flag("print a Python program that does the same, and do nothing", False)

    def __post_init__(self) -> None:
        if self.data_folder and self.data_folder == self.models:
            raise UsageError("--data_folder: expected another folder than --models")


# What the statement says, or what follows from it.
_BY_STATEMENT = {
    "train": {"model_zoo", "model_def", "params", "data", "data_format", "validation_data", "output"},
    "predict": {"trained_model", "data", "data_format", "output", "output_format", "overwrite"},
    "evaluate": {"trained_model", "data", "data_format", "output"},
}
_OF_ALL_STATEMENTS = {"dry_run", "wait", "quiet"}


def job_flags(kind: str) -> tuple[Flag, ...]:
    """The flags of a kind of job (train, evaluate, predict) that its statement does not decide."""
    return tuple(each for each in flags_for(kind) if each.name not in _BY_STATEMENT[kind])


def sql_flags() -> tuple[Flag, ...]:
    """All flags of `edl sql`, in the order of the help; evaluations and predictions have none that trainings lack."""
    return (*flags_of(SqlSpec), *job_flags("train"))


@dataclass(frozen=True)
class SqlSettings:
    """What is asked for beside the statements.

    Attributes:
        spec: the flags of `edl sql` itself.
        given: those of jobs, as they were given.
    """

    spec: SqlSpec
    given: Mapping[str, Any]

    def boolean(self, name: str) -> bool:
        """The value of a flag of all statements."""
        [known] = [each for each in sql_flags() if each.name == name]
        return bool(known.parse(self.given[name]) if name in self.given else known.default)

    def for_job(self, kind: str, stated: Mapping[str, Any]) -> dict[str, str]:
        """The flags of one job, as strings: those given as far as they mean something to it, then the statement's own.

        Args:
            stated: in the statement's WITH.

        Raises:
            UsageError: the statement has one that does not exist, or that it says in other words.
        """
        names = {each.name for each in job_flags(kind)}
        for name in stated:
            if name not in names - _OF_ALL_STATEMENTS:
                own = name in _BY_STATEMENT[kind] | _OF_ALL_STATEMENTS
                why = "is not for WITH" if own else f"there is no such flag{did_you_mean(name, names)}"
                raise UsageError(f"{kind}.{name}: {why}; edl {kind} --help lists what can be set")
        mine = {name: value for name, value in self.given.items() if name in names - {"dry_run"}}
        return {name: str(value) for name, value in (mine | dict(stated)).items()}

    def check_used(self, kinds: Iterable[str]) -> None:
        """Raises UsageError when a flag means nothing to any of the statements."""
        known = {each.name for kind in kinds for each in job_flags(kind)} | _OF_ALL_STATEMENTS
        for name in self.given:
            if name not in known:
                told = " and ".join(sorted(set(kinds))).upper()
                raise UsageError(f"--{name}: means nothing to {told}; leave it out")


def read_settings(values: Mapping[str, Any]) -> SqlSettings:
    """The flags of `edl sql`, each typed or a string.

    Raises:
        UsageError: one is unknown or wrong.
    """
    known = {each.name for each in sql_flags()}
    for name in values:
        if name in set().union(*_BY_STATEMENT.values()) - known:
            raise UsageError(f"--{name}: follows from the statement; leave it out")
        flags.reject_unknown(name, known)
    own = {each.name for each in flags_of(SqlSpec)}
    spec = flags.parse({"sql": SqlSpec}, {name: value for name, value in values.items() if name in own})["sql"]
    return SqlSettings(spec, {name: value for name, value in values.items() if name not in own})
