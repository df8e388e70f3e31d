"""Reads what flags say about pods: resources, volumes, priorities, tolerations; each mistake names its flag."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from edl_allreduce.errors import UsageError, did_you_mean

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(m|[kMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_DNS = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_DNS}(\.{_DNS})*")
_QUALIFIED = re.compile(rf"({_DNS}(\.{_DNS})*/)?[A-Za-z0-9]([A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_ABBREVIATED = {"gpu": "nvidia.com/gpu", "disk": "ephemeral-storage"}
_OWN_RESOURCES = ("cpu", "memory", "ephemeral-storage")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_VOLUME = "expected SOURCE=…,mount_path=/PATH[,sub_path=…][,read_only] with a SOURCE of"
_HOST_PATH_TYPES = ("DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")


@dataclass(frozen=True)
class Volume:
    """A place in pods where something is mounted.

    Attributes:
        source: what, as in a pod's manifest, such as {"persistentVolumeClaim": {"claimName": "data"}}.
        mount: where, as in a container's volumeMounts, but its name.
    """

    source: Mapping[str, Any]
    mount: Mapping[str, Any]

    @property
    def path(self) -> str:
        """The folder in the pod."""
        return str(self.mount["mountPath"])


@dataclass(frozen=True)
class Priority:
    """Which workers get which priority class; empty: the cluster's default.

    Attributes:
        part: how many of all get `high`, 0 to 1; 1: all.
    """

    part: float = 0.0
    high: str = ""
    low: str = ""


def check_quantity(flag: str, text: str) -> str:
    """A quantity as Kubernetes writes it, such as 500m, 2, 1.5Gi.

    Raises:
        UsageError: it is not one, or not more than 0.
    """
    found = _QUANTITY.fullmatch(text)
    if not found or not Decimal(found[1]):
        raise UsageError(f"--{flag}: expected a quantity greater than 0, such as 500m, 2, 4Gi, got {text!r}")
    return text


def times(quantity: str, factor: int) -> str:
    """A quantity, multiplied."""
    found = _QUANTITY.fullmatch(quantity)
    assert found, quantity
    return f"{(Decimal(found[1]) * factor).normalize():f}{found[2] or ''}"


def read_resources(flag: str, text: str) -> dict[str, str]:
    """`cpu=2,memory=4Gi,gpu=1` by the names of Kubernetes.

    Raises:
        UsageError: a name or a quantity is wrong.
    """
    read = {}
    for name, value in _pairs(flag, text, "cpu=2,memory=4Gi,gpu=1").items():
        resource = _ABBREVIATED.get(name, name)
        if resource not in _OWN_RESOURCES and "/" not in resource:
            known = (*_OWN_RESOURCES, *_ABBREVIATED)
            raise UsageError(
                f"--{flag}: expected {', '.join(known)}, or an extended resource such as example.com/gpu, "
                f"got {name!r}{did_you_mean(name, known)}"
            )
        check_quantity(flag, value)
        if resource not in _OWN_RESOURCES and not value.isdigit():
            raise UsageError(f"--{flag}: expected a whole number of {resource}, got {value!r}")
        read[resource] = value
    return read


def read_volumes(flag: str, text: str) -> tuple[Volume, ...]:
    """`claim_name=data,mount_path=/data;host_path=/tmp,mount_path=/scratch`, as ElasticDL writes volumes.

    Raises:
        UsageError: a key is unknown, missing or given twice, or a path is not one.
    """
    volumes = tuple(_volume(flag, each.strip()) for each in text.split(";") if each.strip())
    seen: set[str] = set()
    for each in volumes:
        if each.path in seen:
            raise UsageError(f"--{flag}: two volumes are mounted at {each.path}; expected one")
        seen.add(each.path)
    return volumes


_SOURCES: Mapping[str, Any] = {
    "claim_name": lambda name: {"persistentVolumeClaim": {"claimName": name}},
    "host_path": lambda path: {"hostPath": {"path": path}},
    "config_map": lambda name: {"configMap": {"name": name}},
    "secret": lambda name: {"secret": {"secretName": name}},
    "empty_dir": lambda size: {"emptyDir": {"sizeLimit": size} if size else {}},
}
_VOLUME_KEYS = (*_SOURCES, "mount_path", "sub_path", "read_only", "type")


def _volume(flag: str, text: str) -> Volume:
    keys: dict[str, str] = {}
    for item in text.split(","):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in _VOLUME_KEYS:
            raise UsageError(
                f"--{flag}: there is no {key!r} in {text!r}{did_you_mean(key, _VOLUME_KEYS)}; {_expected()}"
            )
        if key in keys:
            raise UsageError(f"--{flag}: {key} is given twice in {text!r}")
        keys[key] = value
    sources = [key for key in keys if key in _SOURCES]
    if len(sources) != 1 or not keys.get("mount_path"):
        raise UsageError(f"--{flag}: {_expected()}, got {text!r}")
    kind = sources[0]
    if kind == "empty_dir" and keys[kind]:
        check_quantity(flag, keys[kind])
    elif kind == "host_path":
        _check_path(flag, "host_path", keys[kind])
    elif kind != "empty_dir" and not _NAME.fullmatch(keys[kind]):
        raise UsageError(f"--{flag}: expected the name of an object in {kind}, got {keys[kind]!r}")
    _check_path(flag, "mount_path", keys["mount_path"])
    return Volume(_with_type(flag, kind, _SOURCES[kind](keys[kind]), keys.get("type", "")), _mount(flag, keys))


def _expected() -> str:
    return f"{_VOLUME} {', '.join(_SOURCES)}"


def _with_type(flag: str, kind: str, source: dict[str, Any], path_type: str) -> dict[str, Any]:
    """A hostPath with its type, which no other source has."""
    if not path_type:
        return source
    if kind != "host_path" or path_type not in _HOST_PATH_TYPES:
        raise UsageError(f"--{flag}: type is for host_path: {', '.join(_HOST_PATH_TYPES)}; got {path_type!r} of {kind}")
    return {"hostPath": source["hostPath"] | {"type": path_type}}


def _mount(flag: str, keys: Mapping[str, str]) -> dict[str, Any]:
    mount: dict[str, Any] = {"mountPath": keys["mount_path"].rstrip("/") or "/"}
    if keys.get("sub_path"):
        mount["subPath"] = keys["sub_path"]
    read_only = keys.get("read_only", "false").lower()
    if read_only not in ("", "true", "false"):
        raise UsageError(f"--{flag}: expected read_only to be true or false, got {read_only!r}")
    if read_only != "false":
        mount["readOnly"] = True
    return mount


def _check_path(flag: str, key: str, path: str) -> None:
    if not path.startswith("/") or ".." in path.split("/") or ":" in path:
        raise UsageError(f"--{flag}: expected {key} to be an absolute path, got {path!r}")


def read_tolerations(flag: str, text: str) -> tuple[dict[str, str], ...]:
    """`nvidia.com/gpu:NoSchedule,team=ml` as in a pod's manifest.

    Raises:
        UsageError: a key or an effect is wrong.
    """
    return tuple(_toleration(flag, each.strip()) for each in text.split(",") if each.strip())


def _toleration(flag: str, text: str) -> dict[str, str]:
    taint, _, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    if not _QUALIFIED.fullmatch(key) or (effect or EFFECTS[0]) not in EFFECTS:
        raise UsageError(
            f"--{flag}: expected KEY[=VALUE][:EFFECT] with an EFFECT of {', '.join(EFFECTS)}, got {text!r}"
        )
    toleration = {"key": key, "operator": "Equal" if equals else "Exists"}
    return toleration | ({"value": value} if equals else {}) | ({"effect": effect} if effect else {})


def read_priority(flag: str, text: str) -> Priority:
    """`CLASS`, or `CLASS=0.5` for a half of the workers, or `CLASS=0.5,low=OTHER`.

    Raises:
        UsageError: it is not of that form.
    """
    if not text:
        return Priority()
    first, comma, second = (part.strip() for part in text.partition(","))
    name, equals, part = first.partition("=")
    key, _, low = second.partition("=")
    try:
        share = float(part) if equals else 1.0
    except ValueError:
        share = -1.0
    names = (name, low) if comma else (name,)
    if not 0.0 <= share <= 1.0 or (comma and key != "low") or not all(map(_NAME.fullmatch, names)):
        raise UsageError(
            f"--{flag}: expected CLASS, CLASS=PART or CLASS=PART,low=CLASS, PART from 0 to 1, got {text!r}"
        )
    return Priority(share, name, low)


def read_labels(flag: str, text: str) -> dict[str, str]:
    """Labels such as `team=ml,stage=test`.

    Raises:
        UsageError: a name or a value cannot be a label's.
    """
    read = read_annotations(flag, text)
    for name, value in read.items():
        if not _LABEL_VALUE.fullmatch(value):
            raise UsageError(f"--{flag}: {name}: expected at most 63 letters, digits, '-', '_', '.', got {value!r}")
    return read


def read_annotations(flag: str, text: str) -> dict[str, str]:
    """Names as labels have them, with any values.

    Raises:
        UsageError: a name cannot be an annotation's.
    """
    read = _pairs(flag, text, "team=ml")
    for name in read:
        if not _QUALIFIED.fullmatch(name):
            raise UsageError(f"--{flag}: expected a name such as team or example.com/team, got {name!r}")
    return read


def read_env(flag: str, text: str, taken: frozenset[str]) -> dict[str, str]:
    """Environment variables; a value may contain commas, as long as no NAME= follows one.

    Raises:
        UsageError: a name is not a variable's, or one of `taken`, which mean something else.
    """
    read = _pairs(flag, text, "AWS_REGION=eu-west-1,LOGLEVEL=1")
    for name in read:
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"--{flag}: expected the name of a variable, got {name!r}")
        if name in taken:
            raise UsageError(f"--{flag}: {name} is set by edl_allreduce itself; leave it out")
    return read


def read_names(flag: str, text: str) -> tuple[str, ...]:
    """Names of objects, separated by commas.

    Raises:
        UsageError: one cannot be a name.
    """
    names = tuple(each.strip() for each in text.split(",") if each.strip())
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"--{flag}: expected the name of an object, got {name!r}")
    return names


def _pairs(flag: str, text: str, example: str) -> dict[str, str]:
    """NAME=VALUE,…"""
    read: dict[str, str] = {}
    for item in re.split(r",(?=\s*[\w./-]+=)", text) if text.strip() else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise UsageError(f"--{flag}: expected NAME=VALUE,… such as {example}, got {text!r}")
        if name in read:
            raise UsageError(f"--{flag}: {name} is given twice in {text!r}")
        read[name] = value
    return read
