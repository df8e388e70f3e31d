"""A misspelt param is refused before anything starts; whatever might be right is left to the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from edl_allreduce.errors import ModelError
from edl_allreduce.spec import ModelSpec
from launcher.check import check_model

REPOSITORY = Path(__file__).resolve().parent.parent
NET = """
import keras
class Net(keras.Model):
    def __init__(self, units=1, *, rate=0.1): ...
    @staticmethod
    def default_loss(smoothing=0.0): ...
    def call(self, x, **more): loss = 1
"""


def check(zoo: Path, source: str, params: str, name: str = "Net", **more: str) -> None:
    (zoo / "m.py").write_text(source)
    check_model(ModelSpec(model_zoo=str(zoo), model_def=f"m.{name}", params=params, **more))


@pytest.mark.parametrize(
    ("source", "name", "params", "message"),
    [
        (NET, "Net", "unit=3", "there is no parameter 'unit' (did you mean 'units'?); Net takes units, rate"),
        (NET, "Net", "rate=1, smoothin=2", "there is no parameter 'smoothin'; Net takes units, rate"),
        ("def net(units=3): ...\n", "net", "size=3", "there is no parameter 'size'; net takes units"),
        ("def net(): ...\n", "net", "size=3", "there is no parameter 'size'; net takes none"),
    ],
)
def test_what_nothing_takes(tmp_path: Path, source: str, name: str, params: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        check(tmp_path, source, params, name)
    assert str(caught.value) == f"{tmp_path}/m.py: {message}"


@pytest.mark.parametrize(
    "source",
    [
        NET.replace("rate=0.1", "rate=0.1, **others"),
        NET.replace("keras.Model", "Base"),
        NET.replace("    def __init__", "    @wrapped\n    def __init__"),
        NET.replace("class", "@wrapped\nclass"),
        NET.replace("(keras.Model)", "(keras.Model, metaclass=Meta)"),
        NET.replace("__init__", "construct"),
        NET.replace("smoothing=0.0", "**smoothing"),
        NET.replace("@staticmethod", "@wrapped"),
        NET + "    default_optimizer = made(3)\n",
        NET + "from others import loss\n",
        NET + "from others import *\n",
        NET + "optimizer = made(3)\n",
        NET + "Net = wrapped(Net)\n",
        NET.replace("loss = 1", "self.default_optimizer = made(3)"),
        "from others import Net\n",
    ],
)
def test_what_only_running_the_model_could_tell(tmp_path: Path, source: str) -> None:
    assert source != NET
    check(tmp_path, source, "unit=3")


def test_whatever_another_part_takes_is_right(tmp_path: Path) -> None:
    for params in ("units=3, rate=1", "smoothing=3", "x=1", "learning_rate=0.1", "schema={}"):
        check(tmp_path, NET, params)
    (tmp_path / "other.py").write_text("def read(records, columns=()): ...\n")
    check(tmp_path, NET, "columns=1", input_fn="other.read")
    check(tmp_path, NET, "anything=1", metrics="other.figures")
    check(tmp_path, "from other import read\n" + NET, "anything=1", input_fn="read")
    with pytest.raises(ModelError, match=r"there is no parameter 'columms' \(did you mean 'columns'\?\)"):
        check(tmp_path, NET, "columms=1", input_fn="other.read")


def test_the_models_that_sql_trains() -> None:
    for name in ("regressor.DNN", "classifier.DNN", "regressor.wide_and_deep.MagicalWAD", "deepfm.DeepFM"):
        given = {"model_def": name, "input_fn": "sqlflow.elasticdl_input_function"}
        check_model(ModelSpec(model_zoo=str(REPOSITORY / "model_zoo"), params="hidden_units=[3]", **given))
        with pytest.raises(ModelError, match=r"no parameter 'hiden_units' \(did you mean 'hidden_units'\?\)"):
            check_model(ModelSpec(model_zoo=str(REPOSITORY / "model_zoo"), params="hiden_units=[3]", **given))
