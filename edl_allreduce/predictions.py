"""How a folder of predictions looks, so that coordinator, workers and readers agree; without TensorFlow.

    OUTPUT/part-00000-of-00012.recordio   one file per task, in the order of the input; each appears complete
           predictions.json               what they are; "complete": true is written last

A job whose folder is not complete goes on where the one before it ended, if model, data and format are the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from edl_allreduce import storage
from edl_allreduce.errors import DataError, StorageError, UsageError

MANIFEST = "predictions.json"


@dataclass(frozen=True)
class Predictions:
    """What predictions.json says.

    Attributes:
        trained_model: folder or URL of the model.
        model: its fingerprint.
        data: fingerprint of the records' dataset.
        format: recordio, csv or parquet.
        tasks: how many part files there are.
        records: how many predictions, in all of them.
        complete: whether all of them are there.
    """

    trained_model: str
    model: str
    data: str
    format: str
    tasks: int
    records: int
    complete: bool = False

    @property
    def parts(self) -> list[str]:
        """The names of all part files, in the order of the input."""
        return [part_name(task, self.tasks, self.format) for task in range(self.tasks)]


def part_name(task: int, tasks: int, format: str) -> str:
    """The name of the file with the predictions for a task."""
    return f"part-{task:05d}-of-{tasks:05d}.{format}"


def read(url: str) -> Predictions | None:
    """What a folder's predictions.json says; None when there is none that can be read."""
    try:
        values: Any = json.loads(storage.read_bytes(storage.join(url, MANIFEST)))
        return Predictions(**values)
    except (StorageError, ValueError, TypeError):
        return None


def write(url: str, predictions: Predictions) -> None:
    """Writes predictions.json. Raises StorageError."""
    text = json.dumps(asdict(predictions), indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes_atomic(storage.join(url, MANIFEST), text.encode())


def complete(url: str) -> None:
    """Notes that all part files are there.

    Raises:
        DataError: somebody has removed the predictions.json that `begin` has written.
        StorageError: it cannot be written.
    """
    there = read(url)
    if there is None:
        raise DataError(f"{url}: its {MANIFEST} is gone or damaged; somebody else has written there")
    write(url, replace(there, complete=True))


def begin(url: str, wanted: Predictions, overwrite: bool) -> list[int]:
    """Makes a folder ready for predictions; returns the tasks whose files an unfinished job has left.

    Raises:
        UsageError: there are predictions already, and they are not to be replaced.
        StorageError: it cannot be read or written.
    """
    there = read(url)
    names = set(storage.names_in(url) or ())
    if there == wanted and not there.complete:
        return [task for task, name in enumerate(wanted.parts) if name in names]
    if there and not overwrite:
        what = "holds predictions already" if there.complete else "holds another job's unfinished predictions"
        raise UsageError(f"--output: {url} {what}; choose another folder or add --overwrite")
    for name in names:
        if name == MANIFEST or name.startswith("part-"):
            storage.remove(storage.join(url, name))
    write(url, wanted)
    return []
