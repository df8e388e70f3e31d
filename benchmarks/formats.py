"""How fast records of other formats are read, beside RecordIO: the same records, in shuffled steps, by one worker.

What is counted is this process's time on its cores; parsing is not part of it. A row of a table becomes a tf.Example
(Parquet) or stays its text (CSV); RecordIO then holds the Examples.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.records import write_recordio, write_tfrecord
from benchmarks.common.report import Report
from benchmarks.common.summary import alternate, ratios, summary
from edl_allreduce.dataset import make_dataset
from edl_allreduce.extras import Later
from edl_allreduce.position import Position
from edl_allreduce.records import index_many
from edl_allreduce.tf_example import example_bytes
from edl_allreduce.worker.memory import keep_freed_memory
from edl_allreduce.worker.reader import Share, StepReader

pa: Any = Later("pyarrow", "parquet", "Parquet")
pq: Any = Later("pyarrow.parquet", "parquet", "Parquet")
BATCH = 512
RAW = {"compressor": "none", "max_chunk_bytes": 1 << 20}
ROW_GROUP = 20_000
RECORDS = {"195 bytes": 195, "3 KB": 3000}
COLUMNS = (2, 12)


def measure(megabytes: int = 40, repeats: int = 7, short: bool = False, output: str = "out/formats") -> None:
    """Runs the benchmark.

    Args:
        megabytes: of each file, about.
        repeats: readings of each file, in turn with its records as RecordIO.
        short: a look at it: files of 4 MB, twice.
        output: folder for results.
    """
    if short:
        megabytes, repeats = 4, 2
    keep_freed_memory()
    report = Report("formats", output, megabytes=megabytes, repeats=repeats)
    rows, shares = [], {}
    with tempfile.TemporaryDirectory(prefix="edl-formats-") as folder:
        for name, theirs, ours, number in _files(Path(folder), megabytes * 1_000_000):
            found = alternate({file.name: partial(_seconds, file, number) for file in (theirs, ours)}, repeats)
            rates = summary(number / each for each in found[theirs.name])
            shares[name] = ratios(found[ours.name], found[theirs.name])
            rows.append({"format": name, "records per second": rates, "of RecordIO's": shares[name]})
    report.table("records per second of a core", rows)
    report.close(partial(_panel, {name: each.median for name, each in shares.items()}))


def _panel(shares: dict[str, float], axes: Any) -> None:
    plots.bars(axes, shares, 1.0)
    axes.set_xlabel("times the records per second of RecordIO")
    plots.title(axes, "Reading other formats")


def _files(folder: Path, size: int) -> list[tuple[str, Path, Path, int]]:
    """What it is, the file, the same records as RecordIO, and how many there are."""
    chance = np.random.default_rng(0)
    found = []
    for name, each in RECORDS.items():
        records = [chance.bytes(each) for _ in range(size // each)]
        theirs, ours = folder / f"{each}.tfrecord", folder / f"{each}.recordio"
        write_tfrecord(theirs, records)
        write_recordio(ours, records, **RAW)
        found.append((f"TFRecord, {name}", theirs, ours, len(records)))
    for columns in COLUMNS:
        values = chance.random((size // (4 * columns) // 8, columns), np.float32)
        named = {f"c{number}": values[:, number] for number in range(columns)}
        parquet, csv, ours = (folder / f"{columns}.{ending}" for ending in ("parquet", "csv", "recordio"))
        pq.write_table(pa.table(named), parquet, row_group_size=ROW_GROUP)
        np.savetxt(csv, values, "%.6f", ",", header=",".join(named), comments="")
        write_recordio(ours, (example_bytes(dict(zip(named, row, strict=True))) for row in values), **RAW)
        found.append((f"CSV, {columns} columns", csv, ours, len(values)))
        found.append((f"Parquet, {columns} columns", parquet, ours, len(values)))
    return found


def _seconds(file: Path, records: int) -> float:
    """On this process's cores, for one epoch."""
    dataset = make_dataset([str(file)], index_many([str(file)]), 4096)
    share = Share(Position(), tuple(range(dataset.lanes)), BATCH)
    began = time.process_time()
    read = sum(len(block.records) for block in StepReader(dataset, 0, True, 1).blocks(share))
    assert read == records
    return time.process_time() - began


if __name__ == "__main__":
    run(measure)
