"""The files that a run has left: in its output (see `rendezvous.mirror`), or in its job's folder of this machine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from edl_allreduce import storage, task_spec
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.errors import StorageError, UsageError
from edl_allreduce.job_folder import RUNS, JobFolder
from edl_allreduce.processes import Process, runs
from edl_allreduce.storage_ranges import local_errors, local_path
from edl_allreduce.task_spec import Job
from rendezvous.mirror import PART, STATUS

SPEC, DATASET, HISTORY = "spec.json", "dataset.pb", "history.jsonl"
HEAD_BYTES = 1 << 16  # of a history, in which there is a time
CHUNK_BYTES = 1 << 20
AT_A_TIME = 8  # parts that are fetched together


@dataclass(frozen=True)
class Recording:
    """One run.

    Attributes:
        url: the folder with its files.
        name: of the job.
        spec: its settings.
    """

    url: str
    name: str
    spec: Job

    @property
    def job_folder(self) -> JobFolder | None:
        """The job's own folder, if that is where this is from; there are its logs."""
        return None if storage.is_remote(self.url) or not self._has(HISTORY) else JobFolder(Path(local_path(self.url)))

    def final_status(self) -> pb.Status | None:
        """How the run has ended; None: it has not said so.

        Raises:
            StorageError: it cannot be read.
        """
        with contextlib.suppress(ValueError, json_format.ParseError):
            if self._has(STATUS):
                return json_format.Parse(self._read(STATUS), pb.Status(), ignore_unknown_fields=True)
        folder = self.job_folder
        if folder and not _is_alive(folder):
            return pb.Status(phase="failed", message="all its processes were killed", exit_code=6)
        return None

    def dataset(self) -> pb.Dataset:
        """What it has read; empty when that is not known."""
        with contextlib.suppress(DecodeError, StorageError):
            if self._has(DATASET):
                return pb.Dataset.FromString(self._read(DATASET))
        return pb.Dataset()

    def began(self) -> float:
        """The time of its first event, seconds since 1970; 0: nothing has happened.

        Raises:
            StorageError: it cannot be read.
        """
        for name in (HISTORY, "history-000001.jsonl"):
            if self._has(name):
                for text in storage.read_range(storage.join(self.url, name), 0, HEAD_BYTES).splitlines():
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        return float(json.loads(text)["time"])
        return 0.0

    def _has(self, name: str) -> bool:
        return storage.exists(storage.join(self.url, name))

    def _read(self, name: str) -> bytes:
        return storage.read_bytes(storage.join(self.url, name))


def find(place: str) -> tuple[list[Recording], list[str]]:
    """The runs that are recorded in a place, the oldest first; and what is to be said about those that cannot be read.

    Args:
        place: an output, or the folder of a single run, or of a job of this machine.

    Raises:
        UsageError: there is none.
        StorageError: it cannot be looked into.
    """
    place = place.rstrip("/") or "/"
    names = storage.names_in(place)
    if names is None:
        raise UsageError(f"there is no folder {place}")
    if SPEC in names and any(name == HISTORY or PART.fullmatch(name) for name in names):
        urls = [place]
    elif RUNS in names:
        urls = [storage.join(place, RUNS, name) for name in storage.names_in(storage.join(place, RUNS)) or ()]
    else:
        there = f"it holds {', '.join(names[:5])}{' …' if names[5:] else ''}" if names else "it is empty"
        raise UsageError(f"no run is recorded in {place}: {there}; expected the output of edl train or edl predict")
    found, notes = [], []
    for url in urls:
        recording = _recording(url)
        if isinstance(recording, Recording):
            found.append(recording)
        else:
            notes.append(recording)
    if not found:
        raise UsageError(notes[0] if notes else f"no run is recorded in {storage.join(place, RUNS)}: it is empty")
    return found, notes


def _recording(url: str) -> Recording | str:
    """A run; or why it is none."""
    try:
        text = storage.read_bytes(storage.join(url, SPEC)).decode()
        return Recording(url, storage.basename(url), task_spec.from_json(text))
    except StorageError as error:
        return f"{url} is left out: {error}"
    except (ValueError, UsageError) as error:
        return f"{url} is left out: its {SPEC} is damaged, or of another version: {error}"


def _is_alive(folder: JobFolder) -> bool:
    """Whether the job still runs."""
    try:
        return runs(Process(**json.loads(folder.supervisor.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return False


class HistoryReader:
    """Reads a run's history as far as it has been written; asked again, it goes on where it was.

    Attributes:
        missing: names of parts that are not there although later ones are.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.missing: list[str] = []
        self._number, self._offset = 1, 0  # the part that is read next, and how much of it is known; or of the file
        self._rest = b""

    def lines(self) -> Iterator[bytes]:
        """The whole lines that are new, without their ends; a last one that was cut off is not told.

        Raises:
            StorageError: they cannot be read.
        """
        names = storage.names_in(self._url) or []
        for piece in self._file() if HISTORY in names else self._parts(names):
            *whole, self._rest = (self._rest + piece).split(b"\n")
            yield from whole

    def _file(self) -> Iterator[bytes]:
        path = storage.join(self._url, HISTORY)
        with local_errors(path), open(local_path(path), "rb") as file:
            file.seek(self._offset)
            while piece := file.read(CHUNK_BYTES):
                self._offset += len(piece)
                yield piece

    def _parts(self, names: list[str]) -> Iterator[bytes]:
        there = {int(found[1]): name for name in names if (found := PART.fullmatch(name))}
        wanted = range(self._number, max(there, default=0) + 1)
        self.missing += [f"history-{number:06d}.jsonl" for number in wanted if number not in there]
        numbers = [number for number in wanted if number in there]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for begin in range(0, len(numbers), AT_A_TIME):
                some = numbers[begin : begin + AT_A_TIME]
                urls = [storage.join(self._url, there[number]) for number in some]
                for number, data in zip(some, pool.map(storage.read_bytes, urls), strict=True):
                    if number != self._number:
                        self._number, self._offset = number, 0
                    piece, self._offset = data[self._offset :], max(self._offset, len(data))
                    yield piece
