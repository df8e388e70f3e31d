"""Packages that only some need: imported when they are needed, and asked for by the command that installs them."""

from __future__ import annotations

import importlib
import shlex
import sys
from typing import Any

from edl_allreduce.errors import UsageError


def need(module: str, extra: str, purpose: str) -> Any:
    """The module, imported.

    Args:
        module: dotted name; the package before its first dot is what pip is asked for.
        extra: of edl_allreduce that installs it.
        purpose: what it is needed for, e.g. "reading a.parquet".

    Raises:
        UsageError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise not_installed(purpose, package, f"'edl_allreduce[{extra}]'") from None


def not_installed(purpose: str, package: str, what: str) -> UsageError:
    """The error that says what needs a package, and by which command pip installs it.

    Args:
        what: as a shell takes it; what pip is asked for.
    """
    pip = f"{shlex.quote(sys.executable)} -m pip install {what}"
    return UsageError(f"{purpose} needs {package}, not installed in {sys.prefix}: {pip}")


class Later:
    """A module that is imported when it is first used; see `need`."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        self._module, self._extra, self._purpose = module, extra, purpose

    def __getattr__(self, name: str) -> Any:
        found = getattr(need(self._module, self._extra, self._purpose), name)
        setattr(self, name, found)
        return found
