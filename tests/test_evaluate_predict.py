"""`edl evaluate` and `edl predict` as a user runs them: the figures and the files that one process would give."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edl_allreduce import predictions, recordio
from edl_allreduce.tf_example_pb2 import Example
from tests.jobs import Job, Run, assert_done, coordinator_of, left_over

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A trained model with metrics of several kinds."""
    home = tmp_path_factory.mktemp("model")
    flags = {
        "model_zoo": "tests/zoo",  # whose files are not known as modules of the tests
        "model_def": "measured.Measured",
        "data": f"{digits}/train/*.recordio",
        "output": home / "output",
        "num_epochs": 1,
    }
    assert_done(Job(home, flags).finish())
    return home / "output"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """More records, in many small chunks: 10,800 digits in files of 450."""
    folder = tmp_path_factory.mktemp("many")
    records = [record for _, record in every_record(digits / "test")]
    for number in range(24):
        with recordio.Writer(str(folder / f"{number:02d}.recordio"), "snappy", 2000) as writer:
            for record in (records * 2)[number * 10 : number * 10 + 450]:
                writer.write(record)
    return folder


def every_record(folder: Path, pattern: str = "*.recordio") -> list[tuple[str, bytes]]:
    found = []
    for file in sorted(folder.glob(pattern)):
        with recordio.open_reader(str(file)) as reader:
            for chunk in reader.index():
                found += [(file.name, record) for record in reader.read_chunk(chunk).take(range(chunk.records))]
    return found


def expected_outputs(model: Path, folder: Path) -> Any:
    import tensorflow as tf

    from edl_allreduce import trained_model

    loaded = trained_model.load(str(model))
    records = tf.data.Dataset.from_tensor_slices([record for _, record in every_record(folder)])
    return np.concatenate([loaded.model(features).numpy() for features, _ in loaded.parse(records, 500)])


def predicted(folder: Path) -> np.ndarray[Any, Any]:
    rows = []
    for _, record in every_record(folder, "part-*.recordio"):
        rows.append(Example.FromString(record).features.feature["prediction"].float_list.value)
    return np.array(rows, np.float32)


def kill_some(job: Job, how_many: int) -> None:
    """SIGKILL to workers while they are at work."""

    def tasks_done() -> int:
        return len([line for line in job.history() if "tasks" in line])

    def await_more(than: int) -> None:
        job.until(lambda: tasks_done() > than, "a task")

    for _ in range(how_many):
        await_more(tasks_done())
        next(iter(job.workers().values())).send_signal(signal.SIGKILL)


def test_figures_of_three_workers_are_those_of_one_process(model: Path, many: Path, tmp_path: Path) -> None:
    """One of two workers does it all for a metric that does not add up: the largest logit ever seen is no sum."""
    import keras

    outputs = expected_outputs(model, many)
    labels = np.array(
        [Example.FromString(record).features.feature["label"].int64_list.value[0] for _, record in every_record(many)]
    )
    probabilities, threes = keras.ops.softmax(outputs).numpy()[:, 3], labels == 3
    expected = {}
    for metric in (
        keras.metrics.AUC(name="auc"),
        keras.metrics.Precision(name="precision"),
        keras.metrics.Recall(name="recall"),
    ):
        metric.update_state(threes, probabilities)
        expected[metric.name] = float(metric.result())
    expected["accuracy"] = float((outputs.argmax(1) == labels).mean())
    runs: dict[int, Run] = {}
    figures: dict[int, dict[str, float]] = {}
    for workers, kills, environ in ((2, 0, {"EDL_TEST_WIDEST": "1"}), (3, 1, {})):
        home = tmp_path / f"workers{workers}"
        flags = {
            "trained_model": model,
            "data": f"{many}/*.recordio",
            "output": home / "figures.json",
            "num_workers": workers,
            "batch_size": 64,
            "records_per_task": 100,
        }
        job = Job(home, flags, environ, command="evaluate")
        kill_some(job, kills)
        runs[workers] = job.finish()
        assert_done(runs[workers])
        figures[workers] = json.loads((home / "figures.json").read_text())["figures"]
    assert figures[2].pop("widest") == pytest.approx(float(outputs.max()), rel=1e-6)
    assert_one_worker_did_it(runs[2])
    for name, value in expected.items():
        assert figures[2][name] == pytest.approx(value, abs=1e-6), name
    assert figures[3].keys() == figures[2].keys()
    for name, value in figures[2].items():
        assert figures[3][name] == pytest.approx(value, rel=1e-6), name


