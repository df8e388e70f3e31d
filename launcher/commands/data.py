"""What `edl recordio info|cat|verify` and `edl convert` do. The docstrings are their help texts."""

from __future__ import annotations

import base64
import itertools
import json as json_text
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from edl_allreduce import recordio, storage
from edl_allreduce.errors import CorruptFile, DataError, UsageError, did_you_mean
from edl_allreduce.recordio.codec import COMPRESSORS
from edl_allreduce.records.formats import ending_of
from launcher.commands.arguments import boolean, whole_number
from launcher.commands.data_progress import progress_bar

if TYPE_CHECKING:
    from edl_allreduce.convert import Conversion

FORMATS = ("auto", "raw", "hex", "example", "base64")


def recordio_info(*files: str, json: str | bool = False) -> None:
    """Says what RecordIO files hold: chunks, records, bytes, compressor. Reads the chunks' headers alone.

    FILE     a path, a pattern, a folder, or several joined by commas; also gs:// and s3://
    --json   one line of JSON per file instead of a table
    """
    rows = [_facts(path) for path in _expand(files)]
    if boolean("json", json):
        for row in rows:
            print(json_text.dumps(row))
        return
    total = {key: sum(row[key] for row in rows) for key in ("chunks", "records", "bytes")}
    print(f"{'records':>12} {'chunks':>8} {'bytes':>15}  {'compressor':<12} file")
    for row in [*rows, *([{**total, "compressor": "", "file": _many(len(rows), "file")}] if len(rows) > 1 else [])]:
        print(f"{row['records']:>12,} {row['chunks']:>8,} {row['bytes']:>15,}  {row['compressor']:<12} {row['file']}")


def _facts(path: str) -> dict[str, Any]:
    with recordio.open_reader(path) as reader:
        headers = list(reader.headers())
    used = Counter(COMPRESSORS[header.compressor] for _, header in headers)
    return {
        "file": path,
        "records": sum(header.records for _, header in headers),
        "chunks": len(headers),
        "bytes": storage.size(path),
        "compressor": ",".join(sorted(used)),
        "largest_chunk_records": max((header.records for _, header in headers), default=0),
        "largest_chunk_bytes": max((header.size for _, header in headers), default=0),
    }


def recordio_cat(*files: str, skip: str | int = 0, limit: str | int = "", format: str = "auto") -> None:
    """Prints the records of RecordIO files, one per line.

    FILE      a path, a pattern, a folder, or several joined by commas; also gs:// and s3://
    --skip    leave out so many records first
    --limit   print at most so many records
    --format  auto: a tf.Example as JSON, text as it is, everything else as hex
              raw: the bytes as they are, each record ended by a line break
              hex, base64: the bytes in that form
              example: JSON; what is no tf.Example is an error
    """
    if format not in FORMATS:
        raise UsageError(f"--format: expected {', '.join(FORMATS)}, got {format!r}{did_you_mean(format, FORMATS)}")
    first, most = whole_number("skip", skip), whole_number("limit", limit) if limit != "" else None
    show = _SHOW[format]
    out = sys.stdout.buffer
    sys.stdout.flush()
    for path, offset, number, record in itertools.islice(_records(_expand(files), first), most):
        line = show(record)
        if line is None:
            place = f"{path}, chunk at offset {offset}, record {number}"
            raise DataError(f"{place}: is not a tf.Example; --format=auto shows every kind of record")
        out.write(line + b"\n")
    out.flush()


def _records(paths: Sequence[str], skip: int) -> Iterator[tuple[str, int, int, bytes]]:
    """Each record after the first `skip` (whose chunks are not read): file, chunk's offset, number in it, record."""
    for path in paths:
        with recordio.open_reader(path) as reader:
            for ref in reader.index():
                if skip >= ref.records:
                    skip -= ref.records
                    continue
                for number, record in enumerate(reader.read_chunk(ref).since(skip), skip):
                    yield path, ref.offset, number, record
                skip = 0


def _example(record: bytes) -> bytes | None:
    from edl_allreduce.tf_example import example_json

    features = example_json(record)
    return None if features is None else json_text.dumps(features, ensure_ascii=False).encode()


def _auto(record: bytes) -> bytes:
    from edl_allreduce.tf_example import readable

    return _example(record) or (record if record and isinstance(readable(record), str) else record.hex().encode())


_SHOW: dict[str, Callable[[bytes], bytes | None]] = {
    "auto": _auto,
    "raw": lambda record: record,
    "hex": lambda record: record.hex().encode(),
    "base64": base64.b64encode,
    "example": _example,
}


def recordio_verify(*files: str) -> None:
    """Reads every chunk of RecordIO files: checksums, lengths, numbers of records. Lists all problems.

    FILE   a path, a pattern, a folder, or several joined by commas; also gs:// and s3://
    """
    paths = _expand(files)
    problems: list[CorruptFile] = []
    chunks = records = 0
    with progress_bar("bytes") as progress:
        total, done = sum(storage.size(path) for path in paths), 0
        for path in paths:
            for offset, found in _verify(path):
                if isinstance(found, CorruptFile):
                    problems.append(found)
                    progress.note(f"damaged: {found}")
                else:
                    chunks, records = chunks + 1, records + found
                progress.report("verified", done + offset, total)
            done += storage.size(path)
        progress.report("verified", total, total)
    print(f"{_many(len(paths), 'file')}: {_many(chunks, 'intact chunk')} with {_many(records, 'record')}")
    if problems:
        bad = len({problem.path for problem in problems})
        raise DataError(f"{_many(len(problems), 'damaged place')} in {bad} of {_many(len(paths), 'file')}")


