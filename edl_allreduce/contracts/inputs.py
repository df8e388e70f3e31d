"""Turns a user's input function, of whichever kind, into one traced `Input`, checked before any record is read.

There are three kinds: of one record; of a batch of records (marked `vectorised`); of a dataset, when the first
parameter is called `dataset` (ElasticDL's `feed` and `dataset_fn`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from edl_allreduce.contracts.arguments import Takes, takes
from edl_allreduce.contracts.base import Input, Metadata, Mode, is_vectorised
from edl_allreduce.contracts.elements import check_elements, features_only, lists_to_tuples, with_weights
from edl_allreduce.errors import ModelError

NO_METADATA = Metadata()
_PROBE_SIZE = 2**61 - 1  # a prime, so that no batch size, repetition or selection leaves it as it is
_shuffle_lock = threading.Lock()


def input_from(
    function: Callable[..., Any], params: Mapping[str, Any], mode: Mode, where: str, metadata: Metadata = NO_METADATA
) -> Input:
    """The input function as the worker uses it.

    For prediction, labels and weights that the function gives all the same are taken away.

    Args:
        function: the user's.
        params: gets those that it names; and `mode`, when it names that.
        mode: what records are read for.
        where: what to call it in an error.
        metadata: what a function of a dataset is told about the records.

    Raises:
        ModelError: it does not give (features, labels) or (features, labels, weights), or not one element per record.
    """
    input = _traced(function, params, mode, where, metadata)
    if mode is Mode.PREDICTION:
        return features_only(input, lambda: _traced(function, params, Mode.TRAINING, where, metadata))
    return with_weights(input, where)


def _traced(
    function: Callable[..., Any], params: Mapping[str, Any], mode: Mode, where: str, metadata: Metadata
) -> Input:
    if not callable(function) or inspect.isclass(function):
        raise ModelError(f"{where}: expected a function of a record, got {function!r}")
    if not takes(function).names:
        raise ModelError(f"{where}: expected a function of a record, got one without parameters")
    if takes(function).names[0] == "dataset":
        return _of_dataset(function, mode, where, metadata)
    signature, given = params_of(function), {**params, "mode": mode}
    missing = [name for name in signature.required if name not in given]
    if missing:
        raise ModelError(f'{where}: needs {missing[0]}; give --params="{missing[0]}=…"')
    chosen = {name: given[name] for name in signature.names if name in given}
    return _of_records(functools.partial(function, **chosen), is_vectorised(function), mode, where)


def params_of(function: Any) -> Takes:
    """What an input function takes besides the records; a function of a dataset takes no params."""
    if not callable(function) or inspect.isclass(function) or takes(function).names[:1] == ("dataset",):
        return Takes((), (), False)
    names, required, _ = dataclasses.astuple(takes(function))
    return Takes(names[1:], tuple(name for name in required if name in names[1:]), False)


def _of_records(function: Callable[[Any], Any], batch: bool, mode: Mode, where: str) -> Input:
    shape = [None] if batch else []
    traced = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.string))
    spec = tf.nest.map_structure(tf.type_spec_from_value, traced.structured_outputs)
    if mode is not Mode.PREDICTION:
        check_elements(spec, where)

    @tf.autograph.experimental.do_not_convert
    def apply(records: tf.Tensor) -> Any:
        return lists_to_tuples(traced(records))

    if batch:
        _check_batched(spec, where)
        return Input(True, apply, lists_to_tuples(spec), (traced.graph,), mode)

    @tf.autograph.experimental.do_not_convert
    def parse(records: tf.data.Dataset) -> tf.data.Dataset:
        return records.map(apply, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return Input(False, parse, parse(_probe()).batch(2).element_spec, (traced.graph,), mode)


def _of_dataset(function: Callable[..., Any], mode: Mode, where: str, metadata: Metadata) -> Input:
    names = takes(function).names
    if len(names) > 3:
        raise ModelError(f"{where}: expected a function of (dataset, mode, metadata), got one of ({', '.join(names)})")
    arguments = (mode, metadata)[: len(names) - 1]

    # Our own graphs go without AutoGraph; in this call it works all the same: what is mapped may branch on tensors.
    call = tf.autograph.to_graph(_call, recursive=False)

    def parse(records: tf.data.Dataset) -> tf.data.Dataset:
        with shuffle_left_to_the_reader():
            return call(function, records, *arguments)

    probe = parse(_probe())
    if not isinstance(probe, tf.data.Dataset):
        raise ModelError(f"{where}: expected it to return a tf.data.Dataset, got {type(probe).__name__}")
    _check_one_to_one(int(probe.cardinality()), where)
    if mode is not Mode.PREDICTION:
        check_elements(probe.element_spec, where)
    return Input(False, parse, probe.batch(2).element_spec, tuple(_graphs_of(probe)), mode)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _graphs_of(dataset: tf.data.Dataset) -> Iterator[Any]:
    """The graphs of all functions that a dataset applies."""
    yield from (each.function.graph for each in dataset._functions())
    for source in dataset._inputs():
        yield from _graphs_of(source)


def _probe() -> tf.data.Dataset:
    """A dataset of strings that nobody reads: what is made of it shows shapes, and how many elements would come."""
    return tf.data.Dataset.range(_PROBE_SIZE).map(tf.strings.as_string)


@contextlib.contextmanager
def shuffle_left_to_the_reader() -> Iterator[None]:
    """While a user's dataset function runs, its `dataset.shuffle(...)` does nothing: the reader shuffles anyway."""
    ours, original = threading.get_ident(), tf.data.Dataset.shuffle

    def shuffle(self: tf.data.Dataset, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        return self if threading.get_ident() == ours else original(self, *args, **kwargs)

    with _shuffle_lock:
        tf.data.Dataset.shuffle = shuffle
        try:
            yield
        finally:
            tf.data.Dataset.shuffle = original


def _check_one_to_one(cardinality: int, where: str) -> None:
    if cardinality == _PROBE_SIZE:
        return
    if cardinality == tf.data.INFINITE_CARDINALITY or cardinality > _PROBE_SIZE:
        problem = "repeats the records; remove repeat(), --num_epochs says how often they are used"
    elif cardinality == tf.data.UNKNOWN_CARDINALITY:
        problem = (
            "may drop or add records (filter, flat_map, unbatch, …); not supported yet, every record is accounted for"
        )
    else:
        problem = "gives fewer elements than records; remove batch() and take(), --batch_size sets the batch"
    raise ModelError(f"{where}: {problem}")


def _check_batched(spec: Any, where: str) -> None:
    for tensor in tf.nest.flatten(spec):
        if tensor.shape.rank is not None and (tensor.shape.rank == 0 or tensor.shape[0] is not None):
            rule = "is vectorised, so every tensor it returns must have one row per record"
            raise ModelError(f"{where}: {rule}, got one of shape {tuple(tensor.shape)}")
