"""What would make a job fail at once is said before it starts, in one line, without importing the user's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edl_allreduce import task_spec
from edl_allreduce.errors import ModelError, StorageError, UsageError
from edl_allreduce.spec import JobSpec, OutputSpec
from edl_allreduce.task_spec import EvaluateSpec, PredictSpec
from launcher.check import check, check_data, check_model, check_output, check_packages
from launcher.declared import declared_names

MODEL = """
raise RuntimeError("this file must not be run")
import keras
from keras import losses as kl
from other.thing import helper

class Classifier(keras.Model):
    inner = 1

def my_input(record):
    hidden = 1

Alias = Classifier
one, (two, *rest) = 1, (2, 3)
typed: int = 3
try:
    import fast
except ImportError:
    fast = fallback = None
if True:
    def conditional(): ...
else:
    otherwise = 1
with open("x") as handle: within = 1
for index in range(3): looped = index
match one:
    case 1:
        matched = 1
print(walrus := 1)
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    zoo = tmp_path / "zoo"
    (zoo / "deep").mkdir(parents=True)
    (zoo / "digits.py").write_text(MODEL)
    (zoo / "deep" / "wide.py").write_text("class Wide: ...\ndef custom_model(): ...\ndef my_loss(): ...\n")
    (zoo / "starred.py").write_text("from digits import *\n")
    (zoo / "lazy.py").write_text("def __getattr__(name): ...\n")
    (zoo / "broken.py").write_text("x = 1\nclass Model(:\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.recordio").touch()
    return zoo


def job(**values: Any) -> JobSpec:
    given = {"model_zoo": "zoo", "model_def": "digits.Classifier", "data": "data/*.recordio", "output": "out"}
    return JobSpec.from_flags(given | values)


def test_names_are_found_wherever_a_module_binds_them() -> None:
    names = declared_names(MODEL.encode(), "digits.py")
    assert names is not None
    assert names >= {"keras", "kl", "helper", "Classifier", "my_input", "Alias", "one", "two", "rest", "typed"}
    assert names >= {"fast", "fallback", "conditional", "otherwise", "handle", "within", "index", "looped", "matched"}
    assert "walrus" in names and not names & {"inner", "hidden", "other", "thing", "losses"}


@pytest.mark.parametrize("source", ["from x import *", "def __getattr__(name): ..."])
def test_what_only_running_the_file_could_tell_is_not_decided(source: str) -> None:
    assert declared_names(source.encode(), "x.py") is None


