"""A dataset as the protocol carries it."""

from __future__ import annotations

from itertools import accumulate

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.dataset import Dataset, Task
from edl_allreduce.recordio import ChunkRef


def dataset_to_message(dataset: Dataset) -> pb.Dataset:
    """The message that `dataset_from_message` reads back."""
    message = pb.Dataset(files=dataset.files, lanes=dataset.lanes, data_format=dataset.data_format)
    for task in dataset.tasks:
        message.tasks.add(
            file=task.file,
            offset=task.chunks[0].offset,
            sizes=[chunk.size for chunk in task.chunks],
            records=[chunk.records for chunk in task.chunks],
        )
    return message


def dataset_from_message(message: pb.Dataset) -> Dataset:
    """The dataset of a message."""
    tasks = tuple(_task(task) for task in message.tasks)
    return Dataset(tuple(message.files), tasks, message.lanes, message.data_format)


def _task(message: pb.Task) -> Task:
    offsets = accumulate(message.sizes, initial=message.offset)
    chunks = zip(offsets, message.sizes, message.records, strict=False)
    return Task(message.file, tuple(ChunkRef(offset, size, records) for offset, size, records in chunks))
