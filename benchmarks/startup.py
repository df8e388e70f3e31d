"""How long it takes from the command to the end of the first step, against importing TensorFlow alone.

`edl train` is started as a user would, with the digits and one worker (or more), and in turn with it a Python that only
imports TensorFlow. The logs and history of the job say where the time went.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import alternate, summary
from benchmarks.elasticity.history import logged
from edl_allreduce import storage
from edl_allreduce.errors import EdlError

REPOSITORY = Path(__file__).resolve().parent.parent
MORE_SECONDS = 1.5
ALONE, JOB = "import tensorflow", "command to first step"
LEAN_ALONE = "import tensorflow, where there are no scikit-learn and Matplotlib"
STAGES = (
    "launcher, supervisor, coordinator",
    "coordinator: data and first worker",
    "worker until it greets",
    "TensorFlow and Keras",
    "model, traced step, first records",
    "round and first step",
)
LOADED = "TensorFlow and Keras are loaded"
LEAN = "import sys; sys.modules |= dict.fromkeys(('sklearn', 'matplotlib', 'IPython')); "
HISTORY_POLL_SECONDS = 0.005

Stages = dict[str, float]


def measure(
    data: str = "data/digits/train/*.recordio",
    workers: int = 1,
    repeats: int = 7,
    short: bool = False,
    output: str = "out/startup",
) -> None:
    """Runs the benchmark.

    Args:
        data: the digits; `python -m model_zoo.digits make data/digits` makes them.
        workers: of the job.
        repeats: jobs, and imports, in turn.
        short: a look at it: two of each.
        output: folder for results.
    """
    storage.expand(data)  # says now what is missing
    repeats = 2 if short else repeats
    report = Report("startup", output, data=data, workers=workers, repeats=repeats)
    stages: list[Stages] = []
    with tempfile.TemporaryDirectory(prefix="edl-startup-") as folder:

        def job() -> float:
            stages.append(_job(data, workers, Path(folder), len(stages)))
            return sum(stages[-1].values())

        _import()  # from now on the files are in the machine's memory
        found = alternate({ALONE: _import, LEAN_ALONE: partial(_import, LEAN), JOB: job}, repeats)
    more = summary(job - alone for job, alone in zip(found[JOB], found[ALONE], strict=True))
    figures = {name: summary(values) for name, values in found.items()}
    report.table("seconds", [{"what": name, "median (least … most)": each} for name, each in figures.items()])
    parts = {name: summary(each[name] for each in stages) for name in STAGES}
    report.table("where they go", [{"stage": name, "seconds": each} for name, each in parts.items()])
    report.result["measurements"] = found | {"stages": stages}
    report.goal("more than importing TensorFlow, s", more.median, MORE_SECONDS, most=True)
    report.close(partial(_panel, figures[ALONE].median, {name: parts[name].median for name in STAGES}))


def _panel(alone: float, parts: Stages, axes: Any) -> None:
    plots.bars(axes, {"import tensorflow, alone": alone} | parts)
    axes.set_xlabel("seconds, median")
    plots.title(axes, "From the command to the first step")


def _import(before: str = "") -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"{before}import tensorflow"], check=True, capture_output=True)
    return time.monotonic() - began


def _job(data: str, workers: int, folder: Path, number: int) -> Stages:
    """One job, followed until its first step is done, then ended.

    Raises:
        EdlError: it failed.
    """
    home, flags = folder / f"home-{number}", {"data": data, "output": folder / f"out-{number}", "num_workers": workers}
    flags |= {"model_zoo": REPOSITORY / "model_zoo", "model_def": "digits.Classifier", "num_epochs": 1}
    words = [f"--{name}={value}" for name, value in flags.items()]
    command = [sys.executable, "-m", "edl_allreduce.launch", "train", *words, "--batch_size=128", "--quiet"]
    began = time.time()
    with subprocess.Popen(
        command,
        env=os.environ | {"EDL_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        first = _first_step(process, home)
        text, _ = process.communicate()
        if process.returncode:
            raise EdlError(f"the job has failed: {text.strip()}")
    [job] = (home / "jobs").iterdir()
    return _stages(began, first, job / "logs")


def _first_step(process: subprocess.Popen[str], home: Path) -> float:
    """When the first step was done, in seconds since 1970: its line, less what the heartbeat took to tell of it."""
    while process.poll() is None:
        for history in home.glob("jobs/*/history.jsonl"):
            lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines() if line[-1:] == "}"]
            began = next((line["time"] for line in lines if "cause" in line), None)
            first = next((line["useful"] for line in lines if line.get("step") == 1 and "useful" in line), None)
            if began is not None and first is not None:
                return float(began) + float(first)
        time.sleep(HISTORY_POLL_SECONDS)  # a file that somebody else writes
    return 0.0


def _stages(began: float, first: float, logs: Path) -> Stages:
    """Seconds of each stage, of the worker that was ready last."""

    def told(text: str) -> list[float]:
        return list(logged(logs / "coordinator.log", text, began))

    marks = [
        began,
        told("indexing")[0],
        told("StartWorker")[0],
        max(told("Greeted(")),
        max(map(_loaded, logs.glob("worker-*.log"))),
        max(told("Ready(")),
        first,
    ]
    return {name: after - before for name, (before, after) in zip(STAGES, pairwise(marks), strict=True)}


def _loaded(log: Path) -> float:
    """When a worker had imported everything, in seconds since 1970."""
    line = next(line for line in log.read_text(encoding="utf-8").splitlines() if LOADED in line)
    return datetime.fromisoformat(line[: line.index(",") + 4].replace(",", ".")).timestamp()


if __name__ == "__main__":
    run(measure)
