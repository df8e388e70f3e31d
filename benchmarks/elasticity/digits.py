"""The digits as arrays, for training scripts that read neither RecordIO nor TensorFlow's records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edl_allreduce import storage
from edl_allreduce.recordio import Reader
from edl_allreduce.tf_example_pb2 import Example


def write_arrays(data: str, path: Path) -> None:
    """Writes images [n, 8, 8] from 0 to 1 and labels [n] as .npz, in the order of the files.

    Args:
        data: RecordIO files, as model_zoo/digits.py makes them.

    Raises:
        StorageError: there is no such file.
        CorruptFile: one is damaged.
    """
    images, labels = [], []
    for file in storage.expand(data):
        with Reader(file) as reader:
            for record in reader:
                feature = Example.FromString(record).features.feature
                images.append(feature["image"].float_list.value)
                labels.append(feature["label"].int64_list.value[0])
    np.savez(path, images=np.array(images, np.float32).reshape(-1, 8, 8) / 16, labels=np.array(labels, np.int64))
