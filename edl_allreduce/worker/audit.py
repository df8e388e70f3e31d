"""Writes which record was consumed at which step, so that "none lost, none twice" can be proved from files.

One JSON line before a step (`"records"`: this worker means to consume them at that step of that round) and one after it
(`"applied"`). The records of a step are those meant in the last round in which some worker applied it: a step whose
round broke is done again in the next one, and after a restart of the whole job so are those after its checkpoint. A
worker that tries a step again without a bad record says anew what it means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edl_allreduce.dataset import Dataset
from edl_allreduce.order import EpochOrder
from edl_allreduce.position import Position, own_positions
from edl_allreduce.worker.bad_records import LeftOut
from edl_allreduce.worker.reader import Share, lane_mask

Record = tuple[int, int]
"""The task, and the place in it."""

Attempt = tuple[int, int]
"""At a step: the job, counted from 0, and its round."""


class Audit:
    """This worker's file of the audit.

    Args:
        folder: where every worker writes a file of its own.
        worker_id: names it.
        dataset, seed, shuffle: what determines the order.
    """

    def __init__(self, folder: Path, worker_id: int, dataset: Dataset, seed: int, shuffle: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / f"worker-{worker_id}.jsonl", "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._dataset, self._seed, self._shuffle = dataset, seed, shuffle
        self._orders: dict[int, EpochOrder] = {}

    def means(self, round: int, share: Share, at: Position, size: int, left_out: LeftOut) -> None:
        """About to consume this worker's part of the step at `at`, but for what is left out."""
        if at.epoch not in self._orders:
            self._orders = {at.epoch: EpochOrder(self._dataset, self._seed, at.epoch, self._shuffle)}
        positions = own_positions(at.offset, size, lane_mask(self._dataset, share.lanes))
        tasks, places = self._orders[at.epoch].locate(positions)
        kept = left_out.keeps(tasks, places)
        records = [[int(task), int(place)] for task, place in zip(tasks[kept], places[kept], strict=True)]
        self._write({"round": round, "step": at.step + 1, "epoch": at.epoch, "records": records})

    def applied(self, round: int, after: Position) -> None:
        """The step that leads to `after` has been applied."""
        self._write({"round": round, "step": after.step, "applied": True})

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")


def consumed(*folders: Path) -> dict[int, dict[int, list[Record]]]:
    """What a whole training consumed: epoch → step → every record.

    Args:
        folders: the audit of each job that the training took, in order; a later one did again what it found undone.

    Raises:
        ValueError: a file holds something else than audit lines.
    """
    meant, last = _read(folders)
    result: dict[int, dict[int, list[Record]]] = {}
    for step, attempt in sorted(last.items()):
        for epoch, records in meant[step, attempt].values():
            result.setdefault(epoch, {}).setdefault(step, []).extend(records)
    return result


def attempts(*folders: Path) -> dict[int, Attempt]:
    """Which attempt at each step counts, as `consumed` takes it; in a training that is done, no step's is of an
    earlier job or round than that of the step before: it would have been undone with it.
    """
    return dict(sorted(_read(folders)[1].items()))


def _read(
    folders: Sequence[Path],
) -> tuple[dict[tuple[int, Attempt], dict[Path, tuple[int, list[Record]]]], dict[int, Attempt]]:
    """What each worker meant to consume in an attempt at a step, with the epoch; and the attempts that count."""
    meant: dict[tuple[int, Attempt], dict[Path, tuple[int, list[Record]]]] = {}
    last: dict[int, Attempt] = {}
    for job, folder in enumerate(folders):
        for path in sorted(folder.glob("worker-*.jsonl")):
            text = path.read_text(encoding="utf-8")
            for line in map(
                json.loads, text[: text.rfind("\n") + 1].splitlines()
            ):  # its writer was killed over the rest
                step, attempt = line["step"], (job, line["round"])
                if line.get("applied"):
                    last[step] = max(attempt, last.get(step, attempt))
                else:
                    records = [(task, place) for task, place in line["records"]]
                    meant.setdefault((step, attempt), {})[path] = (line["epoch"], records)
    return meant, last
