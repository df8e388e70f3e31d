"""Carries plans out: rows from the database, a job, and what it predicts back into a table."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TextIO

from edl_allreduce import checkpoint
from edl_allreduce.errors import EdlError, UsageError
from edl_allreduce.spec import JobSpec
from launcher import check, zoo_source
from launcher.handle import JobHandle
from launcher.local import jobs
from launcher.run import on_backend, run
from launcher.settings import LOCAL, Request, read_request
from launcher.sqlflow import models, steps
from launcher.sqlflow.plan import Plan
from launcher.sqlflow.statements import Evaluate, Predict, Train


@dataclass(frozen=True)
class Doing:
    """How statements are carried out.

    Attributes:
        url: of the database.
        out: where progress is shown.
        quiet: show none.
        leave: without `wait`, let jobs go on when this process ends.
    """

    url: str
    out: TextIO
    quiet: bool = False
    leave: bool = False

    def tell(self, line: str) -> None:
        """Shows a line of progress."""
        if not self.quiet:
            print(line, file=self.out, flush=True)


def carry_out(plan: Plan, doing: Doing) -> JobHandle:
    """Carries one statement out.

    Returns:
        Its job, done; with `wait=False`, at work.

    Raises:
        EdlError: the database, the statement or the job failed.
    """
    request = _request(plan)
    statement = plan.statement
    if isinstance(statement, Train):
        plan = check_training(plan, request)
        return _train(plan, statement, doing)
    models.schema_of(plan.models, statement.name)
    on_backend(request, datetime.now(), "")
    with ExitStack() as stack:
        if request.launch.wait and not plan.keep_data:
            stack.callback(steps.remove, plan.rows)
        return _predict(plan, statement, doing) if isinstance(statement, Predict) else _evaluate(plan, statement, doing)


def check_training(plan: Plan, request: Request) -> Plan:
    """Finds what would make a training fail at once, before its rows are asked for.

    Returns:
        The plan with its model zoo as it was found, so that the job runs what has been looked at.

    Raises:
        UsageError: the model is not there, the name is taken, or a package is missing.
        ModelError: a file of the model is not Python, or the model does not take what WITH gives it.
    """
    assert isinstance(request.job, JobSpec)
    if models.is_trained(plan.place) and not request.job.output.overwrite:
        name = plan.statement.name
        raise UsageError(f"INTO {name}: there is such a model in {plan.models}; choose another name or add --overwrite")
    model = request.job.model
    if not model.image:
        plan = _pinned(plan)
        zoo = zoo_source.fetch(plan.flags["model_zoo"], os.environ)
        check.check_model(dataclasses.replace(model, model_zoo=str(zoo)))
    on_backend(_request(plan), datetime.now(), "")
    if request.backend == LOCAL:
        if writer := jobs.writer_of(plan.place, os.environ):
            raise UsageError(f"INTO {plan.statement.name}: job {writer} is training it; edl wait {writer} waits for it")
        check.check_output(request.job.output)
        check.check_packages(lambda name: importlib.util.find_spec(name) is not None)
    return plan


def _request(plan: Plan) -> Request:
    """What the job is to be, as far as that is known without its rows."""
    return read_request({**plan.flags, **plan.data_flags("rows.recordio", "")}, plan.kind, os.environ)


def _pinned(plan: Plan) -> Plan:
    """The plan with the commit at which a model zoo in a Git repository is now."""
    zoo = zoo_source.pinned(plan.flags["model_zoo"], os.environ)
    return dataclasses.replace(plan, flags={**plan.flags, "model_zoo": zoo})


def _train(plan: Plan, statement: Train, doing: Doing) -> JobHandle:
    try:
        handle = _trained(plan, statement, doing)
    except BaseException:
        with suppress(EdlError):  # what went wrong first is what is told
            if not plan.keep_data and not checkpoint.newest(plan.place):  # else it can go on, with these rows
                steps.remove(plan.rows)
        raise
    if handle.exit_code == 0 and not plan.keep_data:
        steps.remove(plan.rows)
    return handle


def _trained(plan: Plan, statement: Train, doing: Doing) -> JobHandle:
    rows = steps.training_rows(
        doing.url,
        statement.select,
        plan.rows,
        output=plan.place,
        label=statement.label,
        target=plan.target,
        columns=statement.columns,
        resume=plan.flags.get("resume", "auto"),
        tell=doing.tell,
    )
    if plan.validation:
        steps.validation_rows(doing.url, statement.validation, plan.validation, training=rows, tell=doing.tell)
    replaces = models.is_trained(plan.place)  # until the new one is there, the old statement is right
    if not replaces:
        steps.keep_statement(plan.place, statement.text, doing.url)
    handle = _run(plan, rows.data, doing, f"schema={rows.schema.to_params()}")
    if replaces:
        steps.keep_statement(plan.place, statement.text, doing.url)
    return handle


def _predict(plan: Plan, statement: Predict, doing: Doing) -> JobHandle:
    from launcher.sqlflow.write_back import check_target, write_back

    where = {"models_folder": plan.models, "name": statement.name}
    rows = steps.rows_for_model(doing.url, statement.select, plan.rows, **where, into=statement.table, tell=doing.tell)
    target = (doing.url, statement.select, statement.table, statement.column)
    check_target(*target, rows, probabilities=plan.probabilities)
    handle = _run(plan, rows.data, doing)
    write_back(
        *target,
        plan.predictions,
        rows,
        probabilities=plan.probabilities,
        tell=doing.tell,
    )
    return handle


def _evaluate(plan: Plan, statement: Evaluate, doing: Doing) -> JobHandle:
    where = {"models_folder": plan.models, "name": statement.name}
    rows = steps.rows_for_model(doing.url, statement.select, plan.rows, **where, label=statement.label, tell=doing.tell)
    return _run(plan, rows.data, doing)


def _run(plan: Plan, data: str, doing: Doing, schema: str = "") -> JobHandle:
    flags = {**plan.flags, **plan.data_flags(data, schema)}
    keeps = plan.keep_data or not plan.predictions  # predictions go on into a table
    handle = run(flags, doing.out, leave=doing.leave, kind=plan.kind, keeps=keeps)
    assert handle is not None  # it is no dry run
    return handle
