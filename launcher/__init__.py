"""Turns a request (command line, Python, SQL) into a running job; what it offers is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.api import evaluate, predict, train
    from launcher.handle import JobHandle
    from launcher.jobs import attach
    from launcher.sqlflow.api import sql

__all__ = ["JobHandle", "attach", "evaluate", "predict", "sql", "train"]

_HOMES = {
    "JobHandle": "launcher.handle",
    "attach": "launcher.jobs",
    "evaluate": "launcher.api",
    "predict": "launcher.api",
    "sql": "launcher.sqlflow.api",
    "train": "launcher.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'launcher' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
