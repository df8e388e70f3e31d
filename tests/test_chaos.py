"""The fault laboratory: a short storm over a real job, and that its verdict notices what it must not miss."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edl_allreduce.worker.audit import attempts, consumed
from tests.chaos import vitals
from tests.chaos.plan import DECK, SIZES, Kind, When, epochs, storm
from tests.chaos.run import Lines, first_step, reached
from tests.chaos.verdict import Evidence, judge
from tests.jobs import BATCH, REPOSITORY, left_over

pytestmark = pytest.mark.job

SEED, FAULTS = 2823, 5


def test_a_storm_is_a_function_of_its_seed() -> None:
    assert storm(5, 200, 3) == storm(5, 200, 3) != storm(6, 200, 3)


@pytest.mark.parametrize("seed", range(20))
def test_a_storm_has_everything_and_is_possible(seed: int) -> None:
    faults = storm(seed, 200, 3)
    assert [fault.number for fault in faults] == list(range(1, 201))
    assert {fault.kind for fault in faults} == set(DECK) and {fault.when for fault in faults} == set(When)
    before = None
    for fault in faults:
        assert fault.target in SIZES
        assert fault.kind is not Kind.HANG or fault.target > 1
        if fault.when in (When.AT_ONCE, When.ROUND):
            assert before and before.kind.reforms
        before = fault
    assert epochs(200, 1437, 64) * 23 > 200 * 60


def write(folder: Path, name: str, *lines: dict[str, Any], rest: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)


def test_the_audits_of_successive_jobs_are_one(tmp_path: Path) -> None:
    def means(round: int, step: int, *places: int) -> dict[str, Any]:
        return {"round": round, "step": step, "epoch": 0, "records": [[0, place] for place in places]}

    def applied(round: int, step: int) -> dict[str, Any]:
        return {"round": round, "step": step, "applied": True}

    one, two = tmp_path / "one", tmp_path / "two"
    write(one, "worker-0.jsonl", means(1, 1, 0), applied(1, 1), means(1, 2, 2), applied(1, 2), means(1, 3, 4))
    write(one, "worker-1.jsonl", means(1, 1, 1), applied(1, 1), means(1, 2, 3), rest='{"round": 1, "st')
    assert consumed(one) == {0: {1: [(0, 0), (0, 1)], 2: [(0, 2), (0, 3)]}}
    assert attempts(one) == {1: (0, 1), 2: (0, 1)}
    write(two, "worker-0.jsonl", means(1, 2, 2, 3), applied(1, 2), means(1, 3, 4, 5), applied(1, 3))
    assert consumed(one, two) == {0: {1: [(0, 0), (0, 1)], 2: [(0, 2), (0, 3)], 3: [(0, 4), (0, 5)]}}
    assert attempts(one, two) == {1: (0, 1), 2: (1, 1), 3: (1, 1)}


@pytest.mark.parametrize(("leaks", "grown"), [(0, 0), (1, 75)])
def test_growth_is_found(leaks: int, grown: int) -> None:
    samples = [
        {"time": time, "name": "worker 1", "pid": 7, "threads": 30, "descriptors": 40 + leaks * time, "mebibytes": 500}
        for time in range(134)
    ]
    [(name, each)] = vitals.growth([*samples, {**samples[0], "name": "worker 2"}])
    assert name == "worker 1" and each["threads"] == 0
    assert each["descriptors"] == pytest.approx(grown, abs=2)


def test_where_a_run_began_and_ended_is_read_from_its_rounds() -> None:
    begun: list[dict[str, Any]] = [{"notice": "a checkpoint was passed over"}, {"cause": "start", "first_step": 8}]
    assert first_step(begun) == 8 and reached(begun) == 7
    lost = [*begun, {"step": 8, "loss": 1.0}, {"step": 9, "loss": 1.0}, {"cause": "all were lost", "first_step": 8}]
    assert first_step(lost) == 8 and reached(lost) == 7
    assert reached([*lost, {"step": 8, "loss": 1.0}, {"epoch_end": 1}]) == 8


def test_lines_are_read_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    lines = Lines(path)
    assert lines.read() == []
    path.write_bytes(b'{"step": 1}\n{"st')
    assert lines.read() == [{"step": 1}]
    with path.open("ab") as file:
        file.write(b'ep": 2}\n{"cut off\n')
    assert lines.read() == [{"step": 2}] and lines.all == [{"step": 1}, {"step": 2}]


@pytest.fixture(scope="module")
def weathered(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """The folder of a storm in which nothing was lost."""
    pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")
    folder = tmp_path_factory.mktemp("storm")
    command = [sys.executable, "-m", "tests.chaos", f"--seed={SEED}", f"--faults={FAULTS}", "--keep"]
    process = subprocess.Popen(
        [*command, f"--data={digits}/train/*.recordio"],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        text = process.communicate(timeout=280)[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0, text
    assert text.count("\nok ") > 10 and "FAILED" not in text
    [kept] = folder.glob("chaos-*")
    assert left_over(folder) == []
    return kept


def evidence(folder: Path, records: int) -> Evidence:
    number = epochs(FAULTS, records, BATCH)
    return Evidence(folder, folder / "output", records, number, number * -(-records // BATCH), 0)


def wrong(folder: Path, records: int) -> list[str]:
    return [row.what for row in judge(evidence(folder, records)) if row.good is False]


def test_nothing_is_lost_in_a_storm(weathered: Path, records: int) -> None:
    assert wrong(weathered, records) == []
    done = [line for line in evidence(weathered, records).storm if "done" in line]
    assert [line["done"] for line in done] == list(range(1, FAULTS + 1))


def lose_a_record(folder: Path) -> None:
    path = next(folder.glob("run-*/jobs/*/audit/worker-0.jsonl"))
    line, *rest = path.read_text().splitlines(keepends=True)
    lighter = json.loads(line)
    lighter["records"].pop()
    path.write_text(json.dumps(lighter) + "\n" + "".join(rest))


def change_a_loss(folder: Path) -> None:
    path = next(folder.glob("run-1/jobs/*/history.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    next(line for line in lines if "loss" in line)["loss"] *= 1.001
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def forget_a_file(folder: Path) -> None:
    (folder / "tmp" / "__autograph_generated_file0.py").touch()


def leave_a_checkpoint(folder: Path) -> None:
    (folder / "output" / "checkpoints" / "step-000000001").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "noticed"),
    [
        (lose_a_record, "each record once"),
        (change_a_loss, "loss curve"),
        (forget_a_file, "temporary files left"),
        (leave_a_checkpoint, "files in the output"),
        (lambda folder: (folder / "output" / "trained_model.pb").unlink(), "trained model"),
    ],
)
def test_the_verdict_notices(
    spoil: Callable[[Path], object], noticed: str, weathered: Path, records: int, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(weathered, copy)
    spoil(copy)
    assert noticed in wrong(copy, records)
