"""Makes a worker's step ready before it joins anybody, so that joining costs the others only the reform."""

from __future__ import annotations

import tensorflow as tf

from edl_allreduce.contracts.base import TrainingModel
from edl_allreduce.contracts.user_errors import user_code
from edl_allreduce.spec import TrainingSpec
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import DEFAULTS, TrainStep
from edl_allreduce.worker.trying import losses_that_are_sums, metrics_that_add_up


def prepare_step(
    training: TrainingModel,
    feed: Feed,
    ring: Ring,
    model_zoo: str,
    worker_id: int,
    spec: TrainingSpec = DEFAULTS,
    steered: bool = False,
) -> TrainStep:
    """Traces the step and runs it once, alone, on real records; the weights are what they were before.

    Args:
        training: the model; made after `precision.use_precision`.
        feed, model_zoo: its records, and whose code it is.
        ring: not joined.
        worker_id: makes the worker's random states its own.
        spec: how to train the model.
        steered: whether its callbacks may send a stop and a learning rate.

    Raises:
        ModelError: the user's code fails, or no record can be used.
        CorruptFile, StorageError: the first records cannot be read.
    """
    samples = feed.samples()
    at, size, sample = next(samples)
    with user_code(model_zoo, "tracing the training step"):
        training.build()
        metrics, summed_losses = metrics_that_add_up(training, sample), losses_that_are_sums(training, sample)
        step = TrainStep(training, spec, steered, metrics, summed_losses)
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
