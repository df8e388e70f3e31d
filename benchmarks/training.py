"""Examples per second of real models: our workers against a hand-written Horovod loop and, alone, against Keras's fit.

All train the same model on the same records with batches of the same size, over the same ring, in the same processes,
in turn. The hand-written loop is a `tf.function` with plain `hvd.allreduce` per gradient; it reads TFRecord files with
`tf.data`, and follows the loss and the same metrics as ours does.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import alternate, ratios, summary
from benchmarks.elasticity.settings import thread_settings
from benchmarks.ring.data import write
from benchmarks.ring.team import Team, team
from edl_allreduce.errors import UsageError

MODEL_ZOO = Path(__file__).resolve().parent.parent / "model_zoo"
OURS, BY_HAND, FIT = "ours", "by hand", "fit"
GOALS = {BY_HAND: 0.98, FIT: 1.0}


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        batch: the global batch.
        steps: of a block, about a second.
    """

    model_def: str
    batch: int
    steps: int
    params: str = ""


MODELS: Mapping[str, Model] = {
    "digits": Model("digits.Classifier", 128, 60),
    "resnet20": Model("cifar10.resnet20", 64, 6, "augment=False"),
    "deepfm": Model("deepfm.DeepFM", 256, 150),
}


def measure(
    models: str = ",".join(MODELS),
    workers: tuple[int, ...] = (1, 2),
    repeats: int = 15,
    short: bool = False,
    output: str = "out/training",
) -> None:
    """Runs the benchmark.

    Args:
        models: which, joined by commas.
        workers: how many train, one number after the other.
        repeats: blocks of steps of each kind, in turn.
        short: a look at it: the digits, three blocks.
        output: folder for results.
    """
    chosen, repeats = chosen_models(models, short), 3 if short else repeats
    report = Report("training", output, models=chosen, workers=workers, repeats=repeats)
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="edl-training-") as folder:
        for name in chosen:
            for number in workers:
                found = _measure(name, Path(folder), number, repeats)
                title = f"{name}, {number} worker{'s' if number > 1 else ''}"
                rates[title] = _tell(report, title, MODELS[name], found)
    report.close(partial(_panel, rates))


def _tell(report: Report, title: str, model: Model, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    examples = model.steps * model.batch
    rows = [
        {
            "way": way,
            "examples per second": summary(examples / seconds for seconds in values),
            "ms per step": 1e3 * summary(values).median / model.steps,
            "ours to it": ratios(values, found[OURS]),
        }
        for way, values in found.items()
    ]
    report.table(title, rows)
    report.result[f"{title}: seconds of blocks of {model.steps} steps"] = found
    for way in found:
        if way in GOALS:
            report.goal(f"{title}: ours / {way}", ratios(found[way], found[OURS]).median, GOALS[way])
    return {way: summary(values).median / summary(found[OURS]).median for way, values in found.items() if way != OURS}


def chosen_models(models: str, short: bool) -> list[str]:
    """Which of MODELS are asked for; the first of them where a short look is enough.

    Raises:
        UsageError: one does not exist.
    """
    chosen = models.split(",")
    for name in chosen:
        if name not in MODELS:
            raise UsageError(f"--models: expected some of {', '.join(MODELS)}, got {name!r}")
    return chosen[:1] if short else chosen


@contextmanager
def training_team(name: str, folder: Path, workers: int, **environ: str) -> Iterator[Team]:
    """Processes that train a model in every way, in turn; its data are written below `folder`, once."""
    model, data = MODELS[name], folder / name
    if not data.exists():
        write(name, data)
    flags = {"model_zoo": MODEL_ZOO, "model_def": model.model_def, "params": model.params, "batch_size": model.batch}
    flags |= {"data": data, "output": "none"}
    config = json.dumps({"flags": {name: str(value) for name, value in flags.items()}})
    with team("benchmarks.ring.training", workers, thread_settings(workers) | environ, config) as members:
        yield members


def _measure(name: str, folder: Path, workers: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each block of steps, by way."""
    with training_team(name, folder, workers) as members:
        ways = members.join()[0]
        measures = {way: partial(_block, members, way, MODELS[name].steps) for way in sorted(ways, reverse=True)}
        for each in measures.values():
            each()  # traces, and fills what is read ahead
        return alternate(measures, repeats)


def _block(members: Team, way: str, steps: int) -> float:
    return float(max(members.ask(do="train", way=way, steps=steps)))


def _panel(rates: Mapping[str, Mapping[str, float]], axes: Any) -> None:
    values = {f"{title}, against {way}": ratio for title, ways in rates.items() for way, ratio in ways.items()}
    plots.bars(axes, values, goal=1.0)
    axes.set_xlabel("our examples per second, times theirs")
    plots.title(axes, "Training")


if __name__ == "__main__":
    run(measure)
