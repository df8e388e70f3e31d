"""RecordIO: files of the original, round trips, the index, positions, and what the writer makes visible."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edl_allreduce import recordio, storage
from edl_allreduce.errors import CorruptFile, DataError, StorageError, UsageError
from edl_allreduce.recordio import ChunkRef
from edl_allreduce.storage_remote import RemoteRanges

MADE_BY_THE_ORIGINAL = Path(__file__).parent / "data" / "recordio"
ITS_RECORDS = [b"", b"a", bytes(70000), "grüße".encode(), bytes(range(256)), *(b"record %d" % i for i in range(1000))]
COMPRESSORS = ["none", "snappy", "gzip"]


def write(path: str, records: list[bytes], compressor: str = "snappy", chunk: int = 32 << 20) -> str:
    with recordio.Writer(path, compressor, chunk) as writer:
        for record in records:
            writer.write(record)
    return path


def read(path: str) -> list[bytes]:
    with recordio.Reader(path) as reader:
        return list(reader)


@pytest.mark.parametrize("name", ["plain", "snappy", "gzip"])
def test_files_of_the_original(name: str) -> None:
    path = str(MADE_BY_THE_ORIGINAL / f"{name}.recordio")
    (ref,) = recordio.index(path)
    assert ref == ChunkRef(0, os.path.getsize(path), 1005)
    assert read(path) == list(recordio.read_chunk(path, ref)) == ITS_RECORDS


def test_an_uncompressed_file_is_the_originals_to_the_byte(tmp_path: Path) -> None:
    ours = write(str(tmp_path / "ours.recordio"), ITS_RECORDS, "none", 81920)
    assert Path(ours).read_bytes() == (MADE_BY_THE_ORIGINAL / "plain.recordio").read_bytes()


def test_a_compressed_file_of_ours_is_no_larger_than_the_originals(tmp_path: Path) -> None:
    ours = write(str(tmp_path / "ours.recordio"), ITS_RECORDS, "snappy", 81920)
    assert os.path.getsize(ours) < os.path.getsize(MADE_BY_THE_ORIGINAL / "snappy.recordio") / 3


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(st.binary(max_size=60) | st.integers(0, 200_000).map(bytes), max_size=30),
    compressor=st.sampled_from(COMPRESSORS),
    chunk=st.integers(1, 300),
)
def test_round_trip(records: list[bytes], compressor: str, chunk: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(f"{folder}/a.recordio", records, compressor, chunk)
        assert read(path) == records
        refs = recordio.index(path)
        with recordio.open_reader(path) as reader:
            chunks = [list(reader.read_chunk(ref)) for ref in refs]
    assert [record for records_of_chunk in chunks for record in records_of_chunk] == records
    assert [len(records_of_chunk) for records_of_chunk in chunks] == [ref.records for ref in refs]
    assert all(len(one) == 1 or sum(map(len, one)) <= chunk for one in chunks)


def test_records_are_a_sequence(tmp_path: Path) -> None:
    expected = [b"", b"one", b"", b"three", bytes(300)]
    path = write(str(tmp_path / "a.recordio"), expected)
    records = recordio.read_chunk(path, recordio.index(path)[0])
    assert len(records) == 5
    assert [records[i] for i in range(-5, 5)] == expected * 2
    assert records[1:4] == expected[1:4] and records[::-2] == expected[::-2]
    assert records.take([3, 3, 0]) == [b"three", b"three", b""] and records.take([]) == []
    assert records.take(np.array([4, 1], np.uint8)) == [expected[4], b"one"]
    assert records.nbytes >= sum(map(len, expected))
    for bad in (5, -6):
        with pytest.raises(IndexError):
            records[bad]
    for wrong in ([5], [0, -1]):
        with pytest.raises(IndexError, match="from 0 to 4"):
            records.take(wrong)


@pytest.mark.parametrize("sizes", [[9] * 5000, [9] * 4999 + [10], [10] + [9] * 4999, list(range(500)), [0] * 70_000])
def test_records_of_one_size_and_of_many(tmp_path: Path, sizes: list[int]) -> None:
    expected = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    assert read(write(str(tmp_path / "a.recordio"), expected)) == expected


def test_a_record_as_large_as_a_chunk_has_one_of_its_own(tmp_path: Path) -> None:
    records = [b"ab", bytes(10), bytes(11), b"", b"c", bytes(50)]
    path = write(str(tmp_path / "a.recordio"), records, "none", 10)
    assert [ref.records for ref in recordio.index(path)] == [1, 1, 1, 2, 1]
    assert read(path) == records


def test_many_empty_records_do_not_pile_up(tmp_path: Path) -> None:
    path = write(str(tmp_path / "a.recordio"), [b""] * 300_000, "none", 400)
    assert [ref.records for ref in recordio.index(path)] == [262_144, 37_856]


def test_a_file_without_records(tmp_path: Path) -> None:
    path = write(str(tmp_path / "a.recordio"), [])
    assert os.path.getsize(path) == 0 and recordio.index(path) == () and read(path) == []


@settings(max_examples=60, deadline=None)
@given(data=st.data(), chunk=st.integers(1, 40))
def test_resuming_gives_the_identical_remainder(data: Any, chunk: int) -> None:
    records = data.draw(st.lists(st.binary(max_size=20), max_size=40))
    with tempfile.TemporaryDirectory() as folder:
        path = write(f"{folder}/a.recordio", records, "snappy", chunk)
        done = data.draw(st.integers(0, len(records)))
        with recordio.Reader(path) as reader:
            first = [next(reader) for _ in range(done)]
            position = json.loads(json.dumps(reader.position))
        with recordio.Reader(path, position) as reader:
            assert first + list(reader) == records
            assert reader.position == (len(recordio.index(path)), 0)


def test_a_position_that_is_not_there(tmp_path: Path) -> None:
    path = write(str(tmp_path / "a.recordio"), [b"a", b"b", b"c"], "none", 2)
    with recordio.Reader(path, (0, 2)) as reader:
        assert reader.position == (1, 0) and list(reader) == [b"c"]
    for position in ((0, 3), (2, 1), (3, 0), (-1, 0), (0, -1)):
        with pytest.raises(DataError, match=r"has no position .* it has 2 chunks"):
            recordio.Reader(path, position)


def test_index_many_keeps_the_order_and_raises_the_first_error(tmp_path: Path) -> None:
    paths = [write(str(tmp_path / f"{i}.recordio"), [b"x"] * (i + 1)) for i in range(40)]
    assert [refs[0].records for refs in recordio.index_many(paths)] == list(range(1, 41))
    assert recordio.index_many([]) == []
    for number in (31, 7, 20):
        Path(paths[number]).write_bytes(b"not a chunk, but long enough")
    with pytest.raises(CorruptFile) as error:
        recordio.index_many(paths)
    assert error.value.path == paths[7]


class CountedReads:
    """Counts what is read of remote objects, as (offset, bytes)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[int, int]] = []
        real = RemoteRanges.read

        def counting(this: RemoteRanges, offset: int, size: int) -> bytes:
            data = real(this, offset, size)
            self.reads.append((offset, len(data)))
            return data

        monkeypatch.setattr(RemoteRanges, "read", counting)


