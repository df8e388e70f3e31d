"""Writes predictions as RecordIO of tf.Example, CSV or Parquet; each file appears complete."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edl_allreduce import recordio, storage
from edl_allreduce.extras import need
from edl_allreduce.tf_example import example_bytes

Columns = Mapping[str, npt.NDArray[Any]]
"""Named arrays with the same first dimension: one row per record."""


def write_recordio(path: str, columns: Columns) -> None:
    """One tf.Example per row; a value of more than one dimension is flattened in C order."""
    flat = {name: values.reshape(len(values), -1) for name, values in columns.items()}
    with recordio.Writer(path, "snappy") as writer:
        for row in range(_rows(columns)):
            writer.write(example_bytes({name: values[row] for name, values in flat.items()}))


def write_csv(path: str, columns: Columns) -> None:
    """A header and one line per row; a value of k numbers becomes the columns NAME_0 … NAME_{k-1}."""
    flat = {}
    for name, values in columns.items():
        rows = values.reshape(len(values), -1)
        for i in range(rows.shape[1]):
            flat[name if rows.shape[1] == 1 else f"{name}_{i}"] = _texts(rows[:, i])
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(flat)
    writer.writerows(zip(*flat.values(), strict=True))
    storage.write_bytes_atomic(path, text.getvalue().encode())


def write_parquet(path: str, columns: Columns) -> None:
    """A column per output; a value of more than one number is a list, flattened in C order."""
    pyarrow, parquet = (need(name, "parquet", "--output_format=parquet") for name in ("pyarrow", "pyarrow.parquet"))
    arrays = {}
    for name, values in columns.items():
        rows = values.reshape(len(values), -1)
        flat = pyarrow.array(rows.reshape(-1).tolist() if rows.dtype == object else rows.reshape(-1))
        arrays[name] = flat if rows.shape[1] == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    with storage.writer_atomic(path) as file:
        parquet.write_table(pyarrow.table(arrays), file)


WRITERS: dict[str, Callable[[str, Columns], None]] = {
    "recordio": write_recordio,
    "csv": write_csv,
    "parquet": write_parquet,
}


def _rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _texts(values: npt.NDArray[Any]) -> list[str]:
    """The shortest texts that are read back as the same values."""
    if values.dtype == object:
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    return [str(value) for value in values.astype(str)] if values.dtype != np.bool_ else [str(int(v)) for v in values]
