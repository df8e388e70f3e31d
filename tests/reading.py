"""What a reader reads, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from edl_allreduce.position import Position
from edl_allreduce.worker.bad_records import LeftOut
from edl_allreduce.worker.reader import NOTHING, Share, StepReader


def steps_of(reader: StepReader, share: Share, left_out: LeftOut = NOTHING) -> Iterator[tuple[Position, list[bytes]]]:
    """Each step of the share to the end of the job: where it begins, and this worker's records in it."""
    for block in reader.blocks(share, left_out):
        records = iter(block.records)
        for at, count in zip(block.begins, block.counts, strict=True):
            yield at, list(islice(records, count))
