"""Decides what a statement becomes: where its rows go, which job runs with which flags, what is written at the end."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edl_allreduce import storage
from edl_allreduce.errors import UsageError
from edl_allreduce.params import format_params
from edl_allreduce.sql_source import shown
from launcher.commands.zoo import STOCK
from launcher.settings import KUBERNETES, read_request
from launcher.sqlflow import database_url, models
from launcher.sqlflow.settings import SqlSettings
from launcher.sqlflow.statements import Evaluate, Predict, Statement, Train

PROBABILITIES = "probabilities"  # the setting of PREDICT that is no flag of `edl predict`
INPUT_FUNCTION = "sqlflow.elasticdl_input_function"
Target = Literal["number", "class", ""]
_TARGETS: Mapping[str, Target] = {"regressor": "number", "classifier": "class"}
SCHEMA_LATER = "schema={…}"  # in a plan: known when the rows are


@dataclass(frozen=True)
class Plan:
    """One statement as it is to be carried out.

    Attributes:
        kind: of the job: train, predict or evaluate.
        database: its URL as it may be shown.
        models: the folder of the named models.
        place: the folder of the one that is made or used.
        rows: the folder for the SELECT's rows, and what else is needed for a while.
        target: what the label is: a number, a class, or what its values suggest.
        flags: of the job, as strings, but for those that follow from the rows.
        keep_data, probabilities: as in `SqlSpec`.
    """

    statement: Statement
    kind: str
    database: str
    models: str
    place: str
    rows: str
    target: Target
    flags: Mapping[str, str]
    keep_data: bool = False
    probabilities: bool = False

    @property
    def validation(self) -> str:
        """The folder for the rows of validation.select; empty: there is none."""
        wanted = isinstance(self.statement, Train) and self.statement.validation
        return storage.join(self.rows, "validation") if wanted else ""

    @property
    def predictions(self) -> str:
        """The folder for what is predicted; empty: nothing is."""
        return storage.join(self.rows, "predictions") if isinstance(self.statement, Predict) else ""

    def __str__(self) -> str:
        flags = {**self.flags, **self.data_flags(records_in(self.rows), SCHEMA_LATER)}
        lines = [
            ("statement", " ".join(self.statement.text.split())),
            ("database", self.database),
            ("rows", f"{self.rows}: what the SELECT gives, as records"),
            ("", f"{self.validation}: what validation.select gives" if self.validation else ""),
            ("job", shlex.join(["edl", self.kind, *(f"--{name}={value}" for name, value in flags.items())])),
            ("result", self._result()),
            ("then", "" if self.keep_data else "the rows as records are removed"),
        ]
        return "\n".join(f"{head:<10} {text}" for head, text in lines if text)

    def _result(self) -> str:
        if isinstance(self.statement, Predict):
            return f"column {self.statement.column} of table {self.statement.table}"
        return self.place if isinstance(self.statement, Train) else "printed"

    def data_flags(self, data: str, schema: str) -> dict[str, str]:
        """The flags of the job that follow from the rows.

        Args:
            data: the records' files.
            schema: what stands for it among the params of a training.
        """
        if not isinstance(self.statement, Train):
            return {"data": data} | ({"output": self.predictions} if self.predictions else {})
        params = ", ".join(filter(None, [format_params(self.statement.params), schema]))
        validation = {"validation_data": records_in(self.validation)} if self.validation else {}
        return {"params": params, "data": data, **validation, "output": self.place}


def records_in(folder: str) -> str:
    """The pattern of the records' files that `extract` writes into a folder."""
    return storage.join(folder, "data-*.recordio")


def make_plan(statement: Statement, settings: SqlSettings, url: str, environ: Mapping[str, str], random: str) -> Plan:
    """The plan for a statement.

    Args:
        url: of the database.
        environ: of the process; EDL_HOME, EDL_MODELS and EDL_BACKEND mean something.
        random: characters that tell a prediction's rows from those of others that run at the same time.

    Raises:
        UsageError: a flag is wrong, or does not go with the statement.
    """
    kind = type(statement).__name__.lower()
    folder = models.folder_of_models(settings.spec.models, environ)
    place = models.place_of(folder, statement.name)
    data = settings.spec.data_folder or models.data_of(place)
    mark = digest(statement, url) if isinstance(statement, Train) else random
    plan = Plan(
        statement=statement,
        kind=kind,
        database=shown(url),
        models=folder,
        place=place,
        rows=storage.join(data, f"{statement.name}-{mark}"),
        target=_TARGETS.get(statement.model.partition(".")[0], "") if isinstance(statement, Train) else "",
        flags=_flags(statement, settings, kind, place),
        keep_data=settings.spec.keep_data,
        probabilities=_probabilities(statement, settings),
    )
    _check(plan, environ)
    return plan


def digest(statement: Train, url: str) -> str:
    """What changes when the rows of a training would be others, as far as the statement says."""
    wishes = sorted((name, wish.kind, wish.size) for name, wish in statement.columns.items())
    said = (statement.select, statement.validation, statement.label, statement.model, wishes)
    return hashlib.sha256(repr((database_url.identity(url), *said)).encode()).hexdigest()[:12]


def _probabilities(statement: Statement, settings: SqlSettings) -> bool:
    """Whether a prediction writes probabilities, too: as the statement says, else as the flag does."""
    stated = statement.settings if isinstance(statement, Predict) else {}
    said = stated.get(PROBABILITIES, settings.spec.probabilities)
    if not isinstance(said, bool):
        raise UsageError(f"predict.{PROBABILITIES}: expected True or False, got {said!r}")
    return said


def _flags(statement: Statement, settings: SqlSettings, kind: str, place: str) -> dict[str, str]:
    stated = dict(statement.settings)
    if isinstance(statement, Predict):
        stated.pop(PROBABILITIES, None)
    flags = settings.for_job(kind, stated)
    if isinstance(statement, Predict):
        return {"trained_model": place, **flags, "overwrite": "true"}
    if isinstance(statement, Evaluate):
        return {"trained_model": place, **flags}
    zoo = settings.spec.model_zoo or ("" if flags.get("image") else str(STOCK))
    own = {"model_zoo": zoo, "model_def": statement.model, "input_fn": INPUT_FUNCTION}
    return {name: value for name, value in (own | flags).items() if value}


def _check(plan: Plan, environ: Mapping[str, str]) -> None:
    """Raises UsageError for what can be told without looking anywhere."""
    request = read_request({**plan.flags, **plan.data_flags("rows.recordio", "")}, plan.kind, environ)
    if isinstance(plan.statement, Predict) and not request.launch.wait:
        raise UsageError("--wait: PREDICT waits for the predictions to write them back; leave --nowait out")
    if request.backend == KUBERNETES and not request.cluster.volumes:
        for flag, path in (("models", plan.models), ("data_folder", plan.rows)):
            if not storage.is_remote(path):
                raise UsageError(
                    f"--{flag}: pods do not see {path} of this machine; give a URL (gs://, s3://), or mount a volume "
                    "that is there under the same path (--volumes)"
                )
