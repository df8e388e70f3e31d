"""Merges a user's part of a manifest into ours as `kubectl patch` does, strategically: named things by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edl_allreduce import cluster, extras
from edl_allreduce.errors import UsageError

# By which field the items of a list are told apart, as in Kubernetes' own types; all other lists are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
DIRECTIVE = "$patch"  # delete (a list's item) or replace (a mapping)
_POD = ("apiVersion", "kind", "metadata", "spec")
_ROLES = (cluster.WORKER, cluster.COORDINATOR)


def merged(base: Any, patch: Any, key: str = "") -> Any:
    """What `patch` makes of `base`; neither is changed. None in it removes a field.

    Args:
        key: the field that both are the value of.
    """
    if isinstance(base, Mapping) and isinstance(patch, Mapping):
        return _merged_mappings(base, patch)
    if isinstance(base, list) and isinstance(patch, list) and key in MERGE_KEYS:
        return _merged_lists(base, patch, MERGE_KEYS[key])
    return _cleaned(patch)


def _merged_mappings(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    if patch.get(DIRECTIVE) == "replace":
        return {name: _cleaned(value) for name, value in patch.items() if name != DIRECTIVE}
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(base[name], value, name) if name in base else _cleaned(value)
    return result


def _merged_lists(base: list[Any], patch: list[Any], by: str) -> list[Any]:
    result = list(base)
    for item in patch:
        place = next((i for i, each in enumerate(result) if each.get(by) == item.get(by)), None)
        if item.get(DIRECTIVE) == "delete":
            result = [each for each in result if each.get(by) != item.get(by)]
        elif place is None:
            result.append(_cleaned(item))
        else:
            result[place] = _merged_mappings(result[place], item)
    return result


def _cleaned(value: Any) -> Any:
    """A patch's value where there is nothing to merge it with: without fields that remove, and without directives."""
    if isinstance(value, Mapping):
        return {name: _cleaned(each) for name, each in value.items() if each is not None and name != DIRECTIVE}
    return [_cleaned(each) for each in value] if isinstance(value, list) else value


def read_pod_template(path: str) -> dict[str, Any]:
    """What is to be merged into the pods: role (worker, coordinator) → a part of a Pod.

    Raises:
        UsageError: the file cannot be read, is not YAML, or is neither a Pod nor a mapping with worker and coordinator.
    """
    if not path:
        return {}
    yaml = extras.need("yaml", "kubernetes", f"reading {path}")
    try:
        read = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--pod_template: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--pod_template: {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict) or not read:
        raise UsageError(f"--pod_template: {path}: {_expected(read)}")
    parts = read if read.keys() <= set(_ROLES) else dict.fromkeys(_ROLES, read)
    for part in parts.values():
        _check(path, part)
    return parts


def _check(path: str, part: Any) -> None:
    """Refuses what is not a part of a Pod with lists of named things where a Pod has them."""
    spec = part.get("spec", {}) if isinstance(part, dict) and part.keys() <= set(_POD) else None
    if not isinstance(spec, dict) or part.get("kind", "Pod") != "Pod":
        raise UsageError(f"--pod_template: {path}: {_expected(part)}")
    for field in ("containers", "initContainers", "volumes"):
        items = spec.get(field) or []
        if not isinstance(items, list) or not all(isinstance(each, dict) and each.get("name") for each in items):
            raise UsageError(f"--pod_template: {path}: expected spec.{field} to be a list of things with a name")


def _expected(got: Any) -> str:
    what = f"the fields {', '.join(map(str, got))}" if isinstance(got, dict) else repr(got)
    return f"expected a Pod ({', '.join(_POD)}), or a mapping with {' and '.join(_ROLES)}, got {what}"
