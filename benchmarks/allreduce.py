"""Bandwidth of reductions over the workers' ring (two processes) against plain TCP between the same two processes.

In a ring of two each member sends as many bytes as the tensor has, and receives as many, at the same time; so does the
plain TCP. Bus bandwidth is that number of bytes by the time. Then: how a step's reductions depend on its settings.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import ratios, summary
from benchmarks.elasticity.settings import thread_settings
from benchmarks.ring.team import Team, team

KB, MB = 1024, 1 << 20
SIZES = tuple(4 * KB * 4**power for power in range(9))
SHORT_SIZES = (4 * KB, 1 * MB, 16 * MB)
ENOUGH_BYTES = 2 << 30  # to be reduced for one figure
PASSES = 2
LARGE_BYTES, SHARE_OF_TCP = 16 * MB, 0.8

STEPS: Mapping[str, Sequence[int]] = {
    "8 tensors, 0.3 MB": [1152, 128, 73728, 256, 200000, 256, 2560, 40],
    "65 tensors, 1.1 MB": [2304 * (1 + number % 15) for number in range(65)],
    "160 tensors, 100 MB": [655360] * 160,
}
"""Tensors of a step, in bytes: about the digits' CNN, ResNet-20, ResNet-50."""
CYCLES, FUSIONS = ("0.1", "0.5", "1", "2", "5"), (0, 1, 4, 16, 128)
SHORT_CYCLES, SHORT_FUSIONS = ("0.5", "1"), (128,)
DEFAULT_CYCLE, DEFAULT_FUSION = "0.5", 4  # milliseconds and MB, of our ring


def measure(repeats: int = 20, settings: bool = True, short: bool = False, output: str = "out/allreduce") -> None:
    """Runs the benchmark.

    Args:
        repeats: reductions of each kind, at least 5 and fewer of very large tensors.
        settings: whether to measure Horovod's settings as well.
        short: a look at it: three sizes, two settings.
        output: folder for results.
    """
    sizes = SHORT_SIZES if short else SIZES
    report = Report("allreduce", output, repeats=repeats, sizes=sizes)
    with team("benchmarks.ring.bandwidth", 2, thread_settings(2)) as members:
        members.join()
        curves = _bandwidths(members, report, sizes, repeats)
    if settings:
        cycles, fusions = (SHORT_CYCLES, SHORT_FUSIONS) if short else (CYCLES, FUSIONS)
        _settings(report, 1 if short else PASSES, repeats, cycles, fusions)
    report.close(partial(_panel, curves))


def _panel(curves: Mapping[str, Sequence[tuple[float, float]]], axes: Any) -> None:
    plots.lines(axes, curves)
    axes.set(xlabel="MB", ylabel="GB/s")
    plots.title(axes, "Bus bandwidth, two processes")


def _bandwidths(
    members: Team, report: Report, sizes: Sequence[int], repeats: int
) -> dict[str, list[tuple[float, float]]]:
    rows: list[dict[str, Any]] = []
    shares = []
    for size in sizes:
        times = max(5, min(repeats, ENOUGH_BYTES // size))
        reductions, tcp = _of_later(members.ask(do="reduce", bytes=size, repeats=times, tcp=True))
        share = ratios(tcp, reductions)
        rows.append(
            {
                "KB": size // KB,
                "reduction, ms": summary(1e3 * each for each in reductions),
                "reduction, GB/s": size / 1e9 / summary(reductions).median,
                "TCP, GB/s": size / 1e9 / summary(tcp).median,
                "of TCP": share,
            }
        )
        if size >= LARGE_BYTES:
            shares.append(share.median)
    report.table("bus bandwidth", rows)
    report.goal(f"share of plain TCP's, from {LARGE_BYTES // MB} MB on, the least", min(shares), SHARE_OF_TCP)
    return {name: [(row["KB"] / 1024, row[f"{name}, GB/s"]) for row in rows] for name in ("reduction", "TCP")}


def _of_later(measured: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The seconds of whoever began later, which are fewer: the other one has waited for it."""
    return [[min(pair) for pair in zip(*both, strict=True)] for both in zip(*measured, strict=True)]


def _settings(report: Report, passes: int, repeats: int, cycles: Sequence[str], fusions: Sequence[int]) -> None:
    """Milliseconds of a step's reductions, with all settings in turn so that the machine's load hits all alike."""
    tried = dict.fromkeys([(cycle, DEFAULT_FUSION) for cycle in cycles] + [(DEFAULT_CYCLE, each) for each in fusions])
    found: dict[tuple[str, int, str, bool], list[float]] = {}
    for _ in range(passes):
        for cycle, fusion in tried:
            environ = {"HOROVOD_CYCLE_TIME": cycle, "HOROVOD_FUSION_THRESHOLD": str(fusion * MB)}
            with team("benchmarks.ring.bandwidth", 2, thread_settings(2) | environ) as members:
                members.join()
                for name, tensors in STEPS.items():
                    for grouped in (True, False):
                        question = {"do": "reduce many", "tensors": tensors, "repeats": repeats, "grouped": grouped}
                        (seconds,) = _of_later(members.ask(**question))
                        found.setdefault((cycle, fusion, name, grouped), []).extend(seconds)
    rows = [
        {"cycle, ms": cycle, "fusion, MB": fusion}
        | {
            f"{name}{', grouped' if grouped else ''}": 1e3 * summary(found[cycle, fusion, name, grouped]).median
            for name in STEPS
            for grouped in (True, False)
        }
        for cycle, fusion in tried
    ]
    report.table("a step's reductions, ms (median)", rows)


if __name__ == "__main__":
    run(measure)
