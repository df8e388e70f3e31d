"""Which files a pattern names, and what to say when it names none: kept apart so that local and remote say the same."""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence

from edl_allreduce.errors import StorageError, did_you_mean

RECORDIO = "*.recordio"
_SHOWN = 5


def is_pattern(path: str) -> bool:
    """Whether `path` contains a glob's special signs."""
    return any(sign in path for sign in "*?[")


def matches_local(path: str) -> list[str]:
    """The files that one local path, glob or folder names; perhaps none."""
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        found = glob.glob(os.path.join(glob.escape(path), RECORDIO))
    else:
        found = glob.glob(path, recursive=True) if is_pattern(path) else []
    return [name for name in found if os.path.isfile(name)]


def matches_listed(pattern: str, names_in: Callable[[str], Mapping[str, bool]]) -> list[str]:
    """The files that a glob names where folders can only be listed; a failure to list one is the caller's to see.

    (fsspec's own glob takes a folder that cannot be listed for an empty one.)

    Args:
        pattern: with `/` between names; `**` stands for any folders, or none.
        names_in: the names in a folder, each with whether it is a folder; none when there is no such folder.
    """
    known: dict[str, Mapping[str, bool]] = {}

    def listed(folder: str) -> Mapping[str, bool]:
        if folder not in known:
            known[folder] = names_in(folder)
        return known[folder]

    def below(folder: str, parts: Sequence[str]) -> set[str]:
        part, rest = parts[0], parts[1:]
        if part == "**":
            deeper = [
                below(posixpath.join(folder, name), parts) for name, is_folder in listed(folder).items() if is_folder
            ]
            return below(folder, rest or ["*"]).union(*deeper)
        if rest and not is_pattern(part):
            return below(posixpath.join(folder, part), rest)
        named = {name: is_folder for name, is_folder in listed(folder).items() if fnmatch.fnmatchcase(name, part)}
        if not rest:
            return {posixpath.join(folder, name) for name, is_folder in named.items() if not is_folder}
        return set().union(
            *(below(posixpath.join(folder, name), rest) for name, is_folder in named.items() if is_folder)
        )

    root = "/" if pattern.startswith("/") else ""
    return sorted(below(root, pattern.strip("/").split("/")))


def files_below(root: str) -> list[str]:
    """Every file below a local folder, as sorted paths relative to it with `/` between names."""
    if not os.path.isdir(root):
        raise StorageError(f"{root}: no such folder")
    below = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return sorted(os.path.relpath(path, root).replace(os.sep, "/") for path in below)


def names_in_local(folder: str) -> list[str] | None:
    """The names in a local folder ("" is the current one), or None when there is no such folder."""
    return sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else None


def nothing_found(path: str, names_in: Callable[[str], Sequence[str] | None]) -> str:
    """Why no file was found: what was looked for, and what is there instead.

    Args:
        path: the pattern, file or folder.
        names_in: the names in a folder ("" is the current one), or None when there is no such folder.
    """
    inside = names_in(path) if not is_pattern(path) else None
    if inside is not None:
        return f"no file matches {posixpath.join(path, RECORDIO)!r}: folder {path!r} {_holds(inside)}"
    said = f"no file matches {path!r}" if is_pattern(path) else f"{path!r}: no such file or folder"
    folder, wanted = posixpath.split(path)
    while is_pattern(folder):
        folder, wanted = posixpath.split(folder)
    if folder.endswith(":"):  # a bucket: what else there is cannot always be listed
        return said
    names = names_in(folder)
    if names is not None:
        hint = "" if is_pattern(wanted) else did_you_mean(wanted, names)
        return f"{said}{hint}: folder {folder or '.'!r} {_holds(names)}"
    while names is None:
        missing, (folder, wanted) = folder, posixpath.split(folder)
        if missing == folder or folder.endswith(":"):
            return f"{said}: there is no folder {missing!r}"
        names = names_in(folder)
    return f"{said}: there is no folder {missing!r}{did_you_mean(wanted, names)}"


def _holds(names: Sequence[str]) -> str:
    if not names:
        return "is empty"
    shown = ", ".join(names[:_SHOWN])
    return f"holds {shown}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
