"""What membership costs: time until a round of N workers is formed, and the coordinator's share of a core and memory.

The coordinator is the real one, in a process of its own; the workers are real gRPC streams of a few other processes,
which train nothing. Everything runs on this machine, so the workers' side takes its share of the time as well.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import slope
from benchmarks.fleet.process import Process, allow_files, process

FILES_PER_WORKER = 3
ROUND_SECONDS, HEARTBEAT_SHARE, WORKER_MEGABYTES = 2.0, 0.25, 0.5

Values = dict[str, float]


def measure(
    workers: tuple[int, ...] = (10, 100, 1000, 2000, 5000),
    tasks: int = 1000,
    seconds: float = 10.0,
    clients: int = 2,
    repeats: int = 3,
    short: bool = False,
    output: str = "out/coordinator",
) -> None:
    """Runs the benchmark.

    Args:
        workers: how many workers a job has, one job after the other.
        tasks: of the data, about which every worker is told.
        seconds: for which heartbeats are counted.
        clients: processes that the workers are spread over.
        repeats: jobs of each size.
        short: a look at it: 10 and 100 workers, once.
        output: folder for results.
    """
    if short:
        workers, seconds, repeats = (10, 100), 2.0, 1
    report = Report("coordinator", output, workers=workers, tasks=tasks, seconds=seconds, clients=clients)
    allow_files(max(workers), FILES_PER_WORKER)
    rows = []
    for number in workers:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(prefix="edl-coordinator-") as folder:
                rows.append({"workers": number} | _job(number, tasks, seconds, min(clients, number), Path(folder)))
    report.table("a job of N workers", rows)
    _judge(report, rows)


def _judge(report: Report, rows: Sequence[dict[str, Any]]) -> None:
    sizes = sorted({row["workers"] for row in rows})

    def series(name: str) -> list[tuple[float, float]]:
        """The best of each size: what the machine's other load has added is not the coordinator's."""
        return [(size, min(row[name] for row in rows if row["workers"] == size)) for size in sizes]

    memory = slope(series("memory, MB"))
    report.result["memory per worker, MB"], report.result["memory without, MB"] = memory
    for size in sizes:
        if size == 1000:
            report.goal("a round of 1,000 is formed, s", dict(series("forms, s"))[size], ROUND_SECONDS, most=True)
            share = dict(series("heartbeats, share of a core"))[size]
            report.goal("heartbeats of 1,000 workers, share of a core", share, HEARTBEAT_SHARE, most=True)
    report.goal("memory per worker, MB", memory[0], WORKER_MEGABYTES, most=True)
    times = {name: series(f"{name}, s") for name in ("greets", "forms", "reforms")}
    report.close(
        partial(_panel, "Seconds", times, "xy"),
        partial(_panel, "Heartbeats: share of a core", {"coordinator": series("heartbeats, share of a core")}, "x"),
        partial(_panel, "Memory, MB", {"coordinator": series("memory, MB")}, ""),
    )


def _panel(heading: str, series: Mapping[str, Sequence[tuple[float, float]]], log: str, axes: Any) -> None:
    plots.lines(axes, series, log)
    axes.set_xlabel("workers")
    plots.title(axes, heading)


def _job(number: int, tasks: int, seconds: float, clients: int, folder: Path) -> Values:
    """One job of simulated workers, from their greetings to the round after one of them was lost."""
    bounds = [number * part // clients for part in range(clients + 1)]
    with ExitStack() as stack:
        arguments = [str(folder / "history.jsonl"), str(number), str(tasks)]
        coordinator = stack.enter_context(process("coordinator", *arguments))
        address = coordinator.line()
        empty = _usage(coordinator)
        parts = pairwise(bounds)
        fleet = [stack.enter_context(process("workers", address, str(a), str(b - a))) for a, b in parts]
        for each in fleet:
            each.line()  # it is connected
        greets, _ = _all(fleet, "greet")
        forms, _ = _all(fleet, "ready")
        before = _usage(coordinator)
        took, beats = _all(fleet, f"beat {seconds}")
        after = _usage(coordinator)
        reforms, _ = _all(fleet, "reform 2", last="lose 2")
    return {
        "greets, s": greets,
        "forms, s": forms,
        "of that the coordinator, s": before["seconds"] - empty["seconds"],
        "reforms, s": reforms,
        "heartbeats per second": beats / took,
        "heartbeats, share of a core": (after["seconds"] - before["seconds"]) / took,
        "memory, MB": after["megabytes"],
    }


def _usage(coordinator: Process) -> Values:
    """What the coordinator has used so far."""
    found: Values = coordinator.ask("usage")
    return found


def _all(fleet: Sequence[Process], command: str, last: str = "") -> tuple[float, int]:
    """Seconds until all workers have done it, and how often they have, together.

    Args:
        last: another command for the last process.
    """
    began = time.monotonic()
    for each in fleet:
        each.say(last if last and each is fleet[-1] else command)
    answers = [each.line().split() for each in fleet]
    return max(float(when) for when, _ in answers) - began, sum(int(times) for _, times in answers)


if __name__ == "__main__":
    run(measure)
