"""What every test starts from: a quiet TensorFlow on the CPU and none of the user's own settings."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from edl_allreduce import recordio
from tests.clusters import Cluster, a_cluster
from tests.jobs import Hold, Job, Run, Train, assert_done, digits_job

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
for name in [name for name in os.environ if name.startswith(("EDL_", "HOROVOD_")) and not name.startswith("EDL_TEST_")]:
    del os.environ[name]
# Whoever starts the tests in the background of a script has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
LONGEST = [
    "test_evaluate_predict",
    "test_callbacks_job",
    "test_storage_clouds",
    "test_step_features",
    "test_export",
    "test_contract_outputs",
    "test_data_formats",
    "test_sql_statement_job",
    "test_notebook",
    "test_bad_records",
    "test_model_zoo_models",
    "test_trained_model",
    "test_checkpoint",
    "test_cli",
    "test_job_verbs_real",
]
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: then no process is left alone with one of them in the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests and what they start put theirs where pytest removes them some day, also when all of it was killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real handwritten digits: folders train and test with RecordIO files."""
    from model_zoo import digits

    folder = tmp_path_factory.mktemp("digits")
    digits.make(str(folder))
    return folder


@pytest.fixture(scope="session")
def records(digits: Path) -> int:
    """How many records there are to train with."""
    return sum(chunk.records for file in digits.glob("train/*.recordio") for chunk in recordio.index(str(file)))


@pytest.fixture
def train(tmp_path: Path, digits: Path) -> Train:
    """Starts `edl train` on the digits, in a state folder of its own, its output in the folder `output` there."""

    def start(**flags: Any) -> Job:
        return digits_job(tmp_path / f"home{len(list(tmp_path.iterdir()))}", digits, **flags)

    return start


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Run:
    """A job like those of `train`, with one worker, to which nothing happens: what all others must come to."""
    run = digits_job(tmp_path_factory.mktemp("calm"), digits).finish()
    assert_done(run)
    return run


@pytest.fixture
def hold(tmp_path_factory: pytest.TempPathFactory) -> Hold:
    """Slows a job down for a while."""
    return Hold(tmp_path_factory.mktemp("hold") / "hold")


@pytest.fixture(autouse=True)
def no_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of this machine are not looked for in whatever cluster there is, but by tests that are about it."""
    if request.node.get_closest_marker("cluster") is None:
        monkeypatch.delenv("KUBECONFIG", raising=False)


@pytest.fixture(scope="session")
def database_servers() -> Iterator[Any]:
    """Database servers, started when a test needs them; see tests/databases.py."""
    from tests.databases import Servers

    with Servers() as servers:
        yield servers


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A namespace of a real cluster, see tests/clusters.py."""
    with a_cluster() as found:
        yield found
