"""A SQL server's program on a real cluster: no Docker, a prebuilt image, from a table to a model and back into it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import REQUEST, Cluster
from tests.databases import Database, Servers, database
from tests.jobs import REPOSITORY
from tests.test_sql_statement_job import PREDICT, TRAIN, employees, salary

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture
def db(database_servers: Servers, tmp_path: Path) -> Iterator[Database]:
    with database(database_servers, "postgresql", str(tmp_path)) as made:
        employees(made)
        yield made


def run(environ: dict[str, str], *words: str) -> str:
    """Runs Python where there is no Docker; the pods' user may write into the folders that it makes."""
    line = f"umask 0; exec {shlex.join([sys.executable, *words])}"
    there = os.environ | environ | {"DOCKER_HOST": "unix:///nowhere"}
    done = subprocess.run(["sh", "-c", line], cwd=REPOSITORY, env=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_printed_program_trains_and_predicts_in_pods(cluster: Cluster, db: Database, tmp_path: Path) -> None:
    environ = {"EDL_DATABASE": db.url, "EDL_HOME": str(tmp_path / "home")}
    flags = {
        "backend": "kubernetes",
        "namespace": cluster.namespace,
        "image": cluster.image,
        "models": f"{cluster.shared}/sql",
        "volumes": cluster.volumes,
        "num_workers": 2,
        "worker_resources": REQUEST,
        "worker_limits": "cpu=2,memory=3Gi",
        "coordinator_resources": "cpu=100m,memory=512Mi",
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    program = run(environ, "-m", "edl_allreduce.launch", "sql", f"{TRAIN};{PREDICT}", *words, "--print_submitter")
    assert "se%2Fcret" not in program and f"image={cluster.image!r}" in program
    (tmp_path / "submitter.py").write_text(program)
    assert "wrote 300 predictions" in run(environ, str(tmp_path / "submitter.py"))
    for role, age, predicted in db.rows("SELECT role, age, predicted FROM employee"):
        assert abs(predicted - salary(role, age)) < 20000, (role, age)
    place = cluster.shared / "sql/salaries"
    assert (place / "trained_model.pb").exists() and not (place / "_data").exists()
    seen = cluster.kubectl("get", "jobs,pods,configmaps,secrets", "-o", "yaml")
    assert "se%2Fcret" not in seen and "se/cret" not in seen
