"""Elements of a dataset come as `iter` gives them, however they are nested."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce.worker.elements import elements

NUMBERS = tf.data.Dataset.range(3)
RAGGED = tf.RaggedTensor.from_row_lengths([1, 2, 3, 4], [1, 0, 3])


def nested(number: Any) -> Any:
    features = {"b": number, "a": {"z": number + 1, "y": (number + 2,)}}
    return (number, 7), (features, tf.strings.as_string(number))


CASES = {
    "a tensor": NUMBERS,
    "a tuple of one": NUMBERS.map(lambda number: (number,)),
    "a dictionary": NUMBERS.map(lambda number: {"y": number, "x": -number}),
    "nested": NUMBERS.map(nested),
    "batches": NUMBERS.map(nested).batch(2),
    "an ordered dictionary": NUMBERS.map(lambda number: OrderedDict(y=number, x=-number)),
    "ragged": tf.data.Dataset.from_tensor_slices((RAGGED, [0, 1, 2])),
    "nothing": NUMBERS.take(0),
}


@pytest.mark.parametrize("dataset", CASES.values(), ids=CASES.keys())
def test_elements_are_those_of_iter(dataset: tf.data.Dataset) -> None:
    found, expected = list(elements(dataset)), list(dataset)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        tf.nest.assert_same_structure(ours, theirs, expand_composites=True)
        for one, other in zip(*(tf.nest.flatten(each, expand_composites=True) for each in (ours, theirs)), strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)


def test_an_error_is_the_pipelines_own() -> None:
    iterator = elements(
        NUMBERS.map(lambda number: tf.debugging.check_numerics(1.0 / tf.cast(number - 1, tf.float32), "no"))
    )
    assert next(iterator).numpy() == -1.0
    with pytest.raises(tf.errors.InvalidArgumentError, match="no"):
        next(iterator)


def test_the_end_is_said_again_when_asked_again() -> None:
    iterator = elements(NUMBERS.take(1))
    assert [next(iterator).numpy(), next(iterator, None), next(iterator, None)] == [0, None, None]
