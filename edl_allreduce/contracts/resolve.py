"""Finds what a dotted name means in a model zoo: which file, which module, which class or function in it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edl_allreduce.contracts.user_errors import shown, user_code
from edl_allreduce.errors import ModelError, UsageError, did_you_mean
from edl_allreduce.spec import ModelSpec


@dataclass(frozen=True)
class Location:
    """Where a dotted name points to.

    Attributes:
        module: dotted name of the module, relative to the zoo.
        file: the file, relative to the current folder or absolute, just as the zoo was named.
        name: what is meant in that file; empty for the whole file.
    """

    module: str
    file: str
    name: str


@dataclass(frozen=True)
class Definition:
    """A model's definition, found and imported.

    Attributes:
        spec: the settings that name it.
        file: its file, as people would write it.
        module: the imported file.
        name: the class or function in it; empty when the file itself is meant.
        target: that class or function; the module when `name` is empty.
        column_names: of the records; None when they have no columns.
    """

    spec: ModelSpec
    file: str
    module: ModuleType
    name: str
    target: Any
    column_names: tuple[str, ...] | None = None


def locate(model_zoo: str, dotted: str, flag: str = "model_def") -> Location:
    """The file that a dotted name points to; looks at the folder only, imports nothing.

    `a.b.Name` is Name in a/b.py or in a/b/__init__.py; `a.b` may also be the file a/b.py as a whole.

    Raises:
        UsageError: the zoo is no folder, or has no such file.
    """
    zoo = Path(model_zoo)
    if not zoo.is_dir():
        raise UsageError(f"--model_zoo: expected a folder with the model's Python files, {model_zoo!r} is none")
    parts = dotted.split(".")
    splits = [(parts, "")] + ([(parts[:-1], parts[-1])] if parts[1:] else [])
    for module, name in splits:
        for file in _candidates(module):
            if (zoo / file).is_file():
                return Location(".".join(module), os.path.join(shown(model_zoo), file), name)
    tried = " or ".join(os.path.join(shown(model_zoo), file) for file in _candidates(splits[-1][0]))
    form = "" if parts[1:] or not dotted[:1].isupper() else f"; a class of a file is FILE.{dotted}"
    near = did_you_mean(splits[-1][0][-1], _modules_beside(zoo.joinpath(*splits[-1][0])))
    raise UsageError(f"--{flag}: {dotted!r} needs the file {tried}, which does not exist{near}{form}")


def _candidates(module: list[str]) -> tuple[str, str]:
    return os.path.join(*module) + ".py", os.path.join(*module, "__init__.py")


def _modules_beside(path: Path) -> list[str]:
    return [other.stem for other in path.parent.glob("*.py")] if path.parent.is_dir() else []


def find_definition(spec: ModelSpec) -> Definition:
    """Imports the file of `model_def` and finds the class or function in it.

    Raises:
        UsageError: there is no such file.
        ModelError: the file fails when imported, or has no such name.
    """
    location = locate(spec.model_zoo, spec.model_def)
    module = import_file(spec.model_zoo, location)
    target = named(module, location) if location.name else module
    return Definition(spec, location.file, module, location.name, target)


def find_override(definition: Definition, dotted: str, flag: str) -> Any:
    """What `--loss`, `--optimizer` or `--input_fn` names: with dots a name in one of the zoo's files, without a name
    in the model's own file, else None.

    Raises:
        UsageError: there is no such file.
        ModelError: the file fails when imported, or has no such name.
    """
    if "." not in dotted:
        return getattr(definition.module, dotted, None)
    location = locate(definition.spec.model_zoo, dotted, flag)
    if not location.name:
        raise UsageError(f"--{flag}: {dotted!r} is the file {location.file}; expected FILE.NAME")
    return named(import_file(definition.spec.model_zoo, location), location)


def import_file(model_zoo: str, location: Location) -> ModuleType:
    """The imported module, from this zoo and no other place.

    Raises:
        ModelError: its code fails, or a module of that name is already in use.
    """
    enter_zoo(model_zoo)
    with user_code(model_zoo, f"importing {location.file}"):
        try:
            module = importlib.import_module(location.module)
        except SystemExit as error:
            raise ModelError(
                f"{location.file}: ended the process with exit({error.code!r}) when imported; "
                'what is meant for the command line belongs under `if __name__ == "__main__":`'
            ) from None
        except ModuleNotFoundError as error:
            raise _not_installed(error) from None
    if not _is_under(getattr(module, "__file__", None), Path(model_zoo).resolve()):
        taken = getattr(module, "__file__", None) or "built into Python"
        raise ModelError(f"{location.file}: another module is called {location.module!r} ({taken}); rename the file")
    return module


def _not_installed(error: ModuleNotFoundError) -> ModuleNotFoundError:
    if (error.name or "").partition(".")[0] == "elasticdl":
        classes = "Mode, ElasticDLSpec and BasePredictionOutputsProcessor"
        hint = f"{error.msg}; its {classes} are in edl_allreduce.contracts"
    else:
        hint = f"{error.msg}; install it, and name it in the zoo's requirements.txt"
    return ModuleNotFoundError(hint, name=error.name, path=error.path).with_traceback(error.__traceback__)


def named(module: ModuleType, location: Location) -> Any:
    """What the location names in its module.

    Raises:
        ModelError: the module has no such name.
    """
    if not hasattr(module, location.name):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ModelError(f"{location.file} has no {location.name!r}{did_you_mean(location.name, public)}")
    return getattr(module, location.name)


def enter_zoo(model_zoo: str) -> None:
    """Puts the zoo in front of `sys.path`; what was imported from the zoo that was entered before is forgotten.

    So two zoos of one process (a test's, or two trained models) may have files of the same name.
    """
    global _entered
    zoo = Path(model_zoo).resolve()
    if _entered is not None and _entered.zoo != zoo:
        for name in modules_of(_entered.zoo).keys() - _entered.imported_before:
            del sys.modules[name]
        with contextlib.suppress(ValueError):
            sys.path.remove(str(_entered.zoo))
        _entered = None
    if _entered is None:
        _entered = _Entered(zoo, frozenset(sys.modules))
    if sys.path[:1] != [str(zoo)]:
        sys.path.insert(0, str(zoo))
    importlib.invalidate_caches()


@dataclass(frozen=True)
class _Entered:
    zoo: Path
    imported_before: frozenset[str]


_entered: _Entered | None = None


def modules_of(zoo: Path) -> dict[str, Path]:
    """The modules that were imported from the zoo, with their files; a namespace package has its folder instead."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "edl_allreduce":  # this package, when the zoo is the folder it is in
            continue
        own = getattr(module, "__dict__", {})  # what is not in it, a module's __getattr__ may make up
        files = [own.get("__file__"), *own.get("__path__", ())]
        first = Path(next(filter(None, files), "")).resolve()
        if first in (zoo / file for file in (*_candidates(name.split(".")), os.path.join(*name.split(".")))):
            found[name] = first
    return found


def _is_under(file: str | None, folder: Path) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(folder)
