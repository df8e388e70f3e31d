"""Makes data for model.py: synthetic points on three spirals, as RecordIO files. Change it for data of your own.

    python make_data.py FOLDER      writes FOLDER/train/*.recordio and FOLDER/test/*.recordio

A table needs no such script: `edl convert table.csv --output=FOLDER --label=COLUMN` makes records of its columns.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edl_allreduce.convert import example_bytes
from edl_allreduce.recordio import Writer


def spirals(records: int, seed: int) -> tuple[Any, Any]:
    """Points [records, 2], and which of three spirals each is on."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, records)
    radius = random.uniform(0.1, 1, records)
    angle = labels * 2 * np.pi / 3 + 4 * radius + random.normal(0, 0.15, records)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), labels


def write(path: str, points: Any, labels: Any) -> None:
    """Writes one file, complete or not at all. Workers share the work by chunks, so there should be many, not one."""
    with Writer(path, max_chunk_bytes=4096) as out:
        for point, label in zip(points, labels, strict=True):
            out.write(example_bytes({"point": point, "label": int(label)}))


def main() -> None:
    """Makes both parts in the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python make_data.py FOLDER")
    folder = sys.argv[1]
    for part, records, seed in (("train", 3000, 1), ("test", 600, 2)):
        points, labels = spirals(records, seed)
        for file in range(4):
            write(f"{folder}/{part}/points-{file:05d}-of-00004.recordio", points[file::4], labels[file::4])
        print(f"{records} records in {folder}/{part}")


if __name__ == "__main__":
    main()
