"""Where a step's time goes, with two workers: waiting for records, computing, agreeing, reducing, applying.

The first two and the last are told by the worker, the others by Horovod's own timeline. A large step is reduced in
several buckets, all but the last of them while the backward pass goes on: what they take is hidden.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import summary
from benchmarks.training import MODELS, chosen_models, training_team

WORKERS = 2
TENSOR = "edl_step_{bucket}_1of"  # the first of each group, which is reduced as one
NEGOTIATE, REDUCE = "NEGOTIATE_ALLREDUCE", "ALLREDUCE"
INPUT, COMPUTE, NEGOTIATION, REDUCTION, APPLY, HIDDEN = (
    *("input", "compute", "negotiation", "reduction", "apply"),
    "reduced meanwhile",
)

Spans = list[tuple[float, float]]  # begin and end, seconds since 1970


def measure(
    models: str = ",".join(MODELS), steps: int = 100, short: bool = False, output: str = "out/timeline"
) -> None:
    """Runs the benchmark.

    Args:
        models: which, joined by commas.
        steps: to be looked at, of each.
        short: a look at it: the digits, 20 steps.
        output: folder for results.
    """
    chosen, steps = chosen_models(models, short), 20 if short else steps
    report = Report("timeline", output, models=chosen, steps=steps)
    shares: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="edl-timeline-") as folder:
        for name in chosen:
            parts = _measure(name, Path(folder), steps)
            report.table(name, [{"part": part, "ms": summary(values)} for part, values in parts.items()])
            shares[name] = {part: summary(values).median for part, values in parts.items() if part != HIDDEN}
    report.close(partial(_panel, shares))


def _measure(name: str, folder: Path, steps: int) -> dict[str, list[float]]:
    """Milliseconds of each part, of each step."""
    file = folder / f"{name}.json"
    with training_team(name, folder, WORKERS, HOROVOD_TIMELINE="DYNAMIC") as members:
        members.join()
        members.ask(do="train", way="ours", steps=steps)
        times = members.ask(do="timeline", steps=steps, file=str(file))[0]
    return parts_of(times, buckets_of(file.read_text(encoding="utf-8")))


def buckets_of(timeline: str) -> list[dict[str, Spans]]:
    """When each bucket of a step was negotiated and reduced, from what Horovod wrote (Chrome's trace format)."""
    whole = timeline.rstrip().rstrip(",")
    events = json.loads(whole if whole.endswith("]") else f"{whole}]")
    described = [(event["pid"], event["args"]) for event in events if event.get("name") == "process_name"]
    began = next(1e-6 * about["start_time_since_epoch_in_micros"] for pid, about in described if pid == 0)
    found: list[dict[str, Spans]] = []
    while pids := {pid for pid, about in described if TENSOR.format(bucket=len(found)) in about.get("name", "")}:
        mine = [each for each in events if each["pid"] in pids]
        found.append({kind: _spans(mine, kind, began) for kind in (NEGOTIATE, REDUCE)})
    return found


def _spans(events: Sequence[Mapping[str, Any]], kind: str, began: float) -> Spans:
    """Events are nested: an end is that of the newest one that is open."""
    spans, opened = [], []
    for event in events:
        if event["ph"] == "B":
            opened.append(event)
        elif event["ph"] == "E" and opened and (begun := opened.pop())["name"] == kind:
            spans.append((began + 1e-6 * begun["ts"], began + 1e-6 * event["ts"]))
    return spans


def parts_of(
    times: Sequence[tuple[float, float, float]], buckets: Sequence[Mapping[str, Spans]]
) -> dict[str, list[float]]:
    """Milliseconds of each part, of each step of which Horovod's timeline tells.

    Args:
        times: of every step: when it had its records, its own part, the whole step.
        buckets: when each of them was negotiated and reduced.
    """
    found: dict[str, list[float]] = {part: [] for part in (INPUT, COMPUTE, NEGOTIATION, REDUCTION, APPLY, HIDDEN)}
    *early, last = buckets
    for (_, _, before), (read, computed, done) in pairwise(times):
        negotiation, reduction = (_seconds(last[kind], computed, done) for kind in (NEGOTIATE, REDUCE))
        if not reduction:
            continue
        parts = [read - before, computed - read, negotiation, reduction]
        hidden = sum(_seconds(bucket[REDUCE], read, done) for bucket in early)
        for part, seconds in zip(found, [*parts, done - before - sum(parts), hidden], strict=True):
            found[part].append(1e3 * seconds)
    return found


def _seconds(spans: Spans, begin: float, end: float) -> float:
    """How much of a time passed in the spans."""
    return sum(max(0.0, min(end, last) - max(begin, first)) for first, last in spans)


def _panel(shares: Mapping[str, Mapping[str, float]], axes: Any) -> None:
    whole = {name: sum(parts.values()) for name, parts in shares.items()}
    percent = {name: {part: 100 * each / whole[name] for part, each in parts.items()} for name, parts in shares.items()}
    plots.stacks(axes, percent)
    axes.set_xlabel("% of a step")
    plots.title(axes, "Where a step's time goes, two workers")


if __name__ == "__main__":
    run(measure)
