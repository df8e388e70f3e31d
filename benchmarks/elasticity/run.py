"""One run of the benchmark: our job, the undisturbed one, the others' jobs, and what is written about them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.common import machine
from benchmarks.common.summary import summarize
from benchmarks.elasticity import history
from benchmarks.elasticity.digits import write_arrays
from benchmarks.elasticity.figures import MEANING, Measurement, as_json, headline, table, values_of
from benchmarks.elasticity.ours import OurJob, start
from benchmarks.elasticity.peer import Peer, measure_peer
from benchmarks.elasticity.picture import Curves, draw
from benchmarks.elasticity.settings import Settings
from benchmarks.elasticity.stamps import TooLate
from edl_allreduce.job_folder import JobFolder

Result = dict[str, Any]


def run(settings: Settings, peers: Sequence[Peer]) -> None:
    """Measures, prints, writes and draws.

    Raises:
        EdlError: our own job failed, or there are no data. What had been measured until then is written all the same.
    """
    about = machine.describe()
    shutil.rmtree(settings.work, ignore_errors=True)
    settings.work.mkdir(parents=True)
    os.environ["EDL_HOME"] = str(settings.work / "home")
    write_arrays(settings.data, settings.work / "digits.npz")
    print(machine.sentence(about), flush=True)
    result: Result = {
        "machine": about,
        "versions": machine.versions(),
        "settings": {name: str(value) for name, value in asdict(settings).items()},
        "notes": {},
    }
    found: list[Measurement] = []
    try:
        curves = _ours(settings, found, result)
        for peer in peers:
            result["notes"][peer.name] = _measure_peer(peer, settings, found)
    finally:
        if found:
            _conclude(result, found, settings)
    picture = settings.output / "elasticity.png"
    drawn = draw(curves, found, settings.limit, machine.sentence(about), picture)
    print(f"picture: {picture}" if drawn else "no picture: pip install matplotlib")


def _ours(settings: Settings, found: list[Measurement], result: Result) -> Curves:
    with OurJob(settings) as job:
        _collect(job.measure(), found, settings)
    stormy_steps = history.steps(job.folder / "history.jsonl")
    last = max(step["epoch"] for step in stormy_steps)  # it was stopped in the middle of that epoch
    _progress(f"undisturbed: 1 worker, {last} epochs")
    calm_job = start(settings, "undisturbed", "", num_epochs=max(1, last))
    calm = {step["step"]: step["loss"] for step in history.steps(JobFolder.of(calm_job.name, os.environ).history)}
    stormy = {step["step"]: step["loss"] for step in stormy_steps if step["step"] in calm}
    difference = max(abs(stormy[step] / calm[step] - 1) for step in stormy)
    usual = summarize(step["useful"] for step in stormy_steps)
    assert usual
    result["step of our workers, s"] = {"median": usual.median, "least": usual.least, "most": usual.most}
    result["steps compared"], result["largest relative difference of a step's loss"] = len(stormy), difference
    rounds = history.rounds(job.folder / "history.jsonl")
    return Curves(stormy, {step: calm[step] for step in stormy}, rounds, settings.workers, difference)


def _measure_peer(peer: Peer, settings: Settings, found: list[Measurement]) -> str:
    """Measures another framework; a line about how, or why not."""
    if peer.missing:
        return f"not measured: {peer.missing}"
    measured = measure_peer(peer, settings, settings.work / peer.name.replace(" ", ""), settings.work / "digits.npz")
    try:
        _collect(measured, found, settings)
    except TooLate as error:
        return f"{peer.about}; broken off: {error}"
    return peer.about


def _collect(measured: Generator[Measurement, None, None], found: list[Measurement], settings: Settings) -> None:
    with contextlib.closing(measured):  # its processes must end with it
        for each in measured:
            found.append(each)
            done = sum(one.system == each.system and one.kind == each.kind for one in found)
            _progress(f"{each.system}: {each.kind} {done}: {headline(each, settings.limit)}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _conclude(result: Result, found: Sequence[Measurement], settings: Settings) -> None:
    """Prints the table and writes everything."""
    summaries = {(each.system, each.kind, figure) for each in found for figure in each.values}
    result["summary"] = [
        {"system": system, "kind": kind, "figure": figure, **as_json(values_of(found, system, kind, figure))}
        for system, kind, figure in sorted(summaries)
    ]
    result["what the figures mean"] = MEANING
    result["measurements"] = [asdict(each) for each in found]
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    (settings.output / "elasticity.json").write_text(text + "\n", encoding="utf-8")
    print(f"\n{table(found, settings.limit)}\n\nmedian (least … most) × number")
    for name in ("step of our workers, s", "steps compared", "largest relative difference of a step's loss"):
        if name in result:
            print(f"{name}: {result[name]}")
    for system, note in result["notes"].items():
        print(f"{system}: {note}")
