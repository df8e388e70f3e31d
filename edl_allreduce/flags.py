"""Turns documented dataclass fields into flags: CLI, help, Python signature and JSON share one definition.

A settings group is a frozen dataclass whose fields are made by `flag(...)`. Everything else is derived: `parse` reads
groups from keyword arguments (each value typed or a string), `to_json` and `from_json` carry them between processes,
`flags_of` lists them for help texts and signatures.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from edl_allreduce.errors import UsageError, did_you_mean

T = TypeVar("T")

_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")
MAX_WHOLE = 2**32 - 1  # of a flag that is a whole number: what messages between processes can carry
_NUMERIC: tuple[Any, ...] = (str, numbers.Real)


def flag(
    help: str, default: Any = dataclasses.MISSING, *, check: str = "", metavar: str = "", advanced: bool = False
) -> Any:
    """A field that is also a flag.

    Args:
        help: one line for people; it names the unit.
        default: the value when the flag is not given; without one the flag is required.
        check: a bound the value must keep, one of the names in `CHECKS`.
        metavar: how help shows the value; by default derived from the type.
        advanced: shown by `--help` only at the end, under "advanced".
    """
    metadata = {"help": help, "check": check, "metavar": metavar, "advanced": advanced}
    return dataclasses.field(default=default, metadata=metadata)


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "positive": (lambda value: value > 0, "greater than 0"),
    "not negative": (lambda value: value >= 0, "0 or more"),
    "not empty": (lambda value: bool(value), "not empty"),
    "fail or skip": (lambda value: value in ("fail", "skip"), "fail or skip"),
    "recordio, csv or parquet": (lambda value: value in ("recordio", "csv", "parquet"), "recordio, csv or parquet"),
    "token or read": (lambda value: value in ("token", "read"), "token or read"),
    "local or kubernetes": (lambda value: value in ("", "local", "kubernetes"), "local or kubernetes"),
    "auto, never or must": (lambda value: value in ("auto", "never", "must"), "auto, never or must"),
}


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag as the command line and the help show it."""

    name: str
    type: type
    optional: bool
    required: bool
    default: Any
    help: str
    check: str
    metavar: str
    advanced: bool
    group: str

    def parse(self, value: Any) -> Any:
        """The value in the flag's own type, checked.

        Raises:
            UsageError: the value cannot be read as that type, or breaks the flag's bound.
        """
        if value is None or (self.optional and isinstance(value, str) and value.lower() in ("", "none")):
            if self.optional:
                return None
            raise UsageError(f"--{self.name}: expected {self._expected()}, got nothing")
        parsed = self._read(value)
        if self.type is int and abs(parsed) > MAX_WHOLE:
            raise UsageError(f"--{self.name}: expected a whole number up to {MAX_WHOLE:,}, got {value!r}")
        if self.check and not CHECKS[self.check][0](parsed):
            raise UsageError(f"--{self.name}: expected {self._expected()}, got {value!r}")
        return parsed

    def _read(self, value: Any) -> Any:
        if self.type is bool and isinstance(value, str):
            if value.lower() in _TRUE + _FALSE:
                return value.lower() in _TRUE
        elif self.type in (int, float) and isinstance(value, _NUMERIC) and not isinstance(value, bool):
            try:
                number = self.type(value)
                readable = math.isfinite(number) and (isinstance(value, str) or number == value)
            except (ValueError, OverflowError):
                readable = False
            if readable:
                return number
        elif self.type is str and isinstance(value, os.PathLike):
            return str(value)
        elif isinstance(value, self.type) and self.type in (str, bool):
            return value
        raise UsageError(f"--{self.name}: expected {self._expected()}, got {value!r}")

    def _expected(self) -> str:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[self.type]
        return f"{kind}, {CHECKS[self.check][1]}" if self.check else kind


def flags_of(group: type) -> tuple[Flag, ...]:
    """The flags of one settings group, in the order of its fields."""
    hints = typing.get_type_hints(group)
    title = (group.__doc__ or group.__name__).splitlines()[0].rstrip(".")
    flags = []
    for field in dataclasses.fields(group):
        if "help" not in field.metadata:  # a nested group
            continue
        options = [option for option in typing.get_args(hints[field.name]) if option is not type(None)]
        required = field.default is dataclasses.MISSING
        flags.append(
            Flag(
                name=field.name,
                type=options[0] if options else hints[field.name],
                optional=bool(options),
                required=required,
                default=None if required else field.default,
                group=title,
                **field.metadata,
            )
        )
    return tuple(flags)


def reject_unknown(name: str, known: Collection[str]) -> None:
    """Raises UsageError, with the nearest known name, when there is no flag `name`."""
    if name not in known:
        raise UsageError(f"--{name}: there is no such flag{did_you_mean(name, known)}; --help lists them all")


def parse(groups: Mapping[str, type], values: Mapping[str, Any]) -> dict[str, Any]:
    """One instance of every group, from flat keyword arguments.

    Raises:
        UsageError: a name is unknown (the nearest known one is offered), a required one is missing, a value is wrong.
    """
    flags = {each.name: each for group in groups.values() for each in flags_of(group)}
    for name in values:
        reject_unknown(name, flags)
    missing = [f"--{each.name}" for each in flags.values() if each.required and values.get(each.name) in (None, "")]
    if missing:
        them = "them" if missing[1:] else "it"
        raise UsageError(f"{', '.join(missing)}: required and not given; --help explains {them}")
    made = {}
    for key, group in groups.items():
        given = {each.name: each.parse(values[each.name]) for each in flags_of(group) if each.name in values}
        made[key] = group(**given)
    return made


def from_json(group: type[T], values: Any, where: str) -> T:
    """A settings group (or a dataclass of groups) read from decoded JSON.

    Raises:
        UsageError: a field is unknown, missing or of another type; `where` says in which document.
    """
    hints = typing.get_type_hints(group)
    known = {field.name: field for field in dataclasses.fields(group)}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected an object, got {values!r}")
    for name in values:
        if name not in known:
            raise UsageError(f"{where}: there is no field {name!r}{did_you_mean(name, known)}")
    flags = {each.name: each for each in flags_of(group)}
    given: dict[str, Any] = {}
    for name, field in known.items():
        if name in values:
            if dataclasses.is_dataclass(hints[name]):
                given[name] = from_json(hints[name], values[name], f"{where}.{name}")
            else:
                given[name] = flags[name].parse(values[name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}: the field {name!r} is missing")
    return group(**given)
