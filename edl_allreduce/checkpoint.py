"""Where checkpoints lie and what makes one complete, so that a job that was killed goes on from the newest one.

    OUTPUT/checkpoints/step-000000500/state-1f0c….safetensors   weights, optimizer, moving statistics
                                      checkpoint.json           written last: it makes the checkpoint complete

checkpoint.json names its state file, with its size and SHA-256. Each try gives the state file a new name: somebody who
was thought dead and still writes the same checkpoint cannot damage another's.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar

from edl_allreduce import parameters, storage
from edl_allreduce.checkpoint_json import Checkpoint, Origin, differences, from_json, to_json
from edl_allreduce.errors import DataError, StorageError
from edl_allreduce.notices import notices
from edl_allreduce.position import Position
from edl_allreduce.storage_ranges import local_path

__all__ = ["Checkpoint", "Origin", "differences", "newest", "prune", "read", "remove_all", "url_of", "write"]

FOLDER, JSON = "checkpoints", "checkpoint.json"

_NAME = re.compile(r"step-(\d+)")

Result = TypeVar("Result")


def url_of(output: str, position: Position) -> str:
    """The folder of the checkpoint at a position."""
    return storage.join(output, FOLDER, f"step-{position.step:09d}")


def newest(output: str) -> Checkpoint | None:
    """The newest complete checkpoint of an output, or None. What is incomplete or damaged is passed over and logged.

    Raises:
        DataError: it is of a version of edl_allreduce that this one does not understand.
        StorageError: it cannot be told what is there.
    """
    for url in _folders(output):
        found, problem = _look(url)
        if found:
            return found
        notices.warning("%s: passed over: %s", url, problem)
    return None


def write(
    output: str,
    position: Position,
    names: Sequence[str],
    arrays: Sequence[Any],
    origin: Origin,
    now: float,
    check: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Writes a checkpoint; readers see it when it is complete.

    Args:
        output: folder or URL.
        names: of the arrays, in the model's order.
        arrays: as `parameters.write` takes them.
        now: seconds since 1970.
        check: called between blocks; may raise to break off.

    Raises:
        StorageError: it cannot be written. What was written is removed, where it takes room on a disk of this machine.
        ModelError: an array holds something else than numbers.
    """
    url = url_of(output, position)
    state = f"state-{secrets.token_hex(8)}.safetensors"
    try:
        with storage.writer_atomic(storage.join(url, state)) as out:
            hashed = _Hashed(out, check)
            parameters.write(parameters.unique(names), arrays, hashed)
        made = Checkpoint(url, position, origin, now, hashed.size, state, hashed.digest)
        storage.write_bytes_atomic(storage.join(url, JSON), to_json(made))
    except BaseException:
        if not storage.is_remote(url):
            _clean_up(url, state)
        raise
    return made


def prune(output: str, keep: int) -> None:
    """Removes all but the `keep` newest complete checkpoints, and what is incomplete and older than the newest of them.

    The newest complete one, and what is newer, stays untouched. Raises StorageError, DataError (see `newest`).
    """
    kept = 0
    for url in _folders(output):
        if kept < keep and _look(url)[0]:
            kept += 1
        elif kept:
            storage.remove(storage.join(url, JSON))  # first: what is removed only in part is not complete
            storage.remove_folder(url)


def remove_all(output: str) -> None:
    """Removes all checkpoints of an output. Raises StorageError."""
    for url in _folders(output):
        storage.remove(storage.join(url, JSON))
    storage.remove_folder(storage.join(output, FOLDER))


def read(url: str, variables: Sequence[Any]) -> Position:
    """Gives variables the values of a checkpoint: all of them or, when something is wrong, none.

    Args:
        url: the checkpoint's folder.
        variables: those whose values were written, in the same order, as `parameters.restore` takes them.

    Returns:
        The position at which they were the job's.

    Raises:
        DataError: it is incomplete or damaged.
        ModelError: a variable's name, shape or type is another one now.
        StorageError: it cannot be read.
    """
    found, problem = _look(url)
    if found is None:
        raise DataError(f"{url}: is no complete checkpoint: {problem}")
    state = storage.join(url, found.state)
    with _local_file(state) as (path, digest):
        if digest != found.digest:
            raise DataError(
                f"{state}: is damaged: its SHA-256 is not the one in {JSON}; to use an older checkpoint, remove {url}"
            )
        parameters.restore(variables, path, state)
    return found.position


class _Hashed:
    """A sink that passes on to `out`, and knows the SHA-256 and the size of what it was given."""

    def __init__(self, out: BinaryIO, check: Callable[[], None]) -> None:
        self._out, self._check, self._sha256, self.size = out, check, hashlib.sha256(), 0

    def write(self, data: memoryview, /) -> None:
        self._check()
        self._sha256.update(data)
        self._out.write(data)
        self.size += len(data)

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()


def _folders(output: str) -> list[str]:
    """The folders of all checkpoints, complete or not, the newest first."""
    folder = storage.join(output, FOLDER)
    steps = {int(found[1]): name for name in storage.names_in(folder) or () if (found := _NAME.fullmatch(name))}
    return [storage.join(folder, steps[step]) for step in sorted(steps, reverse=True)]


def _look(url: str) -> tuple[Checkpoint | None, str]:
    """The complete checkpoint in a folder, or None and why there is none."""
    text = _if_there(storage.read_bytes, storage.join(url, JSON))
    if text is None:
        return None, f"it has no {JSON}: whoever wrote it did not come to the end"
    found = from_json(url, text)
    if found is None:
        return None, f"its {JSON} is damaged"
    size = _if_there(storage.size, storage.join(url, found.state))
    if size != found.size:
        return None, f"its {found.state} has {size or 0} bytes, not the {found.size} that were written"
    return found, ""


def _if_there(ask: Callable[[str], Result], path: str) -> Result | None:
    """What is asked for; None when there is no such file."""
    try:
        return ask(path)
    except StorageError:
        if storage.exists(path):
            raise
        return None


def _clean_up(url: str, state: str) -> None:
    """Removes what a failed try has left in a local folder, nothing else."""
    with suppress(StorageError, DataError, OSError):
        found, _ = _look(url)
        if found is None or found.state != state:
            storage.remove(storage.join(url, state))
            os.rmdir(local_path(url))


@contextmanager
def _local_file(path: str) -> Iterator[tuple[str, str]]:
    """A local file with the same content (the very file, when it is local), and the SHA-256 of that."""
    digest = hashlib.sha256()
    with storage.open_read(path) as source, tempfile.NamedTemporaryFile(prefix="edl-checkpoint-") as copy:
        while block := source.read(parameters.BLOCK_BYTES):
            digest.update(block)
            if storage.is_remote(path):
                copy.write(block)
        copy.flush()
        yield copy.name if storage.is_remote(path) else local_path(path), digest.hexdigest()
