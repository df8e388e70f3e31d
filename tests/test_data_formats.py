"""A real job on another format than RecordIO, which its files' names do not tell."""

from __future__ import annotations

import csv
from pathlib import Path

from edl_allreduce import recordio
from edl_allreduce.tf_example import read_example
from tests.jobs import Job, Train, assert_done, assert_each_record_once


def test_a_job_trains_on_csv(train: Train, tmp_path: Path, digits: Path, records: int) -> None:
    for number, file in enumerate(sorted(digits.glob("train/*.recordio"))):
        rows = [read_example(record) or {} for record in recordio.Reader(str(file))]
        with open(tmp_path / f"part-{number}", "w", newline="", encoding="utf-8") as text:
            writer = csv.writer(text)
            writer.writerow([*(f"pixel {place}" for place in range(64)), "digit"])
            writer.writerows([*map(int, row["image"]), *row["label"]] for row in rows)
    run = train(
        data=f"{tmp_path}/part-*",
        data_format="csv",
        model_zoo="tests/zoo",
        model_def="csv_digits.Classifier",
        num_epochs=2,
        num_workers=2,
    ).finish()
    assert_done(run)
    assert_each_record_once(run, records, epochs=2)
    first, *_, last = run.losses.values()
    assert first > 2 and last < 1.5


def test_a_job_trains_with_the_models_own_reader(tmp_path: Path) -> None:
    flags = {
        "model_zoo": ".",
        "model_def": "tests.zoo.iris_reader",
        "data": "iris:6",
        "validation_data": "iris:1",
        "data_format": "custom",
        "output": tmp_path / "output",
        "num_epochs": 4,
        "batch_size": 32,
        "num_workers": 2,
        "audit": True,
    }
    run = Job(tmp_path, flags).finish()
    assert_done(run)
    assert_each_record_once(run, 900, 4)
    ends = [line["figures"] for line in run.lines if "epoch_end" in line]
    assert ends[-1]["val_accuracy"] > 0.6 and ends[-1]["val_loss"] < ends[0]["val_loss"]
    untold = Job(tmp_path / "untold", {name: value for name, value in flags.items() if name != "data_format"}).finish()
    assert untold.code == 2
    assert "has a custom_data_reader; --data_format=custom reads with it" in untold.text
