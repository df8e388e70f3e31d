"""Freed memory is kept, in a process of its own each time: what an allocator has learned it does not forget."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

BLOCKS, BLOCK_BYTES = 20, 8 << 20
PROBE = f"""
import json, resource
from edl_allreduce.worker.memory import keep_freed_memory
kept = keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytes({BLOCK_BYTES // 2}), [bytes(100_000) for _ in range(100)]
before = faults()
for _ in range({BLOCKS}):
    block = bytearray({BLOCK_BYTES})
    block[:] = b"x" * {BLOCK_BYTES}  # which makes another
    del block
print(json.dumps([kept, faults() - before]))
"""


def probe(**environment: str) -> tuple[bool, int]:
    """Whether it was set, and how many pages the kernel was asked for."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    kept, faults = json.loads(done.stdout)
    return kept, faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is a setting of glibc's")
def test_blocks_that_come_again_take_their_pages_once() -> None:
    kept, faults = probe()
    asked = 2 * BLOCK_BYTES // os.sysconf("SC_PAGE_SIZE")
    assert kept and faults < 2 * asked, "each of the two blocks of a turn is asked for once, not in every turn"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is a setting of glibc's")
def test_who_has_set_the_allocator_keeps_that() -> None:
    kept, faults = probe(MALLOC_MMAP_THRESHOLD_=str(1 << 20))
    assert not kept and faults > BLOCKS * BLOCK_BYTES // os.sysconf("SC_PAGE_SIZE")
