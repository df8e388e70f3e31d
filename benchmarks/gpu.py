"""Images per second of ResNet-50 on synthetic images, and how they grow with the number of workers.

One worker per GPU of this machine (NCCL, where Horovod was built with it), or, where there is none, one per core at a
small size. Weak scaling: every worker has its own batch; strong scaling: they share one. Efficiency is the rate of N
workers by N times the rate of one. With several machines, train a real job for each number of workers and give their
histories: --histories=a/history.jsonl,b/history.jsonl.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import Summary, summary
from benchmarks.elasticity import history
from benchmarks.ring.team import team
from edl_allreduce.errors import DataError

GPUS = Path("/proc/driver/nvidia/gpus")
WARM_UP_STEPS = 20  # of a round of a real job
Rates = Mapping[int, Summary]


def measure(
    batch: int = 128,
    image_size: int = 224,
    classes: int = 1000,
    precision: str = "mixed_float16",
    steps: int = 20,
    repeats: int = 10,
    cpu: bool = not GPUS.exists(),
    histories: str = "",
    short: bool = False,
    output: str = "out/gpu",
) -> None:
    """Runs the benchmark.

    Args:
        batch: images per step and worker in weak scaling, per step in strong scaling.
        image_size: width and height of the images.
        classes: number of classes.
        precision: as --mixed_precision of a job; empty for 32 bits.
        steps: of one measurement.
        repeats: measurements of each number of workers.
        cpu: measure on this machine's cores: 4 images of 32 x 32, 10 classes, 32 bits, 2 steps.
        histories: of jobs that have trained, joined by commas, instead of measuring anything here.
        short: a look at it: two measurements.
        output: folder for results.
    """
    if histories:
        report = Report("gpu", output, histories=histories)
        rates = _of_jobs(histories.split(","))
        _tell(report, "jobs", rates)
        report.close(partial(_panel, {"jobs": rates}))
        return
    if cpu:
        batch, image_size, classes, precision, steps = 4, 32, 10, "", 2
    repeats = 2 if short else repeats
    report = Report("gpu", output, batch=batch, image_size=image_size, precision=precision, steps=steps, cpu=cpu)
    places = len(os.sched_getaffinity(0)) if cpu else len(list(GPUS.iterdir()))
    sizes = [size for size in (2**power for power in range(12)) if size <= places]
    config = {"image_size": image_size, "classes": classes, "precision": precision}
    found = {}
    for kind in ("weak", "strong"):
        batches = {size: batch if kind == "weak" else batch // size for size in sizes if batch >= size}
        found[kind] = {
            size: _measure(size, config | {"batch": each}, steps, repeats, _environ(cpu, places))
            for size, each in batches.items()
        }
        _tell(report, f"{kind} scaling", found[kind])
    report.close(partial(_panel, found))


def _tell(report: Report, title: str, rates: Rates) -> None:
    first, one = min(rates.items())
    rows = [
        {"workers": size, "images per second": each, "efficiency": each.median / one.median * first / size}
        for size, each in sorted(rates.items())
    ]
    report.table(title, rows)


def _panel(found: Mapping[str, Rates], axes: Any) -> None:
    curves: dict[str, Sequence[tuple[float, float]]] = {
        name: [(size, each.median) for size, each in sorted(rates.items())] for name, rates in found.items()
    }
    ideal = next(iter(found.values()))
    first, one = min(ideal.items())
    curves["as many times as workers"] = [(size, one.median * size / first) for size in sorted(ideal)]
    plots.lines(axes, curves)
    axes.set(xlabel="workers", ylabel="images per second")
    plots.title(axes, "ResNet-50")


def _environ(cpu: bool, places: int) -> dict[str, str]:
    if not cpu:
        return {}
    threads = str(max(1, len(os.sched_getaffinity(0)) // places))  # the same for one worker as for all
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    return {"CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTEROP_THREADS": "2"} | dict.fromkeys(names, threads)


def _measure(size: int, config: Mapping[str, Any], steps: int, repeats: int, environ: Mapping[str, str]) -> Summary:
    """Images per second of so many workers."""
    with team("benchmarks.ring.synthetic", size, environ, json.dumps(config)) as members:
        members.join()
        members.ask(do="train", steps=2)
        seconds = [max(members.ask(do="train", steps=steps)) for _ in range(repeats)]
    return summary(config["batch"] * size * steps / each for each in seconds)


def _of_jobs(files: Sequence[str]) -> dict[int, Summary]:
    """Records per second of each number of workers, from the steps of jobs' histories.

    Raises:
        DataError: a history has too few steps.
    """
    found: dict[int, list[float]] = {}
    for file in files:
        path = Path(file)
        if not path.is_file():
            raise DataError(f"--histories: {file}: no such file")
        found_steps, rounds = history.steps(path), history.rounds(path)
        ends = [each.first_step for each in rounds[1:]] + [len(found_steps) + rounds[0].first_step]
        for each, end in zip(rounds, ends, strict=True):
            own = [step for step in found_steps if each.first_step + WARM_UP_STEPS <= step["step"] < end]
            if own:
                rate = own[0]["records"] / statistics.median(step["useful"] for step in own)
                found.setdefault(each.size, []).append(rate)
    if not found:
        raise DataError(f"--histories: no round of {', '.join(files)} has more than {WARM_UP_STEPS} steps")
    return {size: summary(rates) for size, rates in found.items()}


if __name__ == "__main__":
    run(measure)
