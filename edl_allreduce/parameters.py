"""Keeps a model's parameters in safetensors files, so that they are bit-exact, and reading them runs no code.

The format is https://github.com/huggingface/safetensors; names are Keras's variable paths. Keras numbers unnamed layers
by process ("dense_3"), so a model made again may have other numbers: parameters are matched by their order, which the
code of the model determines, and names are compared without numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edl_allreduce.errors import DataError, ModelError

ORDER = "order"
"""The metadata entry with the names, as a JSON list in the model's order (the format itself keeps none)."""

_NUMBER = re.compile(r"_\d+(?=[_/]|$)")


def save(variables: Sequence[Any], path: str) -> None:
    """Writes the variables (with `path`, `dtype` and `numpy()`, as Keras's) to a local file.

    Raises:
        ModelError: a variable holds something else than numbers.
    """
    from safetensors.numpy import save_file

    names = unique([str(variable.path) for variable in variables])
    arrays = {name: np.asarray(variable.numpy(), order="C") for name, variable in zip(names, variables, strict=True)}
    for name, array in arrays.items():
        if array.dtype.kind in "OSU":
            raise ModelError(f"the variable {name} is of type {array.dtype}: only numbers can be stored")
    save_file(arrays, path, metadata={ORDER: json.dumps(names)})


def restore(variables: Sequence[Any], path: str, shown: str) -> None:
    """Assigns what `save` wrote to the variables of the same model; to none of them unless all fit.

    Args:
        variables: in the model's order.
        path: a local file.
        shown: what to call the file in an error.

    Raises:
        DataError: the file is damaged.
        ModelError: a parameter's name, shape or type is not the variable's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = json.loads((file.metadata() or {})[ORDER])
            _check_count(names, variables, shown)
            arrays = [file.get_tensor(name) for name in names]
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{shown}: not a file of parameters that edl_allreduce wrote: {error}") from error
    for name, array, variable in zip(names, arrays, variables, strict=True):
        _check_fits(name, array, variable, shown)
    for array, variable in zip(arrays, variables, strict=True):
        variable.assign(array)


def unique(names: Sequence[str]) -> list[str]:
    """The names, repeated ones with #2, #3, … added."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def _check_count(names: Sequence[str], variables: Sequence[Any], shown: str) -> None:
    if len(names) != len(variables):
        theirs = {_plain(name) for name in names}
        ours = {_plain(str(variable.path)) for variable in variables}
        differing = sorted(theirs ^ ours)[:3]
        example = f" (only one of them has {', '.join(differing)})" if differing else ""
        raise ModelError(f"{shown}: has {len(names)} parameters, the model's code makes {len(variables)}{example}")


def _check_fits(name: str, array: Any, variable: Any, shown: str) -> None:
    stored, made = (array.shape, str(array.dtype)), (tuple(variable.shape), str(variable.dtype))
    if _plain(name) != _plain(str(variable.path)):
        raise ModelError(f"{shown}: has {name} where the model's code makes {variable.path}")
    if stored != made:
        raise ModelError(f"{shown}: {name} is {_spoken(*stored)}, the model's code makes it {_spoken(*made)}")


def _plain(name: str) -> str:
    return _NUMBER.sub("", name.partition("#")[0])


def _spoken(shape: Sequence[int], dtype: str) -> str:
    return f"{dtype} {list(shape)}"
