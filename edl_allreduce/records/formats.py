"""Which format a file has: by its ending, or as the user says. Light, because the flags need it."""

from __future__ import annotations

import re

from edl_allreduce.errors import DataError, UsageError, did_you_mean

AUTO = "auto"
FORMATS = ("recordio", "tfrecord", "csv", "parquet")
CUSTOM = "custom"  # the model's own reader

_ENDINGS = {
    "recordio": "recordio",
    "tfrecord": "tfrecord", "tfrecords": "tfrecord", "tfrec": "tfrecord",
    "csv": "csv",
    "parquet": "parquet", "pq": "parquet",
}  # fmt: skip
_SHARD = re.compile(r"-\d+-of-\d+$")  # digits.tfrecord-00000-of-00010


def ending_of(path: str) -> str:
    """The format that a file's ending says; "" for an ending that says nothing."""
    return _ENDINGS.get(_SHARD.sub("", path).rpartition(".")[2].lower(), "")


def format_of(path: str, data_format: str = AUTO) -> str:
    """The format of a file: `data_format`, or with "auto" what its ending says; RecordIO when that says nothing.

    Raises:
        DataError: the ending says that the file is compressed as a whole.
    """
    if data_format != AUTO:
        return data_format
    whole, _, ending = path.rpartition(".")
    if ending.lower() in ("gz", "bz2", "xz", "zst") and ending_of(whole):
        advice = "'edl convert' makes RecordIO of it" if ending_of(whole) == "tfrecord" else "decompress it"
        raise DataError(f"{path}: is compressed as a whole, so nothing can be read from its middle; {advice}")
    return ending_of(path) or "recordio"


def check_format(data_format: str, others: tuple[str, ...] = ()) -> None:
    """Raises UsageError when there is no such format, besides `others`."""
    known = (AUTO, *FORMATS, *others)
    if data_format not in known:
        hint = did_you_mean(data_format, known)
        raise UsageError(f"--data_format: expected {', '.join(known)}, got {data_format!r}{hint}")
