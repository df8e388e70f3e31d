"""Keeps memory that was freed, since the next batch needs as much: getting it from the kernel again costs a page fault
for every 4 KB, which for large records is most of what reading them takes.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Of mallopt(3). glibc would choose both by itself, after what was freed first, and so differently in every process.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 64 << 20  # at the end of a heap; what a pipeline allocates and frees for one block
LARGEST_BYTES = 32 << 20  # of what a heap holds; larger blocks are mapped, and given back at once. glibc allows no more
_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # whoever set one has chosen


def keep_freed_memory() -> bool:
    """Sets it for this process's C allocator; False where that is not glibc's, or the environment has set it."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _USERS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
