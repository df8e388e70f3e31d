"""The digits model under Horovod Elastic, written as its documentation says; `horovodrun` starts one of these per slot.

Trains until it is killed. Two things differ from the documentation's example, because Horovod 0.28.1 knows Keras 2
only: its state is given the TensorFlow variables behind Keras 3's, and gradients are taken with respect to those.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from benchmarks.peers.stamp import Stamper
from model_zoo.digits import Classifier, smoothed_cross_entropy


@dataclass(frozen=True)
class Variables:
    """What `hvd.elastic.TensorFlowKerasState` wants of a Keras model: its variables, as TensorFlow has them."""

    variables: list[tf.Variable]


@dataclass(frozen=True)
class OptimizerVariables:
    """The same of a Keras 2 optimizer, whose `variables` was a method."""

    held: list[tf.Variable]

    def variables(self) -> list[tf.Variable]:
        """All of them."""
        return self.held


def main() -> None:
    """Trains."""
    arguments = _arguments()
    with np.load(arguments.data) as data:
        images, labels = data["images"], data["labels"]
    hvd.init()
    model = Classifier(learning_rate=arguments.learning_rate)
    optimizer = model.default_optimizer()
    model(images[:1])
    optimizer.build(model.trainable_variables)
    held = [variable.value for variable in model.trainable_variables]

    def one_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(smoothed_cross_entropy(labels, model(images, training=True)))
        tape = hvd.DistributedGradientTape(tape)
        optimizer.apply(tape.gradient(loss, held), model.trainable_variables)
        return loss

    step = tf.function(one_step)

    def batch(number: int) -> tuple[Any, Any]:
        places = np.arange(number * arguments.batch, (number + 1) * arguments.batch) % len(images)
        own = places[hvd.rank() :: hvd.size()]
        return tf.constant(images[own]), tf.constant(labels[own])

    stamp, rings = Stamper(arguments.stamps), 0

    def train(state: Any) -> None:
        nonlocal rings
        rings += 1
        while True:
            step(*batch(state.step))
            state.step += 1
            stamp(state.step, rings)
            if state.step % arguments.commit_steps == 0:
                state.commit()

    step.get_concrete_function(*batch(0))  # traced before anybody waits for it
    state = hvd.elastic.TensorFlowKerasState(
        Variables([variable.value for variable in model.variables]),
        OptimizerVariables([variable.value for variable in optimizer.variables]),
        step=0,
    )
    hvd.elastic.run(train)(state)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data", required=True, help="images and labels, as .npz")
    parser.add_argument("--stamps", required=True, help="folder in which every step's end is noted")
    parser.add_argument("--batch", type=int, required=True, help="records per step of all workers")
    parser.add_argument("--commit_steps", type=int, required=True, help="the state is committed every so many steps")
    parser.add_argument("--learning_rate", type=float, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
