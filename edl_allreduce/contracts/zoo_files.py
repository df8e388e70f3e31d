"""Which files of a model zoo go with a trained model, so that it can be used without the zoo it was trained from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edl_allreduce.contracts.resolve import modules_of

MAX_FILES, MAX_BYTES = 1000, 10_000_000
"""A folder with more Python than this is hardly a zoo (somebody's home, a whole repository)."""

REQUIREMENTS = "requirements.txt"


def code_files(model_zoo: str) -> list[str]:
    """The zoo's Python files and its requirements.txt, relative to it, sorted.

    Hidden files and folders, caches, installed packages and virtual environments are left out. From a folder with more
    than `MAX_FILES` files or `MAX_BYTES` bytes, only the modules that this process has imported are taken.
    """
    zoo = Path(model_zoo).resolve()
    files, size = [], 0
    for file in python_files(zoo):
        files.append(file.relative_to(zoo).as_posix())
        size += file.stat().st_size
        if len(files) > MAX_FILES or size > MAX_BYTES:
            files = imported_files(zoo)
            break
    if (zoo / REQUIREMENTS).is_file():
        files.append(REQUIREMENTS)
    return sorted(files)


def imported_files(zoo: Path) -> list[str]:
    """Those of the zoo's files that this process has imported, relative to it."""
    return [file.relative_to(zoo).as_posix() for file in modules_of(zoo).values() if file.is_file()]


def python_files(zoo: Path) -> Iterator[Path]:
    """The Python files of a folder, without hidden ones, caches, installed packages and virtual environments."""
    for folder, folders, names in os.walk(zoo):
        folders[:] = sorted(name for name in folders if _is_code(Path(folder, name)))
        yield from (Path(folder, name) for name in names if name.endswith(".py") and not name.startswith("."))


def _is_code(folder: Path) -> bool:
    if folder.name.startswith(".") or folder.name in ("__pycache__", "site-packages", "node_modules"):
        return False
    return not (folder / "pyvenv.cfg").exists()
