"""`edl zoo init` makes a folder that trains, `edl zoo list` tells of the models there are."""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edl_allreduce import contracts
from edl_allreduce.contracts.resolve import locate
from edl_allreduce.spec import JobSpec, ModelSpec
from launcher.cli import main as edl
from launcher.commands.zoo import STOCK, next_steps, stock_models
from launcher.declared import declared_names


def flags_of(command: str) -> dict[str, str]:
    """The flags of a command line."""
    words = [word for word in shlex.split(command.replace("\\\n", " ")) if word.startswith("--")]
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def test_a_new_folder_makes_its_data_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert edl(["zoo", "init", "my zoo/fintech"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        "made my zoo/fintech/model.py, my zoo/fintech/make_data.py, my zoo/fintech/requirements.txt\n"
    )
    assert sorted(path.name for path in Path("my zoo/fintech").iterdir()) == [
        "make_data.py",
        "model.py",
        "requirements.txt",
    ]
    steps = next_steps("my zoo/fintech")
    make, train, *use = steps[0], "\n".join(steps[1:3]), *steps[3:]
    assert all(f"  {line}\n" in told for line in steps)
    words = shlex.split(make)
    subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
    spec = JobSpec.from_flags(flags_of(train))
    import tensorflow as tf

    from model_zoo.data import records_of

    training = contracts.load(spec.model)
    records = records_of([spec.data.data])
    assert int(records.cardinality()) == 3000
    features, labels = next(iter(training.batches(records, 64)))
    assert training.model(features).shape == [64, 3] and set(labels.numpy()) == {0, 1, 2}
    assert float(tf.reduce_mean(training.loss(labels, training.model(features)))) > 0
    predicting = contracts.load(spec.model, contracts.Mode.PREDICTION)
    assert next(iter(predicting.batches(records, 64))).shape == [64, 2]
    assert [flags_of(line)["data"] for line in use] == ["data/fintech/test/*.recordio"] * 2
    assert {flags_of(line)["trained_model"] for line in use} == {spec.output.output}
    assert len(list(Path("data/fintech/test").glob("*.recordio"))) == 4


def test_what_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert edl(["zoo", "init", str(tmp_path / "full")]) == 2
    assert edl(["zoo", "init", str(tmp_path / "full" / "notes.txt")]) == 2
    assert edl(["zoo", "init", str(tmp_path / "full" / "notes.txt" / "deeper")]) == 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    assert errors[0].endswith("full is not empty; choose a new folder")
    (tmp_path / "empty").mkdir()
    assert edl(["zoo", "init", str(tmp_path / "empty")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_the_template_is_for_people_who_have_no_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_data.py"])
        runpy.run_path(str(STOCK / "template" / "make_data.py"), run_name="__main__")
    assert ended.value.code == "usage: python make_data.py FOLDER"


def test_the_list_names_every_model_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert edl(["zoo", "list"]) == 0
    told = capsys.readouterr().out
    wanted = {
        *("census.income_model", "cifar10.resnet20", "classifier.DNN", "deepfm.DeepFM", "digits.Classifier"),
        *("digits.functional_classifier", "elasticdl_iris", "elasticdl_mnist.MnistElasticDLSpec", "heart.risk_model"),
        *("imagenet_resnet50.resnet50", "mnist.CustomModel", "mnist.functional_model", "regressor.DNN"),
        *("regressor.wide_and_deep.MagicalWAD", "train_spec_wine.Wine"),
    }
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in told.splitlines() if line.startswith("  ")}
    assert set(listed) == wanted and all(listed.values())


def test_every_model_in_the_list_is_one_that_a_job_can_name() -> None:
    for module, about, models in stock_models(STOCK):
        assert about.endswith((".", "it.", "table.")), module
        for each in models:
            spec = ModelSpec(model_zoo=str(STOCK), model_def=each.model_def)
            place = locate(spec.model_zoo, spec.model_def)
            names = declared_names(Path(place.file).read_bytes(), place.file)
            assert names is not None and (place.name or "custom_model") in names


def test_listing_imports_nothing() -> None:
    code = "import sys; from launcher.cli import main; main(['zoo', 'list']); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=STOCK.parent)
    assert not {"tensorflow", "keras", "model_zoo", "digits", "numpy"} & set(ended.stderr.split())
