"""Turns tables in memory into RecordIO folders of tf.Example, always the same ones, for the makers of this zoo."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEST_FRACTION = 0.2
RECORDS_PER_FILE, RECORDS_PER_CHUNK = 256, 64
"""Far fewer than usual, so that even these small data spread over several files and tasks."""

Example = Mapping[str, Any]


def split(examples: Sequence[Example], labels: Any | None) -> dict[str, list[Example]]:
    """Shuffles the examples and cuts them into "train" and "test", with the same share of every label in both.

    Args:
        examples: all of them.
        labels: their classes; None: they have none.
    """
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(list(examples), test_size=TEST_FRACTION, random_state=0, stratify=labels)
    return {"train": train, "test": test}


def cut(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Cuts examples that are in no order, such as synthetic ones, into "train" and "test"."""
    end = len(examples) - round(len(examples) * TEST_FRACTION)
    return {"train": list(examples[:end]), "test": list(examples[end:])}


def write_splits(folder: str, name: str, splits: Mapping[str, Sequence[Example]]) -> str:
    """Writes FOLDER/SPLIT/NAME-0000N-of-0000M.recordio for every split that is not there yet.

    A split becomes visible as a whole, so that what is there is complete.

    Returns:
        One line that says what was done.
    """
    said = []
    for split_name, examples in splits.items():
        target = Path(folder) / split_name
        if not target.exists():
            _write(target, name, examples)
            said.append(f"{len(examples)} records in {target}")
    return f"made {' and '.join(said)}" if said else f"{', '.join(splits)} are in {folder} already"


def records_of(files: Sequence[str]) -> Any:
    """A `tf.data.Dataset` of the records of RecordIO files, in their order; all of them are held in memory.

    Args:
        files: paths, patterns or folders.

    Raises:
        StorageError: one of them names no file.
        CorruptFile: a file is damaged.
    """
    import tensorflow as tf

    from edl_allreduce import storage
    from edl_allreduce.recordio import Reader

    records: list[bytes] = []
    for path in storage.expand(",".join(files)):
        with Reader(path) as reader:
            records.extend(reader)
    return tf.data.Dataset.from_tensor_slices(tf.constant(records, tf.string, [len(records)]))


def _write(target: Path, name: str, examples: Sequence[Example]) -> None:
    from edl_allreduce.convert import example_bytes
    from edl_allreduce.recordio import Writer

    target.parent.mkdir(parents=True, exist_ok=True)
    records = [example_bytes(example) for example in examples]
    chunk_bytes = RECORDS_PER_CHUNK * max(map(len, records))
    number = -(-len(records) // RECORDS_PER_FILE)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for file in range(number):
            path = temporary / f"{name}-{file:05d}-of-{number:05d}.recordio"
            with Writer(str(path), max_chunk_bytes=chunk_bytes) as out:
                for record in records[file::number]:
                    out.write(record)
        temporary.chmod(0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
