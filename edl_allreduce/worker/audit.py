"""Writes which record was consumed at which step, so that "none lost, none twice" can be proved from files.

One JSON line before a step (`"records"`: this worker means to consume them at that step of that round) and one after it
(`"applied"`). The records of a step are those meant in the last round in which some worker applied it: a step whose
round broke is done again in the next one. A worker that tries a step again without a bad record says anew what it
means.
"""

from __future__ import annotations

import json
from pathlib import Path

from edl_allreduce.dataset import Dataset
from edl_allreduce.order import EpochOrder
from edl_allreduce.position import Position, own_positions
from edl_allreduce.worker.bad_records import LeftOut
from edl_allreduce.worker.reader import Share, lane_mask


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


def consumed(folder: Path) -> dict[int, dict[int, list[tuple[int, int]]]]:
    """What a whole run consumed: epoch → step → (task, place in the task) of every record.

    Raises:
        ValueError: a file holds something else than audit lines.
    """
    meant: dict[tuple[int, int], dict[Path, tuple[int, list[tuple[int, int]]]]] = {}
    last: dict[int, int] = {}
    for path in sorted(folder.glob("worker-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            step, round = line["step"], line["round"]
            if line.get("applied"):
                last[step] = max(round, last.get(step, 0))
            else:
                records = [(task, place) for task, place in line["records"]]
                meant.setdefault((step, round), {})[path] = (line["epoch"], records)
    result: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for step, round in sorted(last.items()):
        for epoch, records in meant[step, round].values():
            result.setdefault(epoch, {}).setdefault(step, []).extend(records)
    return result
