"""Runs cells in a real Jupyter kernel for the tests, and tells what they showed."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CELL_SECONDS = 150


@dataclass
class Shown:
    """What one cell showed.

    Attributes:
        outputs: as the notebook keeps them, each redrawn one with what it showed last.
        drawn: the HTML of everything that was drawn, in this order.
    """

    outputs: list[Mapping[str, Any]]
    drawn: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that is text: streams, results in words, errors as the kernel has rendered them."""
        return "\n".join(map(_text, self.outputs))

    @property
    def html(self) -> list[str]:
        """The HTML that is left in the notebook."""
        return [each["data"]["text/html"] for each in self.outputs if "text/html" in each.get("data", {})]


def _text(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    if output["output_type"] == "error":
        return "\n".join(output["traceback"])
    return str(output["data"].get("text/plain", ""))


class Kernel:
    """A kernel that runs one cell after the other."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, source: str, interrupt_at: str = "") -> Shown:
        """Runs a cell, whether it fails or not; presses the stop button as soon as it draws a certain text."""
        nbformat: Any = importlib.import_module("nbformat.v4")
        cell, shown, interrupted = nbformat.new_code_cell(source), Shown([]), list[Any]()
        self._client.nb.cells.append(cell)
        process = self._client.process_message

        def watch(message: Any, *rest: Any) -> Any:
            if message["msg_type"] in ("display_data", "update_display_data"):
                shown.drawn.append(message["content"]["data"].get("text/html", ""))
                if interrupt_at and interrupt_at in shown.drawn[-1] and not interrupted:
                    interrupted.append(asyncio.ensure_future(self._client.km.interrupt_kernel()))
            return process(message, *rest)

        self._client.process_message = watch
        try:
            self._client.execute_cell(cell, len(self._client.nb.cells) - 1)
        finally:
            self._client.process_message = process
        shown.outputs = list(cell.outputs)
        return shown


@contextmanager
def a_kernel(folder: Path, **environ: str) -> Iterator[Kernel]:
    """A kernel that works in a folder; skips the test where there is none."""
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    notebook = pytest.importorskip("nbformat.v4").new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_SECONDS, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel(env=os.environ | environ):
        yield Kernel(client)
