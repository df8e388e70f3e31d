"""The job's spec: validated once, the same after JSON, and its promised defaults stay what they are."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from edl_allreduce.errors import UsageError
from edl_allreduce.flags import flags_of
from edl_allreduce.spec import GROUPS, JobSpec

REQUIRED = {"model_zoo": "zoo", "model_def": "digits.Classifier", "data": "data/*.recordio", "output": "out"}


def job(**values: Any) -> JobSpec:
    return JobSpec.from_flags(REQUIRED | values)


def test_json_carries_every_field() -> None:
    spec = job(params="a=[1, 'ä'], b=0.1", minibatch_size="7", shuffle="no", worker_timeout="1.5", audit=True)
    assert JobSpec.from_json(spec.to_json()) == spec
    assert "\n" not in spec.to_json()


def test_json_of_another_version_is_refused() -> None:
    document = dataclasses.asdict(job())
    document["training"]["momentum"] = 1
    with pytest.raises(UsageError, match=r"job.training: there is no field 'momentum'"):
        JobSpec.from_json(json.dumps(document))


def test_promised_defaults() -> None:
    flags = {each.name: each.default for group in GROUPS.values() for each in flags_of(group) if not each.required}
    promised = {"num_epochs": 1, "num_workers": 1, "min_workers": 1, "shuffle": True, "seed": 0, "overwrite": False}
    assert {name: flags[name] for name in promised} == promised
    assert job().training.global_batch(3) == 128


def test_flag_names_are_unique_over_all_groups() -> None:
    names = [each.name for group in GROUPS.values() for each in flags_of(group)]
    assert len(names) == len(set(names))


def test_the_required_flags_are_the_four_of_the_design() -> None:
    required = [each.name for group in GROUPS.values() for each in flags_of(group) if each.required]
    assert required == list(REQUIRED)


def test_params_may_be_a_dict() -> None:
    values = {"hidden_units": [10, 100], "name": "x", "rate": 0.01}
    assert job(params=values).model.values == values == job(params=job(params=values).model.params).model.values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 1, "minibatch_size": 1}, "--batch_size and --minibatch_size: give one of them"),
        ({"num_workers": 2, "min_workers": 3}, r"--min_workers: expected at most num_workers \(2\), got 3"),
        (
            {"model_def": "zoo/digits.py"},
            "--model_def: expected FILE.NAME such as digits.Classifier, got 'zoo/digits.py'",
        ),
        ({"params": "a"}, "--params: every value needs a name"),
        ({"num_worker": 3}, r"--num_worker: there is no such flag \(did you mean 'num_workers'\?\)"),
        ({"data": ""}, "--data: required and not given"),
        ({"data": None, "output": ""}, "--data, --output: required and not given; --help explains them"),
    ],
)
def test_a_wrong_job_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        job(**values)


@pytest.mark.parametrize(("mode", "batches"), [({"batch_size": 96}, [96, 96]), ({"minibatch_size": 32}, [32, 96])])
def test_global_batch(mode: dict[str, int], batches: list[int]) -> None:
    assert [job(**mode).training.global_batch(workers) for workers in (1, 3)] == batches
