"""Finds the command that a line of words means, and lets Fire call it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from edl_allreduce.errors import UsageError, did_you_mean
from launcher.commands.arguments import normalise
from launcher.commands.help import group_help, overview
from launcher.commands.table import COMMANDS, Command, check_call, sections, summaries

HELP = frozenset({"-h", "--help", "help"})


def run(words: list[str]) -> int:
    """Runs one command; returns the process's exit code.

    Raises:
        EdlError: whatever is wrong.
    """
    width = min(120, shutil.get_terminal_size().columns)
    if words[:1] == ["--version"]:
        words = ["version", *words[1:]]
    if not words or words[0] in HELP:
        path, found, rest = _find(words[1:], COMMANDS)
        rest = ["--help"]
    else:
        path, found, rest = _find(words, COMMANDS)
    if not isinstance(found, Command):
        print(group_help(path[0], summaries(found), width) if path else overview(sections(), width))
        return 0
    if found.raw:
        return found.load()(*rest) or 0
    name = " ".join(path)
    if {"-h", "--help"} & set(rest):
        print(found.help(name, width))
        return 0
    rest = normalise(rest, found.flags(), found.takes_words(), found.short)
    function = found.load()
    check_call(name, function, rest, found.optional)
    return _fire(path, function, rest)


def _find(words: list[str], commands: Mapping[str, Any]) -> tuple[list[str], Any, list[str]]:
    """The command or group that the first words name, those words, and the rest.

    Raises:
        UsageError: there is no such command.
    """
    path: list[str] = []
    found: Any = commands
    while isinstance(found, Mapping) and words and not (path and words[0] in HELP):
        if words[0] not in found:
            known = summaries(found)
            kind = "there is no such command" if not words[0].startswith("-") else "expected a command first"
            near = did_you_mean(words[0], known)
            raise UsageError(f"{' '.join(['edl', *path, words[0]])}: {kind}{near}; the commands are {', '.join(known)}")
        path.append(words[0])
        found = found[words[0]]
        words = words[1:]
    return path, found, words


def _fire(path: list[str], function: Callable[..., int | None], words: list[str]) -> int:
    """Lets Fire call the command: with strings only, and with none of Fire's own flags and separators."""
    import fire
    from fire.decorators import SetParseFn

    tree: Any = SetParseFn(str)(function)
    for name in reversed(path):
        tree = {name: tree}
    words = [f" {word}" if re.match(r"--\s", word) else word for word in words]  # a comment of SQL: no flag of Fire's
    line = [*path, *words, "--", "--separator=\n"]  # no word of a shell's is a single line break
    return int(fire.Fire(tree, command=line, name="edl", serialize=lambda result: None) or 0)
