"""Makes a worker's step ready before it joins anybody, so that joining costs the others only the reform."""

from __future__ import annotations

import tensorflow as tf

from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import TrainStep


def prepare_step(training: TrainingModel, feed: Feed, ring: Ring, model_zoo: str, worker_id: int) -> TrainStep:
    """Traces the step and runs it once, alone, on real records; the weights are what they were before.

    Raises:
        ModelError: the user's code fails, or no record can be used.
        CorruptFile, StorageError: the first records cannot be read.
    """
    samples = feed.samples()
    at, size, sample = next(samples)
    with user_code(model_zoo, "tracing the training step"):
        step = TrainStep(training)
    variables = [*step.variables, *step.seed_variables]
    before = [variable.numpy() for variable in variables]
    ring.join()
    try:
        while True:
            try:
                step.train(*sample, part=False)
                break
            except Exception as error:
                feed.without_culprits(at, size, sample, error, step)
                at, size, sample = next(samples)
        step.idle(part=False)
    finally:
        ring.leave()
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    for variable in step.seed_variables:  # every worker drops out other units
        variable.assign(variable + tf.constant([worker_id, 0], variable.dtype))
    return step
