"""Makes metrics of a function that computes all of them for a batch: ElasticDL's `create_metrics`.

It gives a dict: of tensors, which are averaged over all examples; or of Keras metrics, whose state is what adds up.
Such a metric may be new in each call, may be updated in the function (then what it is updated with is caught, and
nothing else happens), or may be left to us.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce.contracts.arguments import ByRole
from edl_allreduce.contracts.base import Metric, Mode
from edl_allreduce.contracts.means import MeanOverExamples
from edl_allreduce.errors import ModelError

_lock = threading.Lock()

Compute = Callable[..., Any]
"""Of keyword arguments `labels` and `outputs`: the metrics' dict."""


def metrics_of_function(
    function: ByRole, mode: Mode, labels: Any, outputs: Any, where: str, whole: Callable[[Any, Any], Any]
) -> Iterator[Metric]:
    """The metrics that a function computes.

    Args:
        function: the user's; its parameters may be labels, outputs, predictions (the outputs as well) and mode.
        mode: what it is called with.
        labels, outputs: specs of a batch.
        where: what to call it in an error.
        whole: of (labels, outputs): what a metric is updated with that the function does not update itself.

    Raises:
        ModelError: it gives no dict, or something in it is no metric.
    """

    def compute(labels: Any, outputs: Any) -> Any:
        with _variables_outside():
            return function(labels=labels, outputs=outputs, mode=mode)

    for name, value in _traced(compute, labels, outputs, where).items():
        if isinstance(value, keras.metrics.Metric):
            value.name = str(name)
            yield Metric(str(name), value, _update_of(compute, name, type(value), whole))
        elif tf.is_tensor(value):
            yield Metric(str(name), _mean(compute, name))
        else:
            expected = "a tensor or a Keras metric"
            raise ModelError(f"{where}: {name!r}: expected {expected}, got {type(value).__name__}")


def _traced(compute: Compute, labels: Any, outputs: Any, where: str) -> Mapping[str, Any]:
    """What the function gives for some batch; nothing is computed."""
    given: list[Any] = []

    def call(labels: Any, outputs: Any) -> None:
        given.append(compute(labels=labels, outputs=outputs))

    tf.function(call, autograph=False).get_concrete_function(labels, outputs)
    if given[0] is not None and not isinstance(given[0], Mapping):
        raise ModelError(f"{where}: expected a dict of metrics by their names, got {type(given[0]).__name__}")
    return given[0] or {}


def _mean(compute: Compute, name: str) -> Any:
    return MeanOverExamples(lambda labels, outputs: compute(labels=labels, outputs=outputs)[name], str(name))


def _update_of(compute: Compute, name: str, kind: type, whole: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def of(labels: Any, outputs: Any) -> Any:
        with _updates_caught(kind) as caught:
            metric = compute(labels=labels, outputs=outputs)[name]
        return caught.get(id(metric)) or whole(labels, outputs)

    return of


@contextlib.contextmanager
def _variables_outside() -> Iterator[None]:
    """While a graph is traced, variables of new metrics are made outside of it: a tf.function refuses to make any.

    What refuses belongs to the thread that traces, so another one makes them.
    """
    if tf.executing_eagerly():
        yield
        return
    with ThreadPoolExecutor(max_workers=1) as outside:

        def make(next_creator: Any, **kwargs: Any) -> Any:
            return outside.submit(tf.Variable, **kwargs).result()

        with tf.variable_creator_scope(make):
            yield


@contextlib.contextmanager
def _updates_caught(kind: type) -> Iterator[dict[int, tuple[Any, ...]]]:
    """While a user's function runs, `update_state` of metrics of this class notes what it is called with."""
    ours, original = threading.get_ident(), kind.update_state  # type: ignore[attr-defined]
    caught: dict[int, tuple[Any, ...]] = {}

    def note(self: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != ours:
            return original(self, *args, **kwargs)
        given = list(inspect.signature(original).bind(self, *args, **kwargs).arguments.values())[1:]
        caught[id(self)] = tuple(each for each in given if each is not None)
        return None

    with _lock:
        inherited = "update_state" not in vars(kind)
        kind.update_state = note  # type: ignore[attr-defined]
        try:
            yield caught
        finally:
            if inherited:
                del kind.update_state  # type: ignore[attr-defined]
            else:
                kind.update_state = original  # type: ignore[attr-defined]