def test_a_remote_index_reads_headers_and_not_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("memory://recordio/large-chunks.recordio", [os.urandom(1 << 20)] * 8, "none", 1 << 20)
    counted = CountedReads(monkeypatch)
    refs = recordio.index(path)
    assert len(refs) == 8 and len(counted.reads) == 8
    assert sum(size for _, size in counted.reads) < storage.size(path) / 10
    counted.reads.clear()
    recordio.read_chunk(path, refs[5])
    assert counted.reads == [(refs[5].offset, refs[5].size)]


def test_a_remote_index_of_small_chunks_needs_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("memory://recordio/small-chunks.recordio", [bytes(30)] * 5000, "none", 30)
    counted = CountedReads(monkeypatch)
    assert len(recordio.index(path)) == 5000
    assert len(counted.reads) <= 5
    assert read(path) == [bytes(30)] * 5000


def test_what_fails_while_written_never_appears(tmp_path: Path) -> None:
    path = write(str(tmp_path / "a.recordio"), [b"old"])
    with pytest.raises(RuntimeError, match="stop"), recordio.Writer(path, "none", 1) as writer:
        writer.write(b"new")
        writer.write(b"newer")
        raise RuntimeError("stop")
    assert read(path) == [b"old"] and os.listdir(tmp_path) == ["a.recordio"]
    with recordio.Writer(path) as writer:
        writer.write(b"new")
        assert read(path) == [b"old"]
    assert read(path) == [b"new"] and writer.records == 1


def test_a_writer_that_is_used_wrongly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected none, snappy, gzip, got 'snapy' \(did you mean 'snappy'\?\)"):
        recordio.Writer(str(tmp_path / "a"), "snapy")
    with pytest.raises(UsageError, match="max_chunk_bytes"):
        recordio.Writer(str(tmp_path / "a"), max_chunk_bytes=0)
    with pytest.raises(UsageError, match="with Writer"):
        recordio.Writer(str(tmp_path / "a")).write(b"")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/a"), recordio.Writer(str(tmp_path / "file" / "a")):
        pass


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, problem in (("missing", "no such file"), (".", "is a folder"), ("pipe", "not a regular file")):
        with pytest.raises(StorageError, match=problem):
            recordio.index(str(tmp_path / path))


def test_threads_may_share_a_reader(tmp_path: Path) -> None:
    records = [os.urandom(50) for _ in range(2000)]
    path = write(str(tmp_path / "a.recordio"), records, "snappy", 500)
    refs = recordio.index(path)
    results: dict[int, list[bytes]] = {}
    with recordio.open_reader(path) as reader:

        def work(first: int) -> None:
            results[first] = [record for ref in refs[first::4] for record in reader.read_chunk(ref)]

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(record for part in results.values() for record in part) == sorted(records)
