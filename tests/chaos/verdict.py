"""Proves from the files of a storm that nothing was lost, or tells what was."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edl_allreduce.job_folder import JobFolder
from edl_allreduce.worker.audit import attempts, consumed
from tests.chaos import vitals
from tests.chaos.plan import Kind
from tests.chaos.run import Lines, first_step, reached
from tests.jobs import REPOSITORY, left_over

# Every coordinator begins an event file of its own, and every run leaves a record of its own.
OF_EACH_RUN = re.compile(
    r"tensorboard/events\.out\.tfevents.*|_runs/[^/]+(/(history-\d+\.jsonl|dataset\.pb|spec\.json|status\.json))?"
)

LOSS_TOLERANCE = 1e-4  # relative; what float sums differ by is less than 1e-5
UNTOLD = 40  # steps per fault that kills all who could tell
WEIGHT_TOLERANCES = 1e-2, 2e-4  # relative, absolute


@dataclass(frozen=True)
class Row:
    """One line of the verdict.

    Attributes:
        good: None: nothing to judge, only told.
    """

    good: bool | None
    what: str
    found: str

    def __str__(self) -> str:
        return f"{ {True: 'ok', False: 'FAILED', None: ''}[self.good]:7}{self.what:24}{self.found}"


@dataclass(frozen=True)
class Evidence:
    """The files of a storm.

    Attributes:
        folder: as `Storm` and `undisturbed` wrote it.
        output: the job's.
        records, epochs, steps: of the whole job; the first in one epoch.
        exit_code: of the last start of the command.
    """

    folder: Path
    output: Path
    records: int
    epochs: int
    steps: int
    exit_code: int

    @cached_property
    def storm(self) -> list[dict[str, Any]]:
        """What the laboratory did."""
        return _lines(self.folder / "storm.jsonl")

    @cached_property
    def jobs(self) -> list[JobFolder]:
        """Of all starts of the command, in order."""
        homes = sorted(self.folder.glob("run-*"), key=lambda path: int(path.name.partition("-")[2]))
        return [JobFolder(next((home / "jobs").iterdir())) for home in homes]

    @cached_property
    def histories(self) -> list[list[dict[str, Any]]]:
        """Of all jobs."""
        return [_lines(job.history) for job in self.jobs]

    @cached_property
    def undisturbed(self) -> JobFolder:
        """The run of one worker to which nothing happened."""
        return JobFolder(next(self.folder.glob("undisturbed/jobs/*")))

    @cached_property
    def kinds(self) -> list[Kind]:
        """Of the faults that were carried out."""
        return [Kind(line["kind"]) for line in self.storm if "kind" in line]


def judge(evidence: Evidence) -> Iterator[Row]:
    """All of the verdict."""
    for look in _LOOKS:
        yield from look(evidence)


def _done(evidence: Evidence) -> Iterator[Row]:
    load = "import sys; from edl_allreduce import trained_model as t; print(t.load(sys.argv[1]).model.count_params())"
    loaded = subprocess.run(
        [sys.executable, "-c", load, str(evidence.output)], cwd=REPOSITORY, capture_output=True, text=True
    )
    good = loaded.returncode == 0
    told = f"loads, {loaded.stdout.strip()} parameters" if good else loaded.stderr.strip().splitlines()[-1]
    killed = evidence.kinds[-1:] == [Kind.KILL_EVERYTHING]  # the job was done before
    yield Row(good and (evidence.exit_code == 0 or killed), "trained model", told)


def _each_record_once(evidence: Evidence) -> Iterator[Row]:
    folders = [job.audit for job in evidence.jobs]
    by_epoch, wrong = consumed(*folders), list[str]()
    for epoch in range(evidence.epochs):
        times = Counter(record for step in by_epoch.get(epoch, {}).values() for record in step)
        again = sum(1 for each in times.values() if each > 1)
        if len(times) != evidence.records or again:
            wrong.append(f"epoch {epoch}: {evidence.records - len(times)} records missing, {again} more than once")
    if set(by_epoch) - set(range(evidence.epochs)):
        wrong.append(f"epochs {sorted(by_epoch)}")
    told = f"{evidence.epochs} epochs of {evidence.records} records each"
    yield Row(not wrong, "each record once", "; ".join(wrong[:3]) or told)
    counted = attempts(*folders)
    undone = [step for step in counted if counted[step] < counted.get(step - 1, (0, 0))]
    missing = sorted(set(range(1, evidence.steps + 1)) ^ counted.keys())
    found = f"{len(counted)} steps"
    if undone or missing:
        found += f"; undone: {undone[:5]}; missing or too many: {missing[:5]}"
    yield Row(not undone and not missing, "each step counts", found)


def _losses(evidence: Evidence) -> Iterator[Row]:
    right = {line["step"]: line["loss"] for line in _lines(evidence.undisturbed.history) if "loss" in line}
    told = [line for history in evidence.histories for line in history if "loss" in line]
    differences = {line["step"]: abs(line["loss"] / right[line["step"]] - 1) for line in told}
    for line in told:
        differences[line["step"]] = max(differences[line["step"]], abs(line["loss"] / right[line["step"]] - 1))
    worst = max(differences, key=lambda step: differences[step])
    again = f", {len(told) - len(differences)} done again" if len(told) > len(differences) else ""
    found = f"{len(differences)} steps{again}; the largest difference is {differences[worst]:.1e}, at step {worst}"
    yield Row(differences[worst] < LOSS_TOLERANCE, "loss curve", found)
    untold = evidence.steps - len(differences)
    deadly = sum(kind.restarts or kind in (Kind.KILL_ALL, Kind.KILL_COORDINATOR_AND_WORKER) for kind in evidence.kinds)
    yield Row(untold <= UNTOLD * deadly, "steps nobody told", str(untold))


def _weights(evidence: Evidence) -> Iterator[Row]:
    from safetensors.numpy import load_file

    ours, right = (load_file(next(folder.glob("*.safetensors"))) for folder in (evidence.output, _output(evidence)))
    largest = max(float(np.abs(ours[name] - right[name]).max()) for name in right)
    close = ours.keys() == right.keys() and all(
        np.allclose(ours[name], right[name], *WEIGHT_TOLERANCES) for name in right
    )
    yield Row(close, "final weights", f"differ by {largest:.1e} at most")


def _nothing_left(evidence: Evidence) -> Iterator[Row]:
    processes = [line for job in evidence.jobs for line in left_over(job.path.parent.parent)]
    yield Row(not processes, "processes left", f"{len(processes)} {processes[:3] or ''}")
    # Who was killed as a whole cleans nothing up, also when it was all but done: the next job of that home would.
    ends = [*(kind for kind in evidence.kinds if kind.restarts), None]
    jobs = [job for job, end in zip(evidence.jobs, ends, strict=False) if end is not Kind.KILL_EVERYTHING]
    temporary = [str(path) for job in jobs for path in job.tmp.rglob("*")]
    temporary += [str(path) for path in (evidence.folder / "tmp").rglob("*")]
    yield Row(not temporary, "temporary files left", f"{len(temporary)} {temporary[:3] or ''}")
    there, right = (
        {name for name in _names(folder) if not OF_EACH_RUN.fullmatch(name)}
        for folder in (evidence.output, _output(evidence))
    )
    other = sorted(there ^ right)
    found = f"{len(there)}; missing or too many: {other[:5]}" if other else f"{len(there)}"
    yield Row(not other, "files in the output", found)


def _growth(evidence: Evidence) -> Iterator[Row]:
    grown = vitals.growth(_lines(evidence.folder / "vitals.jsonl"))
    for what, allowed in vitals.ALLOWED.items():
        name, most = max(((name, each[what]) for name, each in grown), key=lambda each: each[1], default=("", 0))
        found = f"{most:+g} in {name}, of {len(grown)} that lived long" if grown else "no process lived long"
        yield Row(most <= allowed, f"growth of {what}", found)


def _stopped_in_order(evidence: Evidence) -> Iterator[Row]:
    """A job that could save what it had goes on where it was."""
    restarts = [line for line in evidence.storm if "kind" in line and Kind(line["kind"]).restarts]
    lost = {}
    for line in restarts:
        before, run = evidence.histories[line["run"] - 1], line["run"]
        if Kind(line["kind"]).in_order and run < len(evidence.histories):
            lost[line["fault"]] = reached(before) + 1 - first_step(evidence.histories[run])
    wrong = {fault: steps for fault, steps in lost.items() if steps > 0}
    found = f"{len(lost)} times" + (f"; steps done again after fault: {wrong}" if wrong else ", no step done again")
    yield Row(not wrong, "stopped in order", found)


def _pauses(evidence: Evidence) -> Iterator[Row]:
    """Seconds without a step, by kind of fault; of faults that came together under a name of their own."""
    found: dict[str, list[float]] = {}
    open_: list[dict[str, Any]] = []
    for line in evidence.storm:
        if "kind" in line:
            open_.append(line)
        elif "over" in line and open_:
            name = open_[0]["kind"] if len(open_) == 1 else "several of these at once"
            found.setdefault(name, []).append(_paused(evidence, open_[0], line))
            open_ = []
        elif "start" in line and open_:
            first = evidence.histories[line["start"] - 1][0]["time"]
            found.setdefault(open_[-1]["kind"], []).append(first - open_[-1]["time"])
            open_ = []
    for name, seconds in sorted(found.items()):
        typical = f"median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s, of {len(seconds)}"
        yield Row(None, "no step for", f"{typical}: {name}")


def _paused(evidence: Evidence, fault: dict[str, Any], over: dict[str, Any]) -> float:
    """As the workers told it; where nobody survived who could, what the laboratory saw."""
    history = evidence.histories[fault["run"] - 1]
    lines = history[fault["line"] : over["line"]] if over["run"] == fault["run"] else history[fault["line"] :]
    steps = {line["step"]: line for line in lines if "loss" in line}
    told = {line["round"]: line["paused_seconds"] for line in lines if "paused_seconds" in line}
    pauses = [line["seconds"] - line["useful"] for line in steps.values()]
    for line in lines:
        first = steps.get(line["first_step"]) if "cause" in line else None
        if first and line["round"] in told:
            pauses.append(told[line["round"]] - first["useful"])
        elif first and not first["seconds"]:
            pauses.append(over["time"] - fault["time"])
    return max(pauses, default=0.0)


def _goodput(evidence: Evidence) -> Iterator[Row]:
    useful = {line["step"]: line["useful"] for history in evidence.histories for line in history if "loss" in line}
    wall = evidence.storm[-1]["time"] - evidence.histories[0][0]["time"]
    again = sum(line["repeated"] for history in evidence.histories for line in history if "repeated" in line)
    rounds = sum("cause" in line for history in evidence.histories for line in history)
    found = f"{sum(useful.values()) / wall:.0%} of {wall:.0f} s; {rounds} rounds, {again} records computed again"
    yield Row(None, "goodput", found)


_LOOKS: Sequence[Callable[[Evidence], Iterator[Row]]] = (
    _done,
    _each_record_once,
    _losses,
    _weights,
    _stopped_in_order,
    _nothing_left,
    _growth,
    _pauses,
    _goodput,
)


def _output(evidence: Evidence) -> Path:
    return evidence.folder / "undisturbed" / "output"


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; one that is cut off is left out, as its reader at the time did."""
    lines = Lines(path)
    return lines.read()
