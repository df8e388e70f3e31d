"""What the members of a ring give each other in a step, in buckets that travel while the next one is being computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import tensorflow as tf
from horovod.tensorflow import mpi_ops

Tensors = list[tf.Tensor]
Conditions = Sequence[tf.Tensor | tf.Operation]

BUCKET_BYTES = 16 << 20
"""Of tensors that are reduced together; a step that has less sends all at once."""

_ANYWHERE = {"ignore_name_scope": True}  # the members' graphs differ, and what has one name is reduced together


class Others:
    """The collectives of one step with the other members, if there are any, in the graph being traced.

    Where there are none, Horovod's next cycle is not waited for. They are asked for once and first: TensorFlow keeps
    the order of such questions, so that one in the middle would hold up what travels early.
    """

    def __init__(self) -> None:
        self._any = mpi_ops.size_op() > 1

    def allreduce(self, tensors: Tensors, early: Conditions, late: Conditions) -> Tensors:
        """The sums of `tensors` over all members, one grouped reduction per bucket.

        Args:
            tensors: all with a known shape.
            early: what comes before anything reaches the ring.
            late: what comes before the last bucket does, and with it before anybody has a whole step.
        """
        sums = list(tensors)
        groups = buckets([(each.dtype.name, each.shape.num_elements()) for each in tensors], BUCKET_BYTES)
        for number, places in enumerate(groups):
            reduce = partial(mpi_ops._grouped_allreduce, name=f"edl_step_{number}", op=mpi_ops.Sum, **_ANYWHERE)
            with tf.control_dependencies(late if number == len(groups) - 1 else early):
                self._replace(sums, places, reduce)
        return sums

    def allgather(self, tensors: Tensors) -> Tensors:
        """The tensors of all members, one after the other by rows; every member may have another number of rows."""
        rows = list(tensors)
        for dtype in dict.fromkeys(each.dtype for each in tensors):
            places = [i for i, each in enumerate(tensors) if each.dtype == dtype]
            gather = partial(mpi_ops.grouped_allgather, name=f"edl_slices_{dtype.name}", **_ANYWHERE)
            self._replace(rows, places, gather)
        return rows

    def _replace(self, tensors: Tensors, places: list[int], collective: Callable[[Tensors], Tensors]) -> None:
        own = [tensors[i] for i in places]
        result = tf.cond(self._any, lambda: collective(own), lambda: own)
        for i, each in zip(places, result, strict=True):
            tensors[i] = each


def buckets(tensors: Sequence[tuple[str, int]], limit: int) -> list[list[int]]:
    """Which tensors, given by dtype and number of elements, are reduced together.

    The first one, then the others from the last to the first, as a backward pass computes them: a bucket is ready, and
    is reduced, while the next one is still being computed. A bucket is closed once it has `limit` bytes. The method is
    that of PyTorch's DistributedDataParallel.
    """
    closed: list[list[int]] = []
    open_ones: dict[str, tuple[int, list[int]]] = {}
    for i in [0, *range(len(tensors) - 1, 0, -1)] if tensors else []:
        dtype, elements = tensors[i]
        size, members = open_ones.pop(dtype, (0, []))
        size, members = size + elements * tf.as_dtype(dtype).size, [*members, i]
        if size < limit:
            open_ones[dtype] = size, members
        else:
            closed.append(members)
    return [*closed, *(members for _, members in open_ones.values())]
