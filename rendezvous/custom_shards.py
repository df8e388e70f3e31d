"""Finds the shards of a model's own data reader, in a process of its own: the coordinator runs no user code."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

from edl_allreduce.errors import ModelError
from edl_allreduce.recordio import ChunkRef
from edl_allreduce.records import custom
from edl_allreduce.spec import ModelSpec

PROGRAM = "edl_allreduce.worker.own_reader"


def index(model: ModelSpec, origin: str, records_per_task: int) -> tuple[list[str], list[tuple[ChunkRef, ...]]]:
    """The shards as names of files, and the chunks of each.

    Raises:
        ModelError: the user's code failed.
    """
    asked = {"model": dataclasses.asdict(model), "data": origin, "records_per_task": records_per_task}
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(told[-1])
    found = json.loads(done.stdout)
    files = [custom.file_of(origin, shard) for shard, _, _ in found]
    return files, [custom.chunks_of(first, records) for _, first, records in found]
