"""Keras is loaded without what only its wrappers and plots need, unless the model names it; nothing is missed later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edl_allreduce.contracts.zoo_files import MAX_FILES
from edl_allreduce.worker.lean_imports import needs_everything

ROOT = Path(__file__).resolve().parent.parent

LOADS = """
import sys
from edl_allreduce.worker.lean_imports import OPTIONAL, load_keras
load_keras(sys.argv[1])
print(*(name for name in OPTIONAL if name in sys.modules), "keras" in sys.modules)
import sklearn.linear_model
print(sklearn.linear_model.LogisticRegression().fit([[0.0], [1.0]], [0, 1]).predict([[1.0]]))
"""


@pytest.mark.parametrize(
    ("code", "everything"),
    [
        ("import keras\nfrom sklearn.datasets import load_digits\nimport matplotlib.pyplot\n", False),
        ("from keras.wrappers import SKLearnClassifier\n", True),
        ("import keras\nkeras.visualization.plot_image_gallery([])\n", True),
    ],
)
def test_who_names_wrappers_or_plots_gets_all_of_keras(code: str, everything: bool, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "model.py").write_text(code)
    assert needs_everything(tmp_path) is everything


def test_only_the_zoos_own_code_is_looked_at(tmp_path: Path) -> None:
    for folder in ("env/lib", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "other.py").write_text("from keras.wrappers import SKLearnClassifier\n")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    assert not needs_everything(tmp_path)
    for number in range(MAX_FILES + 1):  # nobody's zoo, but somebody's whole home
        (tmp_path / f"{number}.py").touch()
    assert needs_everything(tmp_path)


def test_keras_is_loaded_lean() -> None:
    for package in ("keras", "sklearn", "matplotlib", "IPython"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    command = [sys.executable, "-c", LOADS, str(ROOT / "model_zoo")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["True", "[1]"]


COUNTS = """
import gc, sys
from edl_allreduce.worker.lean_imports import uncollected
before, found = gc.isenabled(), []
gc.callbacks.append(lambda phase, info: found.append(phase))
with uncollected():
    kept = [[number] for number in range(100_000)]
print(before, gc.isenabled(), len(found), gc.get_freeze_count() > 100_000)
"""


def test_nothing_is_collected_while_much_is_imported_and_all_is_as_ever_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "0", "True"]
