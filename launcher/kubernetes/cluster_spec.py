"""ElasticDL's hook for what no flag can say: a Python file whose functions change each pod and the Service."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edl_allreduce.errors import UsageError

FUNCTIONS = {"Pod": "with_pod", "Service": "with_service"}
Hook = Callable[[Any], Any]


def load_hooks(path: str) -> dict[str, Hook]:
    """The functions of a cluster_spec file: kind of object → what changes and returns it.

    As in ElasticDL they are methods of the module's object `cluster`; functions of the module itself are taken as well.

    Raises:
        UsageError: the file cannot be run, or has neither function.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"--cluster_spec: {path}: there is no such file")
    spec = importlib.util.spec_from_file_location("cluster_spec", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"--cluster_spec: {path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"--cluster_spec: {path}: {type(error).__name__}: {error}") from error
    home = getattr(module, "cluster", module)
    hooks = {kind: getattr(home, name) for kind, name in FUNCTIONS.items() if callable(getattr(home, name, None))}
    if not hooks:
        raise UsageError(f"--cluster_spec: {path} has no {' and no '.join(FUNCTIONS.values())}")
    return hooks


def call_hook(path: str, kind: str, hook: Hook, model: Any) -> Any:
    """What a hook makes of an object of the Kubernetes client, such as a V1Pod.

    Raises:
        UsageError: it fails, or returns something else.
    """
    name = FUNCTIONS[kind]
    try:
        changed = hook(model)
    except Exception as error:
        raise UsageError(f"--cluster_spec: {path}: {name}: {type(error).__name__}: {error}") from error
    if not isinstance(changed, type(model)):
        raise UsageError(
            f"--cluster_spec: {path}: {name}: expected it to return a {type(model).__name__}, got {changed!r}"
        )
    return changed
