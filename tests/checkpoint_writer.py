"""Writes checkpoints for test_checkpoint.py, as a process that can be killed.

python -m tests.checkpoint_writer loop OUTPUT KEEP    writes one after the other, as fast as it can
python -m tests.checkpoint_writer die OUTPUT KEEP     again and again, and dies in it: before its first file operation,
                                                      its second, …, until it is not reached; prints what is found then
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

import numpy as np

from edl_allreduce import checkpoint
from edl_allreduce.checkpoint import Origin
from edl_allreduce.position import Position
from edl_allreduce.spec import JobSpec

NAMES, SHAPES = ["dense/kernel", "dense/bias", "adam/iteration"], [(40, 30), (30,), ()]
DEEDS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


class Variable:
    """What a checkpoint is read into."""

    def __init__(self, path: str, shape: tuple[int, ...]) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype("float32")
        self.value = np.zeros(shape, self.dtype)

    def assign(self, value: Any) -> None:
        self.value = value


def origin(**flags: Any) -> Origin:
    values = {"model_zoo": "zoo", "model_def": "a.B", "data": "d", "output": "o"} | flags
    return Origin("job-1", JobSpec.from_flags(values), "fingerprint", 64)


def position(step: int) -> Position:
    return Position(step, step // 100, step % 100 * 128)


def arrays(step: int) -> list[Any]:
    """The state at a step; every value tells the step."""
    return [np.full(shape, step + 0.5, np.float32) for shape in SHAPES]


def write(output: str, step: int, **more: Any) -> checkpoint.Checkpoint:
    return checkpoint.write(output, position(step), NAMES, arrays(step), origin(), 1e9 + step, **more)


def read(output: str) -> int | None:
    """The step of the newest checkpoint, whose state must be that step's; None when there is none."""
    newest = checkpoint.newest(output)
    if newest is None:
        return None
    variables = [Variable(name, shape) for name, shape in zip(NAMES, SHAPES, strict=True)]
    at = checkpoint.read(newest.url, variables)
    assert at == newest.position == position(at.step)
    assert all((variable.value == at.step + 0.5).all() for variable in variables)
    return at.step


def die_before(deed: int) -> None:
    """Ends this process, as SIGKILL would, before its file operation of that number."""
    numbers = itertools.count()

    def watch(event: str, _: object) -> None:
        if event in DEEDS and next(numbers) == deed:
            os._exit(9)

    sys.addaudithook(watch)


def write_and_die(output: str, step: int, keep: int, deed: int) -> bool:
    """Whether that file operation was reached."""
    child = os.fork()
    if child == 0:
        die_before(deed)
        write(output, step)
        checkpoint.prune(output, keep)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def main(what: str, output: str, keep: int) -> None:
    newest = read(output) or 0
    if what == "die":
        deeds = itertools.count()
        while write_and_die(output, newest + 1, keep, next(deeds)):
            found = read(output)
            assert found in (newest, newest + 1), f"{newest}, then {found}"
            newest = found
            print(newest)
        return
    for step in itertools.count(newest + 1):
        write(output, step)
        checkpoint.prune(output, keep)
        print(step, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
