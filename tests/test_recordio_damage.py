"""Damaged RecordIO files: CorruptFile with file and offset; never a hang, a huge allocation or a wrong record."""

from __future__ import annotations

import gzip
import os
import random
import struct
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edl_allreduce import recordio
from edl_allreduce.errors import CorruptFile
from edl_allreduce.recordio import format

RECORDS = [b"first", b"", b"third record", bytes(40), b"fifth"]
COMPRESSORS = ["none", "snappy", "gzip"]


def payload(records: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(record)) + record for record in records)


def chunk(
    stored: bytes, records: int, compressor: int = 0, magic: int = 0x01020304, size: int | None = None, flip: int = 0
) -> bytes:
    header = (magic, zlib.crc32(stored) ^ flip, compressor, len(stored) if size is None else size, records)
    return struct.pack("<5I", *header) + stored


GOOD = chunk(payload(RECORDS), 5)
SNAPPY = bytes(cramjam.snappy.compress(payload(RECORDS)))
GZIP = gzip.compress(payload(RECORDS))
FRAME_START = b"\xff\x06\x00\x00sNaPpY"

# name: (the file, the offset that the error names, a part of its text). The good chunk before is len(GOOD) long.
CORPUS: dict[str, tuple[bytes, int, str]] = {
    "not RecordIO": (b"id,name\n1,one\n2,two\n3,three\n", 0, "expected the magic number 0x01020304, found 0x6e2c6469"),
    "big endian": (struct.pack(">5I", 0x01020304, 0, 0, 0, 1), 0, "magic number"),
    "header cut short": (GOOD + GOOD[:13], len(GOOD), "the file ends after 13 of a chunk header's 20 bytes"),
    "payload cut short": (GOOD + GOOD[:-1], len(GOOD), "the file ends after"),
    "zeros at the end": (GOOD + bytes(4096), len(GOOD), "found 0x00000000"),
    "checksum": (chunk(payload(RECORDS), 5, flip=1), 0, "checksum"),
    "unknown compressor": (chunk(payload(RECORDS), 5, compressor=3), 0, "unknown compressor 3: known are 0 (none)"),
    "huge size": (chunk(payload(RECORDS), 5, size=0xFFFFFFFF), 0, "payload has 4294967295 bytes"),
    "no record": (chunk(b"", 0), 0, "claims to hold no record"),
    "no record but bytes": (chunk(payload(RECORDS), 0), 0, "claims to hold no record"),
    "huge count": (chunk(payload(RECORDS), 0xFFFFFFFF), 0, "claims 4294967295 records"),
    "huge count, gzip": (chunk(GZIP, 0xFFFFFFFF, 2), 0, "claims 4294967295 records"),
    "count one too many": (chunk(payload(RECORDS), 6), 0, "ends after 5 records, the header says 6"),
    "count one too few": (chunk(payload(RECORDS), 4), 0, "9 bytes are left in the payload after its 4 records"),
    "length past the end": (chunk(payload(RECORDS)[:-1], 5), 0, "record 4 claims 5 bytes, 1 more than"),
    "huge length": (chunk(struct.pack("<I", 0xFFFFFFFF) + b"x", 1), 0, "record 0 claims 4294967295 bytes"),
    "trailing bytes": (chunk(payload(RECORDS) + b"??", 5), 0, "2 bytes are left"),
    "cut length": (chunk(payload(RECORDS) + b"\0\0", 6), 0, "ends after 5 records"),
    "snappy block format": (chunk(bytes(cramjam.snappy.compress_raw(payload(RECORDS))), 5, 1), 0, "snappy"),
    "snappy cut in a frame": (chunk(SNAPPY[:-1], 5, 1), 0, "ends inside a frame"),
    "snappy cut in a frame's header": (chunk(SNAPPY + b"\x00\x01", 5, 1), 0, "ends inside a frame"),
    "snappy frame checksum": (chunk(SNAPPY[:14] + b"!" + SNAPPY[15:], 5, 1), 0, "bad checksum"),
    "snappy without its start": (chunk(SNAPPY[10:], 5, 1), 0, "stream header"),
    "snappy with a frame of an unknown kind": (chunk(SNAPPY + b"\x02\x00\x00\x00", 5, 1), 0, "unsupported chunk type"),
    "snappy that lies": (chunk(FRAME_START + b"\x00\x09\x00\x00\0\0\0\0\xff\xff\x7f\0\0" * 9, 5, 1), 0, "impossible"),
    "snappy of nothing": (chunk(FRAME_START, 5, 1), 0, "ends after 0 records"),
    "gzip cut": (chunk(GZIP[:-3], 5, 2), 0, "ends before its end mark"),
    "gzip checksum": (chunk(GZIP[:-8] + b"????" + GZIP[-4:], 5, 2), 0, "incorrect data check"),
    "gzip and more": (chunk(GZIP + b"more", 5, 2), 0, "gzip data is damaged"),
    "empty gzip": (chunk(b"\0", 5, 2), 0, "gzip data"),
    "third chunk": (
        GOOD * 2 + chunk(payload([b"fourth"]), 2),
        2 * len(GOOD),
        "ends after 1 records, the header says 2",
    ),
}


