"""The shuffled order of an epoch: from a position to the record that stands there, from (dataset, seed, epoch) alone.

Tasks are shuffled with (seed, epoch), the records inside a task with (seed, epoch, task). The permutations come from
sorting SplitMix64 hashes (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), so they
do not depend on the version of any library.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edl_allreduce.dataset import Dataset
from edl_allreduce.position import Array, lane_starts

_U64 = np.uint64
_GOLDEN = _U64(0x9E3779B97F4A7C15)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = values ^ (values >> _U64(31))
    return mixed


def permutation(length: int, *seeds: int) -> Array:
    """A permutation of range(length) that depends on `seeds` only."""
    state = np.zeros(1, _U64)
    for seed in seeds:
        state = _mix(state + _GOLDEN + np.array([seed], _U64))
    hashes = _mix(state + _GOLDEN * np.arange(1, length + 1, dtype=_U64))
    return np.argsort(hashes, kind="stable").astype(np.int64)


class EpochOrder:
    """Where the record at each position of one epoch is found.

    Args:
        dataset: what is read.
        seed: the job's seed.
        epoch: counted from 0.
        shuffle: False keeps the files' order (positions still go through the lanes).
    """

    def __init__(self, dataset: Dataset, seed: int, epoch: int, shuffle: bool = True) -> None:
        self._key = (seed, epoch)
        self._shuffle = shuffle
        self._records = dataset.task_records
        count = len(dataset.tasks)
        self._tasks = permutation(count, *self._key) if shuffle else np.arange(count, dtype=np.int64)
        self._ends = np.cumsum(self._records[self._tasks])
        self._lane_starts = lane_starts(dataset.records, dataset.lanes)
        self._lanes = dataset.lanes
        self._inside = lru_cache(maxsize=2 * dataset.lanes)(self._permute)

    def locate(self, positions: Array) -> tuple[Array, Array]:
        """The task, and the record's place in it as the file has it, of each position; both of shape [positions]."""
        index = self._lane_starts[positions % self._lanes] + positions // self._lanes
        slot = np.searchsorted(self._ends, index, side="right")
        task = self._tasks[slot]
        place = index - (self._ends[slot] - self._records[task])
        if self._shuffle:
            for each in np.unique(task):
                here = task == each
                place[here] = self._inside(int(each))[place[here]]
        return task, place

    def _permute(self, task: int) -> Array:
        return permutation(int(self._records[task]), *self._key, task)