@pytest.mark.parametrize("source", [b"x = \x00", b"x = '\xff'", b"x = " + b"-" * 50_000 + b"1", b"def f(:\n"])
def test_a_file_that_is_not_python_is_named(source: bytes) -> None:
    with pytest.raises(ModelError, match=r"^zoo/x\.py"):
        declared_names(source, "zoo/x.py")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model_def": "digits.Alias"},
        {"model_def": "deep.wide.Wide"},
        {"model_def": "deep.wide"},
        {"model_def": "starred.Anything"},
        {"model_def": "lazy.Anything"},
        {"input_fn": "my_input"},
        {"input_fn": "digits.my_input"},
        {"loss": "sparse_categorical_crossentropy", "optimizer": "adam"},
        {"loss": "deep.wide.my_loss"},
    ],
)
def test_models_that_can_be_found(zoo: Path, values: dict[str, str]) -> None:
    check_model(job(**values).model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model_zoo": "zo"},
            "--model_zoo: expected a folder with the model's Python files, 'zo' is none; edl zoo init FOLDER makes one",
        ),
        (
            {"model_def": "Classifier"},
            "--model_def: 'Classifier' needs the file zoo/Classifier.py or zoo/Classifier/__init__.py, which does not",
        ),
        ({"model_zoo": "zoo/digits.py"}, "--model_zoo: "),
        ({"model_def": "digit.Classifier"}, "--model_def: 'digit.Classifier' needs the file zoo/digit.py"),
        (
            {"model_def": "digits.Clasifier"},
            "--model_def: zoo/digits.py defines no 'Clasifier' (did you mean 'Classifier'",
        ),
        (
            {"model_def": "digits"},
            "--model_def: zoo/digits.py defines no 'custom_model'; to use a class or function of it,",
        ),
        ({"input_fn": "my_inptu"}, "--input_fn: zoo/digits.py defines no 'my_inptu' (did you mean 'my_input'?)"),
        ({"input_fn": "deep.wide"}, "--input_fn: expected FILE.NAME, got the file zoo/deep/wide.py"),
        ({"loss": "deep.wide.a_loss"}, "--loss: zoo/deep/wide.py defines no 'a_loss' (did you mean 'my_loss'?)"),
        ({"optimizer": "deep.wild.sgd"}, "--optimizer: "),
    ],
)
def test_models_that_cannot_be_found(zoo: Path, values: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_model(job(**values).model)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_model_that_is_not_python_is_the_models_error(zoo: Path) -> None:
    with pytest.raises(ModelError, match=r"^zoo/broken\.py:2: SyntaxError: invalid syntax: class Model\(:$"):
        check_model(job(model_def="broken.Model").model)


def test_data_that_matches_nothing_is_named(zoo: Path) -> None:
    check_data("data/*.recordio")
    with pytest.raises(StorageError, match=r"^--data: .*data/\*\.csv"):
        check_data("data/*.csv")


def test_an_output_that_holds_something_is_kept(tmp_path: Path) -> None:
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    full.mkdir()
    (full / "model").touch()
    file.touch()
    for output in (tmp_path / "new" / "deep", empty, f"file://{empty}"):
        check_output(OutputSpec(str(output)))
    check_output(OutputSpec(str(full), overwrite=True))
    with pytest.raises(
        UsageError, match=r"^--output: .*full already exists; choose another folder or add --overwrite$"
    ):
        check_output(OutputSpec(str(full)))
    with pytest.raises(UsageError, match=r"^--output: .*file is a file; choose a folder$"):
        check_output(OutputSpec(str(file), overwrite=True))
    with pytest.raises(UsageError, match=r"^--output: .* cannot be made: .*file is not a folder"):
        check_output(OutputSpec(str(file / "below")))


def test_predictions_and_figures_have_a_place_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "trained_model.pb").touch()
    (tmp_path / "a.recordio").touch()
    given = {"trained_model": str(tmp_path / "model"), "data": str(tmp_path / "a.recordio")}
    file, below = tmp_path / "a.recordio", tmp_path / "a.recordio" / "below"
    for output, problem in ((file, "is a file; choose a folder"), (below, "cannot be made: .*a.recordio is not a")):
        with pytest.raises(UsageError, match=f"^--output: {output} {problem}"):
            check(task_spec.from_flags(PredictSpec, given | {"output": str(output)}))
    for output, problem in (
        (tmp_path, "is a folder; figures go to a file"),
        (below, "cannot be made: .*a.recordio is"),
    ):
        with pytest.raises(UsageError, match=f"^--output: {output} {problem}"):
            check(task_spec.from_flags(EvaluateSpec, given | {"output": str(output)}))
    for allowed in ("", "new/figures.json", str(file)):
        check(task_spec.from_flags(EvaluateSpec, given | {"output": allowed}))


def test_what_a_killed_job_has_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000000100").mkdir(parents=True)
    (tmp_path / "spec.json").touch()
    (tmp_path / ".c875cc82bdd802d1.tmp").touch()
    (tmp_path / "model_zoo").mkdir()
    check_output(OutputSpec(str(tmp_path)))
    (tmp_path / "trained_model.pb").touch()  # written last: the model is complete
    with pytest.raises(UsageError, match="already exists"):
        check_output(OutputSpec(str(tmp_path)))


def test_an_output_in_a_bucket_that_exists_is_kept() -> None:
    from edl_allreduce import storage

    storage.write_bytes_atomic("memory://launcher-check/model/file", b"x")
    check_output(OutputSpec("memory://launcher-check/other"))
    with pytest.raises(UsageError, match="already exists"):
        check_output(OutputSpec("memory://launcher-check/model"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"horovod"}, r"^workers need horovod, .*: \S+ -m edl_allreduce.horovod_wheel install$"),
        (
            {"tensorflow", "keras"},
            r"^workers need tensorflow and keras, .*: \S+ -m pip install 'edl_allreduce\[worker\]'$",
        ),
        ({"tensorflow", "horovod"}, r"\[worker\]' && \S+ -m edl_allreduce.horovod_wheel install$"),
    ],
)
def test_missing_packages_come_with_the_command_that_installs_them(missing: set[str], message: str) -> None:
    check_packages(lambda name: True)
    with pytest.raises(UsageError, match=message):
        check_packages(lambda name: name not in missing)


def test_a_job_without_faults_passes(zoo: Path) -> None:
    check(job())