def file_with(folder: Path | str, content: bytes) -> str:
    path = f"{folder}/damaged.recordio"
    Path(path).write_bytes(content)
    return path


def read(path: str) -> list[bytes]:
    with recordio.Reader(path) as reader:
        return list(reader)


@pytest.mark.parametrize("name", CORPUS)
def test_corpus(tmp_path: Path, name: str) -> None:
    content, offset, text = CORPUS[name]
    path = file_with(tmp_path, content)
    tracemalloc.start()
    with pytest.raises(CorruptFile) as error:
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (error.value.path, error.value.offset) == (path, offset)
    assert text in error.value.problem and "\n" not in str(error.value)
    assert peak < 2_000_000


def test_the_undamaged_are_read(tmp_path: Path) -> None:
    """The corpus differs from these files by its damage alone."""
    for content in (GOOD, chunk(SNAPPY, 5, 1), chunk(GZIP, 5, 2), chunk(SNAPPY + b"\xfe\x02\0\0\0\0", 5, 1)):
        assert read(file_with(tmp_path, content)) == RECORDS
    several_streams = b"".join(bytes(cramjam.snappy.compress(payload([record]))) for record in RECORDS)
    several_members = b"".join(gzip.compress(payload([record])) for record in RECORDS)
    assert read(file_with(tmp_path, chunk(several_streams, 5, 1))) == RECORDS
    assert read(file_with(tmp_path, chunk(several_members, 5, 2))) == RECORDS


def made_file(folder: str, compressor: str, limit: int = 25) -> tuple[str, bytes]:
    path = f"{folder}/a.recordio"
    with recordio.Writer(path, compressor, limit) as writer:
        for record in RECORDS:
            writer.write(record)
    return path, Path(path).read_bytes()


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_no_single_bit_can_change_unnoticed(tmp_path: Path, compressor: str) -> None:
    path, good = made_file(str(tmp_path), compressor)
    for place in range(len(good)):
        for bit in range(8):
            Path(path).write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            with pytest.raises(CorruptFile):
                read(path)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_no_cut_gives_a_wrong_record(tmp_path: Path, compressor: str) -> None:
    """A cut exactly between chunks leaves a valid, shorter file: the format has no end mark."""
    path, good = made_file(str(tmp_path), compressor)
    refs = recordio.index(path)
    borders = {ref.offset for ref in refs}
    for length in range(len(good)):
        Path(path).write_bytes(good[:length])
        if length in borders:
            whole = sum(ref.records for ref in refs if ref.offset + ref.size <= length)
            assert read(path) == RECORDS[:whole]
        else:
            with pytest.raises(CorruptFile):
                read(path)
        with pytest.raises(CorruptFile, match="has it been cut"):  # who has the index notices every cut
            recordio.read_chunk(path, refs[-1])


