"""Iterates over a dataset with less Python per element: `iter` takes most of its time to nest the tensors that came,
which a model of small steps feels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import tensorflow as tf

Nest: TypeAlias = Callable[[Iterator[tf.Tensor]], Any]


def elements(dataset: tf.data.Dataset) -> Iterator[Any]:
    """What `iter(dataset)` gives; its threads end when it is forgotten.

    Elements of more than tensors in tuples and dictionaries (sparse or ragged ones, classes) are left to `iter`.
    """
    return _Elements(dataset) if _is_plain(dataset.element_spec) else iter(dataset)


class _Elements(Iterator[Any]):
    def __init__(self, dataset: tf.data.Dataset) -> None:
        self._dataset = dataset  # with its Python functions
        self._nest = _nest_of(dataset.element_spec)
        specs = tf.nest.flatten(dataset.element_spec)
        self._kinds = {"output_types": [each.dtype for each in specs], "output_shapes": [each.shape for each in specs]}
        with tf.device("CPU:0"):
            self._iterator = tf.raw_ops.AnonymousIteratorV3(**self._kinds)
            tf.raw_ops.MakeIterator(dataset=tf.data.experimental.to_variant(dataset), iterator=self._iterator)

    def __next__(self) -> Any:
        try:
            return self._nest(iter(tf.raw_ops.IteratorGetNext(iterator=self._iterator, **self._kinds)))
        except tf.errors.OutOfRangeError:
            raise StopIteration from None


def _is_plain(spec: Any) -> bool:
    if type(spec) in (tuple, dict):
        return all(map(_is_plain, spec.values() if type(spec) is dict else spec))
    return type(spec) is tf.TensorSpec


def _nest_of(spec: Any) -> Nest:
    """What takes as many tensors from an iterator as `spec` has, in tf.nest's order, and nests them as `spec` does."""
    if type(spec) is dict:
        parts = {name: _nest_of(spec[name]) for name in sorted(spec)}
        return lambda flat: {name: part(flat) for name, part in parts.items()}
    if type(spec) is tuple:
        members = [_nest_of(each) for each in spec]
        return lambda flat: tuple([member(flat) for member in members])
    return next
