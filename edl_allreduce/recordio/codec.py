"""A chunk's compressors, each with a bound on what it may be made to allocate.

Snappy is the framing format (github.com/google/snappy, framing_format.txt): frames of at most 64 KiB, each with a
CRC-32C of its own. Gzip may be several members in a row (RFC 1952).
"""

from __future__ import annotations

import gzip
import struct
import zlib

import cramjam
import numpy as np

from edl_allreduce.recordio.records import Buffer

NONE, SNAPPY, GZIP = 0, 1, 2
COMPRESSORS = {NONE: "none", SNAPPY: "snappy", GZIP: "gzip"}

# How many bytes one compressed byte can become at most. Snappy: a 3-byte element copies 64 bytes. Deflate: 258 bytes
# in 2 bits.
MAX_EXPANSION = {NONE: 1, SNAPPY: 22, GZIP: 1032}

_SNAPPY_START = b"\xff\x06\x00\x00sNaPpY"
_GZIP_START = b"\x1f\x8b\x08"
_FRAME_HEADER = struct.Struct("<I")
_COMPRESSED_FRAME, _RAW_FRAME = 0x00, 0x01
_FRAME_CHECKSUM_BYTES = 4
_SMALLEST_WINDOW, _LARGEST_WINDOW = 1 << 9, 1 << 20


class Damaged(Exception):
    """A payload breaks its format; the text says how, whoever knows the file and the offset adds them."""


def compress(compressor: int, payload: bytes) -> bytes:
    """`payload`, compressed."""
    if compressor == SNAPPY:
        return bytes(cramjam.snappy.compress(payload))
    if compressor == GZIP:
        return gzip.compress(payload, mtime=0)
    return payload


def decompress(compressor: int, stored: memoryview, limit: int) -> Buffer:
    """What `stored` (snappy or gzip) decompresses to.

    Raises:
        Damaged: it breaks its format, or would become more than `limit` bytes.
    """
    return _gunzip(stored, limit) if compressor == GZIP else _unsnap(stored, limit)


def looks_like(stored: memoryview) -> int:
    """The compressor whose sign `stored` begins with, or NONE."""
    if stored[: len(_SNAPPY_START)] == _SNAPPY_START:
        return SNAPPY
    return GZIP if stored[: len(_GZIP_START)] == _GZIP_START else NONE


def _unsnap(stored: memoryview, limit: int) -> Buffer:
    size = _snappy_size(stored)
    if size > limit:
        raise Damaged(f"the snappy data would become {size} bytes, the limit is {limit}")
    if size > MAX_EXPANSION[SNAPPY] * len(stored):
        raise Damaged(f"{len(stored)} snappy bytes claim to become {size} bytes, which is impossible")
    payload = np.empty(size, np.uint8).data
    try:
        got = cramjam.snappy.decompress_into(stored, payload)
    except cramjam.DecompressionError as error:
        raise Damaged(f"the snappy data is damaged ({error})") from None
    if got != size:
        raise Damaged(f"the snappy data became {got} bytes, its frames claim {size}")
    return payload


def _snappy_size(stored: memoryview) -> int:
    """How many bytes the frames of a snappy stream claim to decompress to, without decompressing them."""
    position, end, total = 0, len(stored), 0
    unpack = _FRAME_HEADER.unpack_from
    try:
        while position < end:
            (word,) = unpack(stored, position)
            kind, length = word & 0xFF, word >> 8
            position += 4
            if kind == _COMPRESSED_FRAME:
                total += _varint(stored, position + _FRAME_CHECKSUM_BYTES)
            elif kind == _RAW_FRAME:
                total += max(0, length - _FRAME_CHECKSUM_BYTES)
            position += length
    except (struct.error, IndexError):
        position = end + 1
    if position != end:
        raise Damaged("the snappy data ends inside a frame")
    return total


def _varint(stored: memoryview, position: int) -> int:
    """The variable-length number at `position`; at most 3 bytes are looked at, since a frame has at most 64 KiB."""
    first = stored[position]
    if first < 0x80:
        return first
    second = stored[position + 1]
    if second < 0x80:
        return first & 0x7F | second << 7
    return first & 0x7F | (second & 0x7F) << 7 | (stored[position + 2] & 0x7F) << 14


def _gunzip(stored: memoryview, limit: int) -> bytes:
    parts: list[bytes] = []
    position, total = 0, 0
    while position < len(stored) or not parts:
        position, total = _gunzip_member(stored, position, parts, total, limit)
    return b"".join(parts)


def _gunzip_member(stored: memoryview, position: int, parts: list[bytes], total: int, limit: int) -> tuple[int, int]:
    """Appends one gzip member's content to `parts`; returns where the next begins and the new total.

    It is fed in windows that grow, because zlib copies what follows a member's end in its window: with whole chunks
    many small members would take forever.
    """
    member, window = zlib.decompressobj(wbits=31), _SMALLEST_WINDOW
    while not member.eof:
        fed = stored[position : position + window]
        position, window = position + len(fed), min(2 * window, _LARGEST_WINDOW)
        rest: Buffer = fed
        while True:
            try:
                part = member.decompress(rest, limit - total + 1)
            except zlib.error as error:
                raise Damaged(f"the gzip data is damaged ({error})") from None
            parts.append(part)
            total += len(part)
            if total > limit:
                raise Damaged(f"the gzip data would become more than the limit of {limit} bytes")
            rest = member.unconsumed_tail
            if member.eof or not rest:
                break
        if not fed and not member.eof:
            raise Damaged("the gzip data ends before its end mark")
    return position - len(member.unused_data), total
