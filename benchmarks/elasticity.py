"""How long training pauses when a worker is killed, and when its replacement joins; and that the loss does not notice.

    python benchmarks/elasticity.py [--kills=20] [--workers=3] [--data=PATTERN] [--seed=0] [--output=out/elasticity]

Trains the digits model with 3 workers, kills one of them at a random moment (SIGKILL), waits until its replacement
trains, and so on. Prints medians and spread, writes OUTPUT/elasticity.json, and draws OUTPUT/elasticity.png where
matplotlib is installed. The pause is from the survivors' last step before to their first step after, so it
contains one step; the time from the kill to that step is shorter.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fire

import launcher

BATCH = 128


def measure(
    kills: int = 20,
    workers: int = 3,
    data: str = "data/digits/train/*.recordio",
    seed: int = 0,
    output: str = "out/elasticity",
) -> None:
    """Runs the benchmark.

    Args:
        kills: how many workers are killed, one after the other.
        workers: how many train.
        data: RecordIO files of digits, as `python -m model_zoo.digits make data/digits` makes them.
        seed: of the moments and the victims.
        output: folder for results.
    """
    shutil.rmtree(output, ignore_errors=True)
    history = _disturbed_run(kills, workers, data, seed, f"{output}/model")
    rounds = [line for line in history if "cause" in line]
    pauses = {line["round"]: line["paused_seconds"] for line in history if "paused_seconds" in line}
    joined = [pauses[each["round"]] for each in rounds if each["cause"].endswith("joined") and each["round"] in pauses]
    failed = [pauses[r["round"]] for r in rounds[1:] if not r["cause"].endswith("joined") and r["round"] in pauses]
    steps = [line["seconds"] for line in history if "loss" in line and line["seconds"] < 0.1]
    result = {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "platform": platform.platform()},
        "versions": {name: version(name) for name in ("horovod", "keras", "numpy")},
        "workers": workers,
        "kills": kills,
        "step": _summary(steps),
        "pause when a worker is killed": _summary(failed),
        "pause when a worker joins": _summary(joined),
    }
    Path(output).mkdir(parents=True, exist_ok=True)
    Path(output, "elasticity.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        print(f"{name}: {value}")
    _draw(history, rounds, Path(output, "elasticity.png"))


def _disturbed_run(kills: int, workers: int, data: str, seed: int, output: str) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    job = launcher.train(
        model_zoo="model_zoo",
        model_def="digits.Classifier",
        data=data,
        output=output,
        num_epochs=100_000,
        batch_size=BATCH,
        num_workers=workers,
        gather_timeout=60,
        quiet=True,
        wait=False,
    )
    assert job is not None
    done = 0
    try:
        for status in job.watch():
            training = [worker for worker in status.workers if worker.rank >= 0]
            if len(training) < workers:
                continue
            if done == kills:
                break
            time.sleep(0.5 + chance.random())  # the moment is what the benchmark varies
            os.kill(chance.choice(training).pid, signal.SIGKILL)
            done += 1
            print(f"\r{done} of {kills} killed", end="", file=sys.stderr, flush=True)
            before = status.round
            next(each for each in job.watch() if each.round > before)
    finally:
        job.stop()
    print(file=sys.stderr)
    return [json.loads(line) for line in (job.folder / "history.jsonl").read_text().splitlines()]


def _summary(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {"count": len(values)} | {name: round(value, 4) for name, value in numbers.items()}


def _draw(history: list[dict[str, Any]], rounds: list[dict[str, Any]], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no picture: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [line for line in history if "loss" in line]
    ends, now = [], 0.0
    for line in steps:
        now += line["seconds"]
        ends.append(now)
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 5), sharex=True, height_ratios=[2, 1])
    above.semilogy(ends, [line["loss"] for line in steps], linewidth=0.8)
    above.set_ylabel("loss")
    at = {line["step"]: end for line, end in zip(steps, ends, strict=True)}
    formed = [(at.get(each["first_step"], 0.0), each) for each in rounds]
    below.step([when for when, _ in formed], [len(each["members"]) for _, each in formed], where="post")
    below.set_ylabel("workers")
    below.set_ylim(bottom=0)
    below.set_xlabel("seconds of training")
    for when, each in formed[1:]:
        color = "tab:green" if each["cause"].endswith("joined") else "tab:red"
        above.axvline(when, color=color, linewidth=0.6)
    figure.suptitle("A worker killed (red), its replacement joined (green): the loss curve goes on")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")


if __name__ == "__main__":
    fire.Fire(measure)
