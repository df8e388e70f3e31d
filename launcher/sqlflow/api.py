"""The doors of statements: `launcher.sql`, and what `edl sql` makes of its flags."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from launcher.handle import JobHandle
from launcher.sqlflow import database_url
from launcher.sqlflow.carry_out import Doing, carry_out
from launcher.sqlflow.grammar import parse
from launcher.sqlflow.plan import make_plan
from launcher.sqlflow.settings import read_settings
from launcher.sqlflow.submitter import submitter


def sql(statement: str, *, database: str = "", models: str = "", **flags: Any) -> JobHandle | list[JobHandle] | None:
    """Runs a statement: SELECT … TRAIN …, SELECT … PREDICT … or SELECT … TO EVALUATE …; several, one after the other.

    Shows progress on standard output. docs/sql.md says what statements may be.

    Args:
        statement: its text; semicolons separate several.
        database: URL of the database, an SQLite file, or @FILE with the URL in it; without it, EDL_DATABASE.
        models: folder or URL of the named models; without it, EDL_MODELS, else EDL_HOME/models.
        flags: as those of `edl sql`, each typed or a string: num_workers=2, backend="kubernetes", image="…", ….

    Returns:
        The job's handle, as of `launcher.train`, `launcher.evaluate` or `launcher.predict`; a list of them for several
        statements. None with dry_run=True or print_submitter=True.

    Raises:
        UsageError: a statement or a flag is wrong; nothing has been started.
        EdlError: the database failed (StorageError), the rows are not what they should be (DataError), or a job failed.
    """
    handles = run_statements(statement, {"database": database, "models": models, **flags}, sys.stdout)
    return handles[0] if len(handles) == 1 else handles or None


def run_statements(text: str, values: Mapping[str, Any], out: TextIO, leave: bool = False) -> list[JobHandle]:
    """Runs all statements of a text; all are read and planned before the first one is carried out.

    Args:
        values: the flags of `edl sql`, each typed or a string.
        out: where progress is shown, and the plan of a dry run.
        leave: with `wait=False`, let jobs go on when this process ends.

    Returns:
        Their jobs; none for a dry run or a printed program.

    Raises:
        EdlError: see `sql`.
    """
    settings = read_settings(values)
    url = database_url.resolve(settings.spec.database, os.environ)
    statements = parse(text, database_url.dialect_of(url))
    plans = [make_plan(each, settings, url, os.environ, secrets.token_hex(4)) for each in statements]
    settings.check_used([each.kind for each in plans])
    if settings.spec.print_submitter:
        print(submitter(plans), file=out)
        return []
    if settings.boolean("dry_run"):
        print("\n\n".join(map(str, plans)), file=out)
        return []
    database_url.check_default(url)
    doing = Doing(url, out, settings.boolean("quiet"), leave)
    handles = []
    for number, plan in enumerate(plans, 1):
        if len(plans) > 1:
            doing.tell(f"statement {number} of {len(plans)}: {' '.join(plan.statement.text.split())}")
        handles.append(carry_out(plan, doing))
    return handles
