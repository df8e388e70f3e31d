"""Writes the program that a SQL server runs in place of `edl sql`: strings only, and no password in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launcher.sqlflow.plan import Plan
from launcher.sqlflow.statements import Evaluate, Predict, Train

_HEAD = '''\
"""A submitter, printed by `edl sql --print_submitter`. The variable EDL_DATABASE says which database; the program needs
edl_allreduce[sql], and edl_allreduce[kubernetes] for a cluster, but neither Docker nor TensorFlow then.
"""

import launcher
from edl_allreduce.schema import ColumnWish
from launcher.sqlflow import steps
from launcher.sqlflow.write_back import check_target, write_back

database = steps.database()
'''


def submitter(plans: Sequence[Plan]) -> str:
    """The program for some statements."""
    return "\n".join([_HEAD, *map(_program, plans)]).rstrip()


def _program(plan: Plan) -> str:
    statement = plan.statement
    comment = "\n".join(f"# {_printable(line)}".rstrip() for line in statement.text.splitlines())
    if isinstance(statement, Train):
        calls = _train(plan, statement)
    else:
        calls = _predict(plan, statement) if isinstance(statement, Predict) else _evaluate(plan, statement)
    if not plan.keep_data:
        calls.append(f"if job.exit_code == 0:\n    steps.remove({plan.rows!r})")
    return "\n".join([comment, *calls, ""])


def _train(plan: Plan, statement: Train) -> list[str]:
    arguments = {
        "output": plan.place,
        "label": statement.label,
        "target": plan.target,
        "columns": dict(statement.columns),
        "resume": plan.flags.get("resume", "auto"),
    }
    calls = [_call("rows = steps.training_rows", (statement.select, plan.rows), arguments)]
    if plan.validation:
        folder, rows = (statement.validation, plan.validation), {"training": _Code("rows")}
        calls.append(_call("steps.validation_rows", folder, rows))
    calls.append(f"steps.keep_statement({plan.place!r}, {statement.text!r}, database)")
    flags = {**plan.flags, **plan.data_flags("", "schema=")}
    code = {"params": _Code(f"{flags['params']!r} + rows.schema.to_params()"), "data": _Code("rows.data")}
    return [*calls, _call("job = launcher.train", (), {**flags, **code})]


def _predict(plan: Plan, statement: Predict) -> list[str]:
    flags = {**plan.flags, **plan.data_flags("", ""), "data": _Code("rows.data")}
    target, rows = (statement.select, statement.table, statement.column), _Code("rows")
    asked = {"probabilities": plan.probabilities}
    return [
        _rows(plan, {"into": statement.table}),
        _call("check_target", (*target, rows), asked),
        _call("job = launcher.predict", (), flags),
        _call("write_back", (*target, plan.predictions, rows), {**asked, "tell": _Code("steps.tell")}),
    ]


def _evaluate(plan: Plan, statement: Evaluate) -> list[str]:
    flags = {**plan.flags, "data": _Code("rows.data")}
    return [_rows(plan, {"label": statement.label}), _call("job = launcher.evaluate", (), flags)]


def _rows(plan: Plan, arguments: Mapping[str, object]) -> str:
    where = {"models_folder": plan.models, "name": plan.statement.name}
    return _call("rows = steps.rows_for_model", (plan.statement.select, plan.rows), {**where, **arguments})


def _printable(line: str) -> str:
    return "".join(each if each.isprintable() else " " for each in line)


class _Code(str):
    """A part of the program, as opposed to a text in it."""

    def __repr__(self) -> str:
        return str(self)


def _call(function: str, words: Sequence[object], named: Mapping[str, object]) -> str:
    """A call, one argument a line; of the steps, the database is the first one."""
    first = [] if "launcher." in function else ["database"]
    lines = [*first, *map(repr, words), *(f"{name}={value!r}" for name, value in named.items())]
    return "\n".join([f"{function}(", *(f"    {line}," for line in lines), ")"])
