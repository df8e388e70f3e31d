"""A model as Keras's own file, of which it is known that Keras can load it again, and what that takes."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edl_allreduce.errors import ModelError
from edl_allreduce.spec import ModelSpec

CONFIG = "config.json"


def save_keras(model: Any, path: Path, spec: ModelSpec) -> Any:
    """Writes the model as Keras does, with what Keras forgets of the user's classes; returns the file's config.

    Loading, Keras hands `trainable` and `dtype` to each class of the user's. Where `__init__` does not take them, and
    they are Keras's defaults, they are left out of the file: else the plainest of classes could not be loaded. A
    model's class without `get_config` gets the params that it was made with: Keras would make it with its defaults.

    Args:
        model: a `keras.Model` with variables, whose code is imported.
        path: a local file.
        spec: what the model was made by.

    Raises:
        Exception: whatever the model's `get_config` and Keras raise.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's remarks on its own ways of saving
        model.save(path)
    return _completed(path, _params_of(model, spec))


def write_keras(model: Any, path: Path, spec: ModelSpec) -> tuple[str, ...]:
    """Writes the model as `save_keras` does, and loads it again to see that it is the same; says what loading takes.

    Args:
        model, path, spec: as there.

    Raises:
        ModelError: Keras cannot save it, or not load it again.
    """
    done = "save this model"
    try:
        config = save_keras(model, path, spec)
        done = "load this model again"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = _loaded(path, config)
    except OSError:
        raise
    except Exception as error:  # whatever the model's get_config and Keras raise
        path.unlink(missing_ok=True)
        told = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
        hint = "its class needs get_config and from_config for that (keras.io/guides/serialization_and_saving)"
        raise ModelError(f"Keras cannot {done}; {hint}: {told}") from error
    if not _same_weights(model, again):
        path.unlink()
        raise ModelError(
            "Keras loads other weights than it has saved; the model must have all its layers as attributes"
        )
    return needed_by(config)


def needed_by(config: Any) -> tuple[str, ...]:
    """What loading a model of this config takes besides Keras, in sentences."""
    told = []
    if own := {part["class_name"]: f"{part['module']}.{part['class_name']}" for part in _own_parts(config)}:
        objects = ", ".join(f"{name!r}: {name}" for name in own)
        told.append(f"to load it, import {', '.join(own.values())} from the model's zoo:")
        told.append(f"  keras.saving.load_model(path, custom_objects={{{objects}}})")
    if _has_python_code(config):
        told.append("it has Python code in it (a Lambda layer): Keras loads it with safe_mode=False only")
    return tuple(told)


def _params_of(model: Any, spec: ModelSpec) -> dict[str, Any]:
    """The params of a model whose class is what the user named, and does not say itself how it is made again."""
    import keras

    named = type(model).__name__ == spec.model_def.rpartition(".")[2]
    if not named or type(model).get_config is not keras.Model.get_config:
        return {}
    taken = inspect.signature(type(model)).parameters
    return {name: value for name, value in spec.values.items() if name in taken}


def _completed(path: Path, params: Mapping[str, Any]) -> Any:
    """Adds the params to a file's config and takes from it what the user's classes do not take; returns the config."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read(CONFIG))
    if params:
        config["config"] |= params
    for part in (parts := _own_parts(config)):
        given, taken = part.get("config"), inspect.signature(_class_of(part)).parameters.values()
        if isinstance(given, dict) and not any(each.kind is each.VAR_KEYWORD for each in taken):
            names = {each.name for each in taken}
            for name in [name for name in given if name not in names and _is_default(name, given[name])]:
                del given[name]
    if parts:
        _replace(path, CONFIG, json.dumps(config).encode())
    return config


def _replace(path: Path, name: str, content: bytes) -> None:
    """Replaces one file in a zip archive; the others may be larger than the memory."""
    changed = path.with_suffix(".changed")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        new.writestr(name, content)
        for info in old.infolist():
            if info.filename != name:
                with old.open(info) as source, new.open(info.filename, "w", force_zip64=True) as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    changed.replace(path)


def _is_default(name: str, value: Any) -> bool:
    if name == "dtype":
        value = value["config"].get("name") if isinstance(value, dict) else value
    return (name, value) in (("trainable", True), ("dtype", "float32"))


def _loaded(path: Path, config: Any) -> Any:
    import keras

    objects = {part["class_name"]: _class_of(part) for part in _own_parts(config)}
    return keras.saving.load_model(path, objects, compile=False, safe_mode=not _has_python_code(config))


def _has_python_code(config: Any) -> bool:
    return any(part["class_name"] in ("Lambda", "__lambda__") for part in _parts_of(config))


def _same_weights(model: Any, again: Any) -> bool:
    import numpy as np

    ours, theirs = model.get_weights(), again.get_weights()
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def _class_of(part: Mapping[str, Any]) -> Any:
    found: Any = sys.modules[part["module"]]
    for name in part["class_name"].split("."):
        found = getattr(found, name)
    return found


def _own_parts(config: Any) -> list[dict[str, Any]]:
    """The objects whose class is not Keras's."""
    parts = [part for part in _parts_of(config) if isinstance(part.get("module"), str)]
    return [part for part in parts if part["module"].partition(".")[0] not in ("keras", "builtins")]


def _parts_of(config: Any) -> Iterator[dict[str, Any]]:
    """All objects of a Keras config, the outermost first."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        for value in config.values():
            yield from _parts_of(value)
    elif isinstance(config, list):
        for value in config:
            yield from _parts_of(value)
