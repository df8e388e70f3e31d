"""The documents: links lead somewhere, modules that they name are there, commands and flags exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.table import COMMANDS, Command

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
EDL = re.compile(r"(?<![\w./-])(?:edl|python -m edl_allreduce\.launch) ([a-z][^#;|&`]*)")
OURS = "edl_allreduce|rendezvous|launcher|benchmarks|tests|model_zoo"

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """The names by which GitHub's pages know a document's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(next(each for each in (name, *(f"{name}-{count}" for count in range(1, 99))) if each not in found))
    return found


def commands(text: str) -> Iterator[str]:
    """What stands behind `edl`: in blocks of commands over all lines of each, elsewhere between backticks."""
    for block in FENCE.findall(text):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield from EDL.findall(line)
    for words in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        yield from EDL.findall(words)


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for pair in re.findall(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"', prose(document)):
        link = "".join(pair)
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        if not re.match(r"\w+:", link):
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@each_document
def test_modules_that_are_named_are_there(document: Path) -> None:
    for name in re.findall(rf"`((?:{OURS}|docker|docs)/[\w./-]+)`", prose(document)):
        assert (ROOT / name).exists(), name
    for name in re.findall(rf"python3? -m ((?:{OURS})[a-z_.]*)(?![\w.])", document.read_text(encoding="utf-8")):
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@each_document
def test_commands_and_their_flags_exist(document: Path) -> None:
    for line in commands(document.read_text(encoding="utf-8")):
        command, words = found_in(line.split())
        if command is None or command.raw:
            continue
        flags: Mapping[str, bool] = command.flags()
        for word in re.findall(r"(?<![\w-])--([a-z][\w-]*)", " ".join(words)):
            name = word.replace("-", "_")
            known = name in flags or (name.startswith("no") and flags.get(name[2:].removeprefix("_")))
            assert known or name == "help", f"edl {line}: --{word}"


def found_in(words: list[str]) -> tuple[Command | None, list[str]]:
    """The command that words begin with, and the rest; None: a group of them, or `a|b` in a list of commands."""
    found: Any = COMMANDS
    while isinstance(found, Mapping) and words and re.fullmatch(r"[a-z]+", words[0]):
        assert words[0] in found, f"edl {' '.join(words)}"
        found, words = found[words[0]], words[1:]
    return (found if isinstance(found, Command) else None), words


def test_what_is_looked_for_is_found() -> None:
    every = [line for document in DOCUMENTS for line in commands(document.read_text(encoding="utf-8"))]
    assert len(every) > 100 and any("--num_workers" in line for line in every)
    assert {"two-commands", "train"} <= anchors(ROOT / "README.md")
