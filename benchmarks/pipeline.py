"""From files to parsed batches: RecordIO as workers read it against `tf.data.TFRecordDataset` with the same parsing.

Every figure is of a whole epoch of the same records, in batches of the same size, read in turn by each; the files are
in the machine's memory. Workers' batches are those of their own pipeline (`worker.feed`), which puts the records in a
new order in every epoch; TFRecordDataset's are in the files' order, and once more through `shuffle`. Memory that was
freed is kept, as workers do, which TFRecordDataset gains from as well. The original reader of RecordIO, pyrecordio,
takes part where it is installed (Go is needed to build it).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.records import write_recordio, write_tfrecord
from benchmarks.common.report import Report
from benchmarks.common.summary import alternate, ratios, summary
from edl_allreduce.contracts.base import Mode, TrainingModel, vectorised
from edl_allreduce.contracts.inputs import input_from
from edl_allreduce.dataset import make_dataset
from edl_allreduce.position import Position
from edl_allreduce.records import index_many
from edl_allreduce.tf_example import example_bytes
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.memory import keep_freed_memory
from edl_allreduce.worker.reader import Share, StepReader

FILES = 4
CHUNK_BYTES = 1 << 20
SHUFFLED_RECORDS = 10_000  # of the buffer of tf.data's shuffle
OURS_RAW, OURS_SNAPPY = "RecordIO", "RecordIO, snappy"
OURS_IN_ORDER = "RecordIO, in the files' order"
PER_RECORD = "RecordIO, parsed one by one"
THEIRS, THEIRS_SHUFFLED = "TFRecord", "TFRecord, shuffled"
ORIGINAL = "RecordIO by pyrecordio"


@dataclass(frozen=True)
class Shape:
    """Records of one size.

    Attributes:
        name: for people.
        make: the n-th record's features.
        batch: records per batch.
        parse: n serialized records to (features, labels); of one record the same, without the first dimension.
    """

    name: str
    make: Callable[[int, np.random.Generator], Mapping[str, Any]]
    batch: int
    parse: Callable[[Any], Any]
    parse_one: Callable[[Any], Any]


FLOATS = {"image": tf.io.FixedLenFeature([64], tf.float32), "label": tf.io.FixedLenFeature([], tf.int64)}
BYTES = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
IMAGE_BYTES = 100_000


@vectorised
def _parse_floats(records: Any) -> Any:
    parsed = tf.io.parse_example(records, FLOATS)
    return parsed["image"], parsed["label"]


def _parse_one_float(record: Any) -> Any:
    parsed = tf.io.parse_single_example(record, FLOATS)
    return parsed["image"], parsed["label"]


@vectorised
def _parse_bytes(records: Any) -> Any:
    parsed = tf.io.parse_example(records, BYTES)
    return tf.io.decode_raw(parsed["image"], tf.uint8, fixed_length=IMAGE_BYTES), parsed["label"]


def _parse_one_bytes(record: Any) -> Any:
    parsed = tf.io.parse_single_example(record, BYTES)
    return tf.io.decode_raw(parsed["image"], tf.uint8, fixed_length=IMAGE_BYTES), parsed["label"]


SMALL = Shape(
    "300 B",
    lambda n, chance: {"image": chance.random(64, np.float32), "label": n % 10},
    128,
    _parse_floats,
    _parse_one_float,
)
LARGE = Shape(
    "100 KB",
    lambda n, chance: {"image": chance.integers(0, 64, IMAGE_BYTES, np.uint8).tobytes(), "label": n % 10},
    32,
    _parse_bytes,
    _parse_one_bytes,
)


def measure(
    small: int = 100_000, large: int = 2000, repeats: int = 7, short: bool = False, output: str = "out/pipeline"
) -> None:
    """Runs the benchmark.

    Args:
        small, large: how many records of 300 B and of 100 KB there are.
        repeats: epochs of each kind, in turn.
        short: a look at it: a tenth of the records, three epochs.
        output: folder for results.
    """
    if short:
        small, large, repeats = max(1, small // 10), max(1, large // 10), 3
    keep_freed_memory()
    report = Report("pipeline", output, small=small, large=large, repeats=repeats)
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="edl-pipeline-") as folder:
        for shape, records in ((SMALL, small), (LARGE, large)):
            found = _measure(shape, records, repeats, Path(folder, shape.name.replace(" ", "")))
            _tell(report, shape, records, found)
            rates[shape.name] = {name: records / summary(values).median for name, values in found.items()}
    report.close(*(partial(_panel, name, each) for name, each in rates.items()))


def _tell(report: Report, shape: Shape, records: int, found: Mapping[str, Sequence[float]]) -> None:
    rows = [
        {
            "pipeline": name,
            "records per second": summary(records / value for value in values),
            "times TFRecord": ratios(found[THEIRS], values),
        }
        for name, values in found.items()
    ]
    report.table(f"records of {shape.name}, in batches of {shape.batch}", rows)
    report.goal(f"{shape.name}, raw: RecordIO / TFRecord", ratios(found[THEIRS], found[OURS_IN_ORDER]).median, 1.0)
    shuffled = ratios(found[THEIRS_SHUFFLED], found[OURS_RAW]).median
    report.goal(f"{shape.name}, raw, shuffled: RecordIO / TFRecord", shuffled, 1.0)
    if ORIGINAL in found:
        original = ratios(found[ORIGINAL], found[OURS_IN_ORDER]).median
        report.goal(f"{shape.name}, raw: RecordIO / pyrecordio", original, 1.0)
    if shape is SMALL:
        report.goal("vectorised / one by one", ratios(found[PER_RECORD], found[OURS_RAW]).median, 5.0)


def _panel(name: str, rates: Mapping[str, float], axes: Any) -> None:
    plots.bars(axes, {each: rate / rates[THEIRS] for each, rate in rates.items()}, goal=1.0)
    axes.set_xlabel("times the records per second of TFRecord")
    plots.title(axes, f"Records of {name}")


def _measure(shape: Shape, records: int, repeats: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of each epoch of each pipeline."""
    _write(shape, records, folder)
    raw, snappy = sorted(map(str, folder.glob("raw-*"))), sorted(map(str, folder.glob("snappy-*")))
    their_files = sorted(map(str, folder.glob("tfrecord-*")))
    theirs, shuffled = _theirs(their_files, shape), _theirs(their_files, shape, shuffle=True)
    measures: dict[str, Callable[[], float]] = {
        THEIRS: lambda: _epoch(theirs, records),
        THEIRS_SHUFFLED: lambda: _epoch(shuffled, records),
        **_originals(raw, shape, records),
        OURS_IN_ORDER: OurPipeline(raw, shape.batch, shape.parse, shuffle=False),
        OURS_RAW: OurPipeline(raw, shape.batch, shape.parse),
        OURS_SNAPPY: OurPipeline(snappy, shape.batch, shape.parse),
        PER_RECORD: OurPipeline(raw, shape.batch, shape.parse_one),
    }
    for each in measures.values():
        each()  # traces
    return alternate(measures, repeats)


