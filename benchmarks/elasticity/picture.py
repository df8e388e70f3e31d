"""Draws the result: the loss with and without faults, the workers below, and what each fault has cost beside others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.common import plots
from benchmarks.common.plots import FAINT, plain, title
from benchmarks.common.summary import summarize
from benchmarks.elasticity.figures import (
    GAP,
    HOROVOD,
    NEXT_STEP,
    OURS,
    PAUSE,
    SYSTEMS,
    TORCHRUN,
    Measurement,
    shown,
    values_of,
)
from benchmarks.elasticity.history import Round

COLOURS = {OURS: "#1668b8", HOROVOD: "#d9822b", TORCHRUN: "#b5403a"}
CALM = "#c9ced6"
MARKS = {"lost": "#d1342f", "hung": "#8a3ffc", "left": "#e0a100", "joined": "#2f9e64"}
"""Colours of rounds, by what they began with."""
MEANINGS = {"lost": "killed", "hung": "hung", "left": "left", "joined": "joined"}
LANES = (
    ("kill", NEXT_STEP, "a worker is killed:\nuntil the next step"),
    ("hang", NEXT_STEP, "a worker hangs:\nuntil the next step"),
    ("join", PAUSE, "a worker joins:\nnobody steps for"),
    ("leave", PAUSE, "a worker less is wanted:\nnobody steps for"),
    ("sigterm", PAUSE, "a worker gets SIGTERM:\nnobody steps for"),
    ("coordinator", GAP, "the coordinator is killed:\nlongest time between steps"),
)


@dataclass(frozen=True)
class Curves:
    """A training with faults and one without.

    Attributes:
        stormy, calm: the loss by step.
        rounds: of the one with faults.
        workers: how many trained when nothing was wrong.
        difference: largest relative difference of a step's loss.
    """

    stormy: Mapping[int, float]
    calm: Mapping[int, float]
    rounds: Sequence[Round]
    workers: int
    difference: float


def draw(curves: Curves, measurements: Sequence[Measurement], limit: float, machine: str, path: Path) -> bool:
    """Writes the picture as PNG; False when matplotlib is not installed.

    Args:
        limit: seconds after which a fault's end was no longer waited for.
        machine: a line about it.
    """
    if not plots.available():
        return False
    import matplotlib
    from matplotlib import pyplot

    lanes = [lane for lane in LANES if any(values_of(measurements, system, *lane[:2]) for system in SYSTEMS)]
    with matplotlib.rc_context(plots.STYLE):
        heights = [2.0, 0.15, 0.8, 1.05, 0.58 * len(lanes)]  # the second and the fourth stay empty
        whole = sum(heights) + 1.15
        figure = pyplot.figure(figsize=(9, whole))
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights, hspace=0)
        above = figure.add_subplot(grid[0])
        _losses(above, curves)
        _workers(figure.add_subplot(grid[2], sharex=above), curves)
        _costs(figure.add_subplot(grid[4]), lanes, measurements, limit)
        figure.subplots_adjust(left=0.21, right=0.965, top=1 - 0.4 / whole, bottom=0.75 / whole)
        figure.text(0.21, 0.1 / whole, machine, fontsize=7, color=FAINT)
        figure.savefig(path, dpi=140)
        pyplot.close(figure)
    return True


def _losses(axes: Any, curves: Curves) -> None:
    axes.plot(list(curves.calm), list(curves.calm.values()), color=CALM, linewidth=5, label="1 worker, undisturbed")
    changes = f"{len(curves.rounds) - 1} changes"
    label = (
        f"{curves.workers} workers, {changes}; largest relative difference of a step's loss: {curves.difference:.0e}"
    )
    axes.plot(list(curves.stormy), list(curves.stormy.values()), color=COLOURS[OURS], linewidth=0.7, label=label)
    axes.set_ylabel("loss of a step")
    axes.tick_params(labelbottom=False, bottom=False)
    axes.legend(loc="upper right", frameon=False)
    title(axes, "Workers come and go: the loss stays the same")
    plain(axes)


def _workers(axes: Any, curves: Curves) -> None:
    last = max(curves.stormy)
    firsts = [each.first_step for each in curves.rounds]
    sizes = [each.size for each in curves.rounds]
    axes.fill_between([*firsts, last], [*sizes, sizes[-1]], step="post", color=COLOURS[OURS], alpha=0.18, linewidth=0)
    axes.step([*firsts, last], [*sizes, sizes[-1]], where="post", color=COLOURS[OURS], linewidth=0.8)
    for kind, colour in MARKS.items():
        places = [each.first_step for each in curves.rounds[1:] if each.kind == kind]
        heights = [curves.workers + 0.55] * len(places)
        if places:
            axes.scatter(places, heights, s=12, marker="v", color=colour, linewidths=0, label=MEANINGS[kind])
    axes.set(ylabel="workers", xlabel="step", ylim=(0, curves.workers + 1), xlim=(0, last))
    axes.set_yticks(range(curves.workers + 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(loc="lower right", ncols=len(MARKS), fontsize=7, framealpha=0.9, edgecolor="none", handletextpad=0.1)
    plain(axes)


def _costs(axes: Any, lanes: Sequence[tuple[str, str, str]], measured: Sequence[Measurement], limit: float) -> None:
    for row, (kind, figure, _) in enumerate(lanes):
        present = [each for each in SYSTEMS if values_of(measured, each, kind, figure)]
        for place, system in enumerate(present):
            height = row + (place - (len(present) - 1) / 2) * 0.27
            _strip(axes, values_of(measured, system, kind, figure), height, COLOURS[system], figure, limit)
    for row in range(0, len(lanes), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f5f7f9", linewidth=0, zorder=0)
    for system in SYSTEMS:
        if any(each.system == system for each in measured):
            axes.scatter([], [], s=22, color=COLOURS[system], label=system)
    axes.set_xscale("log")
    axes.set(xlim=(0.01, 3.5 * limit), ylim=(len(lanes) - 0.5, -0.5), xlabel="seconds (log scale); a bar is the median")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(lanes)), [label for _, _, label in lanes], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="major", color="#dfe3e9", linewidth=0.8, zorder=0.5)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(SYSTEMS), frameon=False, handletextpad=0.1)
    title(axes, "What a fault costs")
    plain(axes)


def _strip(axes: Any, values: Sequence[float | None], height: float, colour: str, figure: str, limit: float) -> None:
    """All values as points, their median as a bar with its number."""
    found = summarize(values)
    assert found
    points = [each for each in values if each is not None]
    axes.scatter(points, [height] * len(points), s=22, color=colour, alpha=0.4, linewidths=0, zorder=2)
    middle = min(found.median, limit)
    axes.plot([middle, middle], [height - 0.12, height + 0.12], color=colour, linewidth=2.4, solid_capstyle="butt")
    if found.median == inf:
        axes.plot([limit * 1.12], [height], marker=">", color=colour, markersize=5)
    text = f"{shown(found.median, figure, limit)} s"
    right = min(max(points, default=middle), limit) if found.median < inf else limit * 1.12
    axes.annotate(
        text, (right, height), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8, color=colour
    )
