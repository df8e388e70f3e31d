"""The look that all pictures of the benchmarks share; without matplotlib nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

INK, FAINT = "#2b2f36", "#8a919c"
COLOURS = ("#1668b8", "#d9822b", "#b5403a", "#2f9e64", "#8a3ffc")
STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def available() -> bool:
    """Whether matplotlib is there; it then draws into files."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    return True


def draw(panels: Sequence[Callable[[Any], None]], machine: str, path: Path) -> None:
    """Writes a PNG: one panel beside the other, each drawn by a function of its axes; below them the machine."""
    import matplotlib
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        figure, found = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.5), squeeze=False)
        for axes, panel in zip(found[0], panels, strict=True):
            panel(axes)
            plain(axes)
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        figure.text(0.02, 0.02, machine, fontsize=7, color=FAINT)
        figure.savefig(path, dpi=140, bbox_inches="tight")  # long headings, too
        pyplot.close(figure)


def title(axes: Any, text: str) -> None:
    """The heading of a panel, at its left."""
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold")


def plain(axes: Any) -> None:
    """Two of the four lines around a panel are enough."""
    axes.spines[["top", "right"]].set_visible(False)


def lines(axes: Any, series: Mapping[str, Sequence[tuple[float, float]]], log: str = "xy") -> None:
    """Curves with their points, by name; `log` names the axes that are logarithmic."""
    for (name, points), colour in zip(series.items(), COLOURS * len(series), strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.2, label=name)
    for axis in log:
        getattr(axes, f"set_{axis}scale")("log")
        getattr(axes, f"{axis}axis").set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color="#e6e9ee", linewidth=0.8)
    axes.legend(frameon=False, fontsize=8)


def bars(axes: Any, values: Mapping[str, float], goal: float | None = None) -> None:
    """Horizontal bars with their figures; a line where they should get to."""
    names = list(values)
    axes.barh(names, list(values.values()), color=COLOURS[0], height=0.6)
    for row, value in enumerate(values.values()):
        axes.annotate(f" {value:.3g}", (value, row), va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    if goal is not None:
        axes.axvline(goal, color=COLOURS[2], linewidth=1, linestyle="--")


def stacks(axes: Any, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Horizontal bars, each of the same parts one after the other."""
    ends = dict.fromkeys(rows, 0.0)
    for part, colour in zip(next(iter(rows.values())), COLOURS, strict=False):
        lengths = [parts[part] for parts in rows.values()]
        axes.barh(list(rows), lengths, left=list(ends.values()), color=colour, height=0.6, label=part)
        ends = {name: ends[name] + parts[part] for name, parts in rows.items()}
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
