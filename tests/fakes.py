"""Lets jobs of the launcher's tests run with the fake coordinator, and looks for processes they leave behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.local.plan import Plan, make_plan
from launcher.settings import read_request

HERE = Path(__file__).resolve().parent
FLAGS = {"model_zoo": "zoo", "model_def": "digits.Classifier", "data": "data", "output": "out", "num_workers": 2}


def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `tmp_path` a folder to work in, with a model and data, where `python -m rendezvous` is the fake one."""
    fakes = tmp_path / "fakes"
    (fakes / "rendezvous").mkdir(parents=True)
    shutil.copy(HERE / "fake_coordinator.py", fakes / "rendezvous" / "__main__.py")
    extend = "import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n"  # all its other modules are real
    (fakes / "rendezvous" / "__init__.py").write_text(extend)
    monkeypatch.setenv("EDL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FAKE_SCENARIO", "train")
    monkeypatch.setenv("PYTHONPATH", f"{fakes}:{HERE.parent}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "digits.py").write_text("import keras\n\n\nclass Classifier(keras.Model):\n    pass\n")
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / f"{name}.recordio").touch()


def planned(scenario: str, **values: Any) -> Plan:
    """A plan for a job in which the fake coordinator plays the given scenario."""
    os.environ["FAKE_SCENARIO"] = scenario
    request = read_request(FLAGS | values)
    random = os.urandom(2).hex()
    return make_plan(
        request.job, request.launch, now=datetime.now(), random=random, environ=os.environ, python=sys.executable
    )


def alive(group: int) -> list[str]:
    """Command lines of the processes of a group that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def gone(group: int) -> bool:
    """Whether the last process of a group goes away in time."""
    deadline = time.monotonic() + 5
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(group)
