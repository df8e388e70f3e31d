"""Statements such as SELECT … TRAIN … INTO …: from a table to a trained model, and back into a table.

`launcher.sql("SELECT …", database="…")` runs them, see `launcher.sql.run.sql`: this module can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.handle import JobHandle


class _Callable(ModuleType):
    """A package that is also the function of its name."""

    def __call__(
        self, statement: str, *, database: str = "", models: str = "", **flags: Any
    ) -> JobHandle | list[JobHandle] | None:
        """Runs a statement, or several; see `launcher.sql.run.sql`."""
        from launcher.sql.run import sql

        return sql(statement, database=database, models=models, **flags)


sys.modules[__name__].__class__ = _Callable
