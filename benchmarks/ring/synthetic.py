"""A member of a ring that trains ResNet-50 on one and the same random batch: see benchmarks/gpu.py and overlap.py."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", sys.argv[1])  # each its own; before TensorFlow looks for them

import keras
import tensorflow as tf

from benchmarks.ring.team import ADDRESS, answer, questions
from edl_allreduce.contracts.base import Input, TrainingModel
from edl_allreduce.spec import TrainingSpec
from edl_allreduce.worker import collectives
from edl_allreduce.worker.precision import use_precision
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.step import TrainStep


def main(rank: int, size: int, config: dict[str, Any]) -> None:
    """Answers until nobody asks any more."""
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
    use_precision(config["precision"])
    collectives.BUCKET_BYTES = config.get("bucket_bytes", collectives.BUCKET_BYTES)
    training = make_training(config["image_size"], config["classes"])
    spec = TrainingSpec(mixed_precision=config["precision"], batch_size=config["batch"] * size)
    step, ring = TrainStep(training, spec), Ring(ADDRESS, spared=0)
    shape = [config["batch"], config["image_size"], config["image_size"], 3]
    batch = tf.random.normal(shape), tf.random.uniform([config["batch"]], maxval=config["classes"], dtype=tf.int64)
    for question in questions():
        match question:
            case {"do": "join", "store": store}:
                ring.join(rank, size, (ADDRESS, store) if size > 1 else None)
                answer([each.name for each in tf.config.list_physical_devices("GPU")])
            case {"do": "train", "steps": steps}:
                began = time.perf_counter()
                for _ in range(steps):
                    step.train(*batch, part=False)
                answer(time.perf_counter() - began)
    ring.leave()


def make_training(image_size: int, classes: int) -> TrainingModel:
    """ResNet-50 with what the published measurements train it with."""
    keras.utils.set_random_seed(0)
    shape = (image_size, image_size, 3)
    model = keras.applications.ResNet50(
        weights=None, input_shape=shape, classes=classes, classifier_activation=None, name="resnet50"
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    specs = (tf.TensorSpec([None, *shape]), tf.TensorSpec([None], tf.int64))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    return TrainingModel(model, optimizer, loss, False, Input(True, lambda records: records, specs))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[4]))