def _verify(path: str) -> Iterator[tuple[int, int | CorruptFile]]:
    """For each chunk where it begins, and its number of records or what is wrong.

    A damaged payload leaves the next chunk to be found by its header; behind a damaged header nothing can be found.
    """
    with recordio.open_reader(path) as reader:
        headers = reader.headers()
        while True:
            try:
                offset, header = next(headers)
            except StopIteration:
                return
            except CorruptFile as error:
                yield error.offset, CorruptFile(path, error.offset, f"{error.problem}; nothing after it was checked")
                return
            try:
                yield offset, len(reader.read_chunk(recordio.ChunkRef(offset, header.size + 20, header.records)))
            except CorruptFile as error:
                yield offset, error


def convert(
    *inputs: str,
    output: str = "",
    query: str = "",
    data_format: str = "auto",
    columns: str = "",
    label: str = "",
    records_per_file: str | int = 65536,
    compressor: str = "snappy",
    workers: str | int = 0,
    overwrite: str | bool = False,
) -> None:
    """Turns CSV files (with a header row), NumPy .npz archives, Parquet files or a database's rows into RecordIO files
    of tf.Example; the records of TFRecord files are kept as they are.

    INPUT               a path, a pattern, or several joined by commas, all of one kind; also gs:// and s3://. Or
                        a database: sqlite:///file.db, postgresql://user@host/name
    --query             of a database, the SELECT whose rows are converted (with ORDER BY: always in the same order)
    --data_format       csv, npz, parquet or tfrecord (default auto: by the inputs' endings)
    --output            folder for NAME-00000-of-00007.recordio and so on, NAME being the folder's (required)
    --columns           the wanted columns as name:type,name:type, with types int64, float, bytes; a type may be
                        left out (default: all columns, types inferred from all rows). Empty cells and NULLs give no
                        feature; an .npz's numbers as bytes stay raw, for tf.io.decode_raw
    --label             the column that becomes the feature "label"; texts are numbered in alphabetical order, and
                        labels.json in the output folder lists them
    --records_per_file  at most so many records in one file (default 65536)
    --compressor        none, snappy or gzip (default snappy)
    --workers           processes to convert with (default 0: as many as there are CPUs)
    --overwrite         replace the RecordIO files that the output folder holds
    """
    from edl_allreduce.convert import Options

    if not output:
        raise UsageError("--output: required and not given; a folder or URL for the RecordIO files")
    work = _conversion(inputs, query, data_format)
    per_file, processes = whole_number("records_per_file", records_per_file), whole_number("workers", workers)
    options = Options(columns, label, per_file, compressor, processes, boolean("overwrite", overwrite))
    with progress_bar("records") as progress:
        done = work(output, options, progress.report)
        for note in done.notes:
            progress.note(f"note: {note}")
    if done.columns:
        print("features: " + ", ".join(_told(column) for column in done.columns))
    wrote = f"{_many(done.records, 'record')} in {_many(len(done.files), 'file')}"
    print(f"wrote {wrote}: {storage.join(output, '*.recordio')}")


def _conversion(inputs: Sequence[str], query: str, data_format: str) -> Callable[..., Conversion]:
    """What converts these inputs, given output, options and progress."""
    from edl_allreduce import convert, sql_source

    database = next(filter(sql_source.is_database, inputs), "")
    if query or database:
        if not query:
            raise UsageError(f"--query: required for {sql_source.shown(database)}; a SELECT that gives the rows")
        if len(inputs) != 1:
            raise UsageError(f"--query: expected the URL of one database, got {_many(len(inputs), 'input')}")
        return partial(convert.convert_sql, inputs[0], query)
    converters = {
        "csv": convert.convert_csv,
        "npz": convert.convert_npz,
        "parquet": convert.convert_parquet,
        "tfrecord": convert.convert_tfrecord,
    }
    if data_format not in ("auto", *converters):
        known = ("auto", *converters)
        hint = did_you_mean(data_format, known)
        raise UsageError(f"--data_format: expected {', '.join(known)}, got {data_format!r}{hint}")
    paths = _expand(inputs)
    kinds = {_kind(path) for path in paths} if data_format == "auto" else {data_format}
    if len(kinds) != 1 or not kinds <= set(converters):
        names = ", ".join(sorted({PurePath(path).suffix or PurePath(path).name for path in paths}))
        expected = f"inputs that all end in one of .{', .'.join(converters)}"
        raise UsageError(f"expected {expected}, got {names}; --data_format says what others are")
    return partial(converters[kinds.pop()], paths)


def _kind(path: str) -> str:
    """What an input is by its ending."""
    return "npz" if path.lower().endswith(".npz") else ending_of(path.removesuffix(".gz"))


def _told(column: Any) -> str:
    source = f" from {column.name}" if column.name != column.feature else ""
    classes = f" ({len(column.classes)} classes, see labels.json)" if column.classes else ""
    return f"{column.feature}{source}:{column.type}{classes}"


def _expand(files: Sequence[str]) -> list[str]:
    """The files that the arguments name, in the order of the arguments, each once."""
    if not files:
        raise UsageError("a file is missing: give a path, a pattern, a folder, or several")
    return list(dict.fromkeys(path for pattern in files for path in storage.expand(pattern)))


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
