"""Decides how progress is shown: a card in a notebook, a bar on a terminal, lines elsewhere, nothing if so wanted."""

from __future__ import annotations

import os
import sys
from enum import Enum, auto
from typing import TextIO

from launcher.display.terminal import Live, Plain, Silent


class Kind(Enum):
    """How progress is shown."""

    NOTHING = auto()
    CARD = auto()
    BAR = auto()
    LINES = auto()


def chosen(*, quiet: bool, notebook: bool, terminal: bool, dumb: bool) -> Kind:
    """How progress is shown.

    Args:
        notebook: what is shown goes to a front end of Jupyter's.
        terminal: it goes to a terminal.
        dumb: that terminal cannot move its cursor.
    """
    if quiet:
        return Kind.NOTHING
    if notebook:
        return Kind.CARD
    return Kind.BAR if terminal and not dumb else Kind.LINES


def display_on(out: TextIO, quiet: bool) -> Silent:
    """The display that suits a stream."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    match chosen(quiet=quiet, notebook=in_notebook(out), terminal=out.isatty(), dumb=dumb):
        case Kind.NOTHING:
            return Silent()
        case Kind.CARD:
            from launcher.display.notebook import Notebook, Place

            return Notebook(Place())
        case Kind.BAR:
            from rich.console import Console

            return Live(Console(file=out))
        case Kind.LINES:
            return Plain(out)


def in_notebook(out: TextIO) -> bool:
    """Whether a stream is the output of a notebook's cells; then ipykernel has been imported already."""
    streams = sys.modules.get("ipykernel.iostream")
    return streams is not None and isinstance(out, streams.OutStream)
