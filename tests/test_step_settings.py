"""The flags of training: what is refused, what comes through JSON, and which of them make another training."""

from __future__ import annotations

from typing import Any

import pytest

from edl_allreduce.checkpoint_json import differences
from edl_allreduce.errors import UsageError
from edl_allreduce.spec import JobSpec

REQUIRED = {"model_zoo": "zoo", "model_def": "digits.Classifier", "data": "data/*.recordio", "output": "out"}


def job(**values: Any) -> JobSpec:
    return JobSpec.from_flags(REQUIRED | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_weight": "0: 1"}, "--class_weight: expected class numbers and weights such as {0: 1.0, 1: 5.0}, got"),
        ({"class_weight": "{'a': 1}"}, "--class_weight: expected class numbers"),
        ({"class_weight": "{-1: 1}"}, "--class_weight: expected class numbers"),
        ({"class_weight": "{0: -1}"}, "--class_weight: expected class numbers"),
        ({"class_weight": "{0: open('x')}"}, "--class_weight: expected class numbers"),
        ({"scale_learning_rate": True}, "--scale_learning_rate: needs --minibatch_size"),
        ({"mixed_precision": "float16"}, "--mixed_precision: expected mixed_float16 or mixed_bfloat16, got 'float16'"),
        ({"gradient_compression": "int8"}, "--gradient_compression: expected none or fp16, got 'int8'"),
        ({"max_local_batch": -1}, "--max_local_batch: expected a whole number, 0 or more"),
        ({"warmup_steps": "some"}, "--warmup_steps: expected a whole number, 0 or more"),
    ],
)
def test_a_wrong_setting_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        job(**values)
    assert str(raised.value).startswith(message)


def test_class_weights_may_be_a_dict_or_a_text() -> None:
    for given in ({0: 1.0, 1: 5}, "{0: 1.0, 1: 5}", " {1: 5.0, 0: 1} "):
        spec = job(class_weight=given)
        assert spec.training.class_weights == {0: 1.0, 1: 5.0}
        assert JobSpec.from_json(spec.to_json()) == spec
    assert job().training.class_weights == {}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"class_weight": "{0: 2}"}, "class_weight was not set, is 0=2.0"),
        ({"warmup_steps": 5}, "warmup_steps was 0, is 5"),
        ({"mixed_precision": "mixed_bfloat16"}, "mixed_precision was not set, is mixed_bfloat16"),
        ({"gradient_compression": "fp16"}, "gradient_compression was none, is fp16"),
        ({"max_local_batch": 8}, ""),
        ({"jit_compile": True}, ""),
        ({"class_weight": "{ }"}, ""),
    ],
)
def test_what_makes_another_training(values: dict[str, Any], told: str) -> None:
    assert "; ".join(differences(job(), job(**values))) == told
