"""How long training pauses when a worker is killed, and when its replacement joins; and that the loss does not notice.

    python benchmarks/elasticity.py [--kills=20] [--workers=3] [--data=PATTERN] [--seed=0] [--output=out/elasticity]

Trains the digits model with 3 workers, kills one of them at a random moment (SIGKILL), waits until its replacement
trains, and so on; then trains as many epochs with one worker to which nothing happens, and compares every step's loss.
Prints medians and spread, writes OUTPUT/elasticity.json, and draws OUTPUT/elasticity.png where matplotlib is installed.
The pause is from the survivors' last step before to their first step after, so it contains one step; the time from the
kill to that step is shorter.
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
LEARNING_RATE = 0.0002  # slow, so that there is a curve to compare while workers come and go


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
    history = _disturbed(kills, workers, data, seed, f"{output}/disturbed")
    last = max(line["epoch"] for line in history if "loss" in line)  # it was stopped in the middle of that epoch
    calm = _losses(_history(_train(data, f"{output}/undisturbed", num_epochs=last)))
    stormy = {step: loss for step, loss in _losses(history).items() if step in calm}
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
        "steps compared": len(stormy),
        "largest relative difference of a step's loss": max(abs(stormy[step] / calm[step] - 1) for step in calm),
    }
    Path(output).mkdir(parents=True, exist_ok=True)
    Path(output, "elasticity.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        print(f"{name}: {value}")
    _draw(stormy, calm, rounds, Path(output, "elasticity.png"))


def _train(data: str, output: str, **flags: Any) -> Any:
    return launcher.train(
        model_zoo="model_zoo",
        model_def="digits.Classifier",
        params=f"learning_rate={LEARNING_RATE}",
        data=data,
        output=output,
        batch_size=BATCH,
        quiet=True,
        **flags,
    )


def _history(job: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder / "history.jsonl").read_text().splitlines()]


def _losses(history: list[dict[str, Any]]) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in history if "loss" in line}


def _disturbed(kills: int, workers: int, data: str, seed: int, output: str) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    job = _train(data, output, num_epochs=100_000, num_workers=workers, gather_timeout=60, wait=False)
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
    return _history(job)


def _summary(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {"count": len(values)} | {name: round(value, 4) for name, value in numbers.items()}


def _draw(stormy: dict[int, float], calm: dict[int, float], rounds: list[dict[str, Any]], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no picture: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 4.5), sharex=True, height_ratios=[3, 1])
    above.plot(list(calm), list(calm.values()), color="0.75", linewidth=4, label="1 worker, undisturbed")
    above.plot(list(stormy), list(stormy.values()), color="tab:blue", linewidth=0.8, label="3 workers, some killed")
    above.set_ylabel("loss of a step")
    above.legend(loc="upper right", framealpha=1, edgecolor="none")
    first = [each["first_step"] for each in rounds]
    below.step([*first, len(calm)], [len(each["members"]) for each in [*rounds, rounds[-1]]], where="post")
    below.set(ylabel="workers", xlabel="step", ylim=(0, 3.5), xlim=(0, len(calm)))
    for each in rounds[1:]:
        if not each["cause"].endswith("joined"):
            above.axvline(each["first_step"], color="tab:red", linewidth=0.8)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("kill -9 of a worker (red lines) does not show in the loss")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")


if __name__ == "__main__":
    fire.Fire(measure)