@settings(max_examples=300, deadline=None)
@given(
    records=st.lists(st.binary(max_size=50), min_size=1, max_size=8),
    compressor=st.sampled_from(COMPRESSORS),
    damage=st.sampled_from(["overwrite", "insert", "delete", "swap chunks"]),
    place=st.floats(0, 1, exclude_max=True),
    noise=st.binary(min_size=1, max_size=6),
)
def test_other_damage(records: list[bytes], compressor: str, damage: str, place: float, noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.recordio"
        with recordio.Writer(path, compressor, 60) as writer:
            for record in records:
                writer.write(record)
        refs = recordio.index(path)
        good = Path(path).read_bytes()
        at = int(place * len(good))
        changed = {
            "overwrite": good[:at] + noise + good[at + len(noise) :],
            "insert": good[:at] + noise + good[at:],
            "delete": good[:at] + good[at + len(noise) :],
            "swap chunks": good[refs[-1].offset :] + good[: refs[-1].offset],
        }[damage]
        Path(path).write_bytes(changed)
        try:
            got = read(path)
        except CorruptFile as error:
            assert error.path == path and 0 <= error.offset <= len(changed)
            return
        if damage == "swap chunks":  # chunks carry no number: in another order they are another valid file
            assert sorted(got) == sorted(records)
        else:  # cut exactly between chunks, or nothing changed
            assert good.startswith(changed) and got == records[: len(got)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2), st.integers(1, 20))
def test_noise_with_a_valid_header(noise: bytes, compressor: int, records: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = file_with(folder, chunk(noise, records, compressor))
        try:
            got = read(path)
        except CorruptFile:
            return
        assert len(got) == records


def test_a_compressor_field_that_became_none(tmp_path: Path) -> None:
    """Compressed payloads that happen to look like exactly one record: the one field that no checksum covers."""
    snappy_like = random.Random(1).randbytes(1795 - 18 - 4)
    content = bytearray(format.encode_chunk([snappy_like], 1))
    assert len(content) == 20 + 4 + int.from_bytes(FRAME_START[:4], "little")
    content[8] = 0
    with pytest.raises(CorruptFile, match="the header says uncompressed, but the payload is snappy"):
        read(file_with(tmp_path, bytes(content)))
    wanted = 20 + 4 + 0x00088B1F
    noise = random.Random(2).randbytes(0x00088B1F)
    length = next(n for n in range(len(noise) - 300, len(noise)) if len(format.encode_chunk([noise[:n]], 2)) == wanted)
    content = bytearray(format.encode_chunk([noise[:length]], 2))
    content[8] = 0
    with pytest.raises(CorruptFile, match="the header says uncompressed, but the payload is gzip"):
        read(file_with(tmp_path, bytes(content)))


def test_an_uncompressed_record_may_begin_like_snappy(tmp_path: Path) -> None:
    record = FRAME_START[4:] + bytes(1785)
    assert struct.pack("<I", len(record)) + record[:6] == FRAME_START
    path = str(tmp_path / "a.recordio")
    with recordio.Writer(path, "none") as writer:
        writer.write(record)
    assert read(path) == [record]


def peak_of(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressor", [1, 2])
def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressor: int) -> None:
    monkeypatch.setattr(format, "MAX_PAYLOAD_BYTES", 1 << 20)
    bomb = bytes(200 << 20)
    stored = gzip.compress(bomb, 1) if compressor == 2 else bytes(cramjam.snappy.compress(bomb))
    path = file_with(tmp_path, chunk(stored, 1, compressor))
    size = os.path.getsize(path)

    def open_it() -> None:
        with pytest.raises(CorruptFile, match="would become"):
            read(path)

    assert peak_of(open_it) < 2 * size + (4 << 20)


def test_what_takes_long_is_bounded(tmp_path: Path) -> None:
    """A million empty gzip members, and as many empty snappy frames: linear work, not a hang."""
    begin = time.monotonic()
    member, frame = gzip.compress(b""), b"\xfe\x00\x00\x00"
    for stored, compressor in ((member * 100_000, 2), (FRAME_START + frame * 1_000_000, 1)):
        with pytest.raises(CorruptFile):
            read(file_with(tmp_path, chunk(stored, 1, compressor)))
    assert time.monotonic() - begin < 20


def test_a_file_that_changed_after_it_was_indexed(tmp_path: Path) -> None:
    path = file_with(tmp_path, GOOD + chunk(payload(RECORDS), 5))
    refs = recordio.index(path)
    file_with(tmp_path, chunk(payload(RECORDS[:2]), 2) + GOOD + GOOD)
    with pytest.raises(CorruptFile, match="has the file changed"):
        recordio.read_chunk(path, refs[0])
    with pytest.raises(CorruptFile, match="no chunk begins here"):
        recordio.read_chunk(path, refs[1])
