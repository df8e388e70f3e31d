"""How gradients travel: as they are, or with 16 bits, which halves what goes over the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from edl_allreduce.spec import TrainingSpec

Tensors = list[tf.Tensor]


class Compression:
    """Packs sums of gradients for the way, and unpacks the sums of what was packed.

    float16 ends at 65504, so that sums over a batch's examples might not fit: what travels is divided by the number of
    records in a step, and by the loss scale of mixed precision. Below 6e-8 nothing is left of a number.

    Args:
        spec: how they travel, and the size of the batch.
        optimizer: has perhaps a loss scale.
        workers: gives a tensor, how many take part in a step.
    """

    def __init__(self, spec: TrainingSpec, optimizer: Any, workers: Callable[[], Any]) -> None:
        self._spec, self._optimizer, self._workers = spec, optimizer, workers
        self._half = spec.gradient_compression == "fp16"

    def packed(self, gradients: Tensors) -> Tensors:
        """What travels."""
        if not self._half:
            return gradients
        divisor = self._divisor()
        return [tf.cast(each / tf.cast(divisor, each.dtype), tf.float16) for each in gradients]

    def unpacked(self, travelled: Tensors, gradients: Tensors) -> Tensors:
        """The sums of the gradients, in the type of `gradients`."""
        if not self._half:
            return travelled
        divisor = self._divisor()
        pairs = zip(travelled, gradients, strict=True)
        return [tf.cast(each, own.dtype) * tf.cast(divisor, own.dtype) for each, own in pairs]

    def _divisor(self) -> tf.Tensor:
        records = tf.cast(self._spec.global_batch(self._workers()), tf.float32)
        scale = getattr(self._optimizer, "dynamic_scale", None)
        return records if scale is None else records * tf.convert_to_tensor(scale.value)
