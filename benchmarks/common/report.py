"""What a benchmark says: on the terminal, as JSON, as a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import machine, plots
from benchmarks.common.summary import digits

Row = Mapping[str, Any]


class Report:
    """The result of one run; says on what machine it is made before anything is measured.

    Args:
        name: of the benchmark and its files.
        output: folder for OUTPUT/NAME.json and OUTPUT/NAME.png.
        settings: what was asked for.
    Attributes:
        result: what the JSON holds.
    """

    def __init__(self, name: str, output: str, **settings: Any) -> None:
        self._name, self._output = name, Path(output)
        about, versions = machine.describe(), machine.versions()
        self._machine = machine.sentence(about)
        self.result: dict[str, Any] = {"machine": about, "versions": versions, "settings": settings, "goals": []}
        print(self._machine, ", ".join(f"{each} {version}" for each, version in versions.items()), sep="\n", flush=True)

    def table(self, key: str, rows: Sequence[Row]) -> None:
        """Prints rows of the same columns; the JSON has them under `key`."""
        self.result[key] = [dict(row) for row in rows]
        cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        print(f"\n{key}")
        for row in cells:
            print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))

    def goal(self, what: str, value: float, wanted: float, most: bool = False) -> None:
        """Says whether a figure got where it should: at least `wanted`, or at most."""
        reached = value <= wanted if most else value >= wanted
        self.result["goals"].append({"what": what, "value": value, "wanted": wanted, "reached": reached})
        sign = "≤" if most else "≥"
        print(f"{'reached' if reached else 'MISSED '}  {what}: {_cell(value)} ({sign} {wanted:g} wanted)", flush=True)

    def close(self, *panels: Callable[[Any], None]) -> None:
        """Writes the files; `panels` draw into axes that they are given."""
        self.result["load at end"] = round(os.getloadavg()[0], 2)
        self._output.mkdir(parents=True, exist_ok=True)
        path = self._output / f"{self._name}.json"
        path.write_text(json.dumps(self.result, indent=2, ensure_ascii=False, default=_plain) + "\n", encoding="utf-8")
        written = [str(path)]
        if panels and plots.available():
            picture = path.with_suffix(".png")
            plots.draw(panels, self._machine, picture)
            written.append(str(picture))
        print("\nwritten:", ", ".join(written))


def _cell(value: Any) -> str:
    return digits(value) if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")
