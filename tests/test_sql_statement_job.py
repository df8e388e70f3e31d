"""The whole way: from a table to a trained model and back into a table, by `edl sql` and by a printed program."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.databases import Database, Servers, database, sqlalchemy
from tests.jobs import REPOSITORY

TRAIN = """
SELECT role, age, "Salary; or TRAIN m INTO x" FROM employee -- TO TRAIN
TO TRAIN regressor.DNN
WITH hidden_units=[16], learning_rate=0.02, train.num_epochs=30, train.batch_size=32,
     validation.select='SELECT role, age, "Salary; or TRAIN m INTO x" FROM employee WHERE id % 5 = 0'
INTO salaries
"""
PREDICT = "SELECT role, age FROM employee PREDICT employee.predicted USING salaries"


def salary(role: str, age: int) -> float:
    return {"engineer": 60e3, "clerk": 30e3, "boss": 120e3}[role] + 300.0 * age


def edl(folder: Path, environ: Mapping[str, str], *command: str) -> str:
    """Runs a program; returns what it prints."""
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"EDL_HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY)} | dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_from_a_table_to_a_model_and_back(kind: str, database_servers: Servers, tmp_path: Path) -> None:
    with database(database_servers, kind, str(tmp_path)) as db:
        employees(db)
        environ = {"EDL_DATABASE": db.url}
        (tmp_path / "train.sql").write_text(TRAIN)
        said = edl(tmp_path, environ, "-m", "edl_allreduce.launch", "sql", "--file=train.sql")
        assert "extracted 300 rows" in said and "val_loss" in said
        place = tmp_path / "home/models/salaries"
        assert (place / "statement.sql").read_text().endswith(f"\n{TRAIN.strip()};\n")
        assert not (place / "_data").exists(), "the rows are removed"

        program = edl(tmp_path, environ, "-m", "edl_allreduce.launch", "sql", PREDICT, "--print_submitter")
        (tmp_path / "submitter.py").write_text(program)
        assert "wrote 300 predictions" in edl(tmp_path, environ, "submitter.py")
        assert not (place / "_data").exists()

        rows = db.rows("SELECT role, age, predicted FROM employee ORDER BY id")
        assert len(rows) == 300
        wrong = np.array([predicted - salary(role, age) for role, age, predicted in rows])
        assert np.sqrt(np.mean(wrong**2)) < 6000, "of a deviation of some 38,000"
        for path in tmp_path.rglob("*"):
            assert kind == "sqlite" or not path.is_file() or b"se%2Fcret" not in path.read_bytes(), path


def employees(db: Database) -> None:
    chance = random.Random(0)
    people = [(chance.choice(["engineer", "clerk", "boss"]), chance.randint(20, 65)) for _ in range(300)]
    types = {"id": sqlalchemy.Integer, "role": sqlalchemy.Text, "age": sqlalchemy.Integer}
    types["Salary; or TRAIN m INTO x"] = sqlalchemy.Float
    db.load("employee", types, [(number, *each, salary(*each)) for number, each in enumerate(people)])
