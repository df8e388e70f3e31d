"""Every feature of the step against Keras's `fit`: by one worker, and by three that share each batch unevenly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

import keras

from edl_allreduce.worker.ring import Ring
from rendezvous.store import RoundStore
from tests import step_cases
from tests.step_cases import CASES, Result

MEMBERS = 3


@pytest.fixture(scope="module")
def ring() -> Iterator[Ring]:
    ring = Ring("127.0.0.1", spared=0)
    ring.join()
    yield ring
    ring.leave()


@pytest.fixture(scope="module")
def expected() -> dict[str, Result]:
    """What `fit` comes to, made once for each case."""
    return {}


@pytest.mark.parametrize("name", CASES)
def test_one_worker_equals_fit(ring: Ring, expected: dict[str, Result], name: str) -> None:
    expected[name] = step_cases.by_fit(CASES[name])
    found = step_cases.by_step(CASES[name])
    assert found.keys() == expected[name].keys()
    tolerance = CASES[name].tolerance
    for key, value in expected[name].items():
        np.testing.assert_allclose(found[key], value, tolerance, tolerance / 10, err_msg=f"{name}: {key}")


def for_all_members() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(step_cases.WarmUp(MEMBERS * 0.05), momentum=0.9)


def test_three_workers_equal_fit(ring: Ring, expected: dict[str, Result], tmp_path: Path) -> None:
    store = RoundStore("127.0.0.1")
    script = [sys.executable, str(Path(step_cases.__file__))]
    children = [
        subprocess.Popen([*script, str(rank), str(MEMBERS), str(store.port), str(tmp_path / f"{rank}.npz")])
        for rank in range(MEMBERS)
    ]
    try:
        assert [child.wait(100) for child in children] == [0] * MEMBERS
    finally:
        store.close()
        for child in children:
            child.kill()
            child.wait()
    expected["steered"] = step_cases.steered()
    members = [np.load(tmp_path / f"{rank}.npz") for rank in range(MEMBERS)]
    for name in (*step_cases.SHARED, "steered"):
        if name == "scaled":
            expected[name] = step_cases.by_fit(replace(CASES[name], keras_optimizer=for_all_members))
        elif name not in expected:
            expected[name] = step_cases.by_fit(CASES[name])
        tolerance = CASES[name].tolerance if name in CASES else 1e-3
        for key, value in expected[name].items():
            found = members[0][f"{name}/{key}"]
            np.testing.assert_allclose(found, value, max(1e-3, tolerance), tolerance, err_msg=f"{name}: {key}")
            for other in members[1:]:
                np.testing.assert_array_equal(found, other[f"{name}/{key}"])
