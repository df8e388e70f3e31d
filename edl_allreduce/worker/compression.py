"""How gradients travel: as they are, or with 16 bits, which halves what goes over the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from edl_allreduce.spec import TrainingSpec

Tensors = list[tf.Tensor]


class Compression:
    """Packs sums of gradients for the way, and unpacks the sums of what was packed.

    float16 ends at 65504, so that the sums over a batch's examples might not fit: what travels is divided by the number
    of records in a step. (With a loss scale, what is too large even so makes the optimizer lower the scale.)

    Args:
        spec: how they travel, and the size of the batch.
        workers: gives a tensor, how many take part in a step.
    """

    def __init__(self, spec: TrainingSpec, workers: Callable[[], Any]) -> None:
        self._spec, self._workers = spec, workers
        self._half = spec.gradient_compression == "fp16"

    def packed(self, gradients: Tensors) -> Tensors:
        """What travels."""
        if not self._half:
            return gradients
        records = self._spec.global_batch(self._workers())
        return [tf.cast(each / tf.cast(records, each.dtype), tf.float16) for each in gradients]

    def unpacked(self, travelled: Tensors, gradients: Tensors) -> Tensors:
        """The sums of the gradients, in the type of `gradients`."""
        if not self._half:
            return travelled
        records = self._spec.global_batch(self._workers())
        pairs = zip(travelled, gradients, strict=True)
        return [tf.cast(each, own.dtype) * tf.cast(records, own.dtype) for each, own in pairs]