def assert_one_worker_did_it(run: Run) -> None:
    [done] = [line for line in run.lines if "tasks" in line]
    assert len(done["tasks"]) == 24 * 5  # files of 450 records, 100 a task
    assert "note: widest: what one worker finds cannot be added" in run.text


def test_predictions_are_complete_and_in_order_whoever_is_killed(model: Path, many: Path, tmp_path: Path) -> None:
    flags = {
        "trained_model": model,
        "data": f"{many}/*.recordio",
        "output": tmp_path / "predicted",
        "num_workers": 3,
        "batch_size": 64,
        "records_per_task": 100,
    }
    job = Job(tmp_path, flags, command="predict")
    kill_some(job, 2)
    coordinator = coordinator_of(job)
    assert coordinator
    coordinator.kill()
    run = job.finish()
    assert any("restart" in line for line in run.lines)
    assert_done(run)
    manifest = predictions.read(str(tmp_path / "predicted"))
    assert manifest is not None and manifest.complete
    assert sorted(path.name for path in (tmp_path / "predicted").iterdir()) == sorted(
        [*manifest.parts, "_runs", "predictions.json"]
    )
    np.testing.assert_allclose(predicted(tmp_path / "predicted"), expected_outputs(model, many), rtol=1e-5, atol=1e-5)


def test_a_killed_prediction_is_finished_by_the_next(model: Path, many: Path, tmp_path: Path) -> None:
    flags = {
        "trained_model": model,
        "data": f"{many}/*.recordio",
        "output": tmp_path / "predicted",
        "output_format": "csv",
        "records_per_task": 100,
    }
    job = Job(tmp_path / "first", flags, command="predict")
    job.until(lambda: len([line for line in job.history() if "tasks" in line]) >= 5, "tasks")
    assert_keras_is_lean(job)
    job.interrupt()
    assert job.finish().code == 130
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "predicted").glob("part-*")}
    assert there and left_over(tmp_path) == []
    run = Job(tmp_path / "second", flags, command="predict").finish()
    assert_done(run)
    assert not any(line["tasks"] == [0] for line in run.lines if "tasks" in line), "what is there is not done again"
    assert all((tmp_path / "predicted" / name).stat().st_mtime_ns == when for name, when in there.items())
    rows = [
        line for path in sorted((tmp_path / "predicted").glob("part-*")) for line in path.read_text().splitlines()[1:]
    ]
    found = np.array([[float(value) for value in row.split(",")] for row in rows])
    np.testing.assert_allclose(found, expected_outputs(model, many), rtol=1e-4, atol=1e-5)
    again = Job(tmp_path / "third", flags, command="predict").finish()
    assert again.code == 2 and "holds predictions already; choose another folder or add --overwrite" in again.text


def assert_keras_is_lean(job: Job) -> None:
    loaded = {Path(each.path).parent.name for worker in job.workers().values() for each in worker.memory_maps()}
    assert "tensorflow" in loaded and not loaded & {"sklearn", "matplotlib"}  # as tests/test_lean_imports.py wants it


def test_a_bad_record_is_named(model: Path, digits: Path, tmp_path: Path) -> None:
    records = [record for _, record in every_record(digits / "test")]
    with recordio.Writer(str(tmp_path / "bad.recordio")) as writer:
        for record in [*records[:100], b"no tf.Example", *records[:10]]:
            writer.write(record)
    run: Run = Job(tmp_path, {"trained_model": model, "data": tmp_path / "bad.recordio"}, command="evaluate").finish()
    assert run.code == 5
    assert f"bad.recordio, record 100 (in the chunk at offset 0): {model}/model_zoo/measured.py:" in run.text
    assert left_over(tmp_path) == []