def _write(shape: Shape, records: int, folder: Path) -> None:
    folder.mkdir()
    chance = np.random.default_rng(0)
    for file in range(FILES):
        own = [example_bytes(shape.make(n, chance)) for n in range(file, records, FILES)]
        for kind in ("raw", "snappy"):
            compressor = "none" if kind == "raw" else kind
            write_recordio(folder / f"{kind}-{file}", own, compressor=compressor, max_chunk_bytes=CHUNK_BYTES)
        write_tfrecord(folder / f"tfrecord-{file}", own)


def _theirs(files: Sequence[str], shape: Shape, shuffle: bool = False) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(files)
    if shuffle:
        records = records.shuffle(SHUFFLED_RECORDS, seed=0)
    return _batches(records, shape)


def _batches(records: tf.data.Dataset, shape: Shape) -> tf.data.Dataset:
    return records.batch(shape.batch).map(shape.parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _originals(files: Sequence[str], shape: Shape, records: int) -> dict[str, Callable[[], float]]:
    """The original reader, fed to tf.data by a generator, as ElasticDL does; nothing where it is not installed."""
    if not find_spec("recordio"):
        print("pyrecordio is not installed: it is not measured")
        return {}
    from recordio import Scanner

    def read() -> Iterator[bytes]:
        for file in files:
            scanner = Scanner(file)
            while (record := scanner.record()) is not None:
                yield record
            scanner.close()

    found = tf.data.Dataset.from_generator(read, output_signature=tf.TensorSpec([], tf.string))
    return {ORIGINAL: partial(_epoch, _batches(found, shape), records)}


def _epoch(batches: tf.data.Dataset, records: int) -> float:
    began, seen = time.perf_counter(), 0
    for _, labels in batches:
        seen += labels.shape[0]
    assert seen == records
    return time.perf_counter() - began


class OurPipeline:
    """A worker's own pipeline; called, it reads an epoch, and returns the seconds.

    Args:
        files: of RecordIO.
        parse: the input function.
    """

    def __init__(self, files: Sequence[str], batch: int, parse: Callable[[Any], Any], shuffle: bool = True) -> None:
        dataset = make_dataset(files, index_many(files, "recordio"), 4096)
        input = input_from(parse, {}, Mode.TRAINING, "the benchmark's parse function")
        training = TrainingModel(None, None, lambda *_: None, False, input)
        reader = StepReader(dataset, 0, shuffle, 1)
        self._feed, self._schedule = Feed(training, dataset, reader, ""), reader.schedule
        self._share = Share(Position(), tuple(range(dataset.lanes)), batch)
        self._epochs = 0

    def __call__(self) -> float:
        began, seen = time.perf_counter(), 0
        self._epochs += 1
        self._feed.begin(self._epochs, self._share)
        for at, size in self._schedule.steps(Position(), self._share.batch):
            batch = self._feed.next(at, size)
            assert batch
            seen += batch[1].shape[0]
        assert seen == self._schedule.records
        return time.perf_counter() - began


if __name__ == "__main__":
    run(measure)
