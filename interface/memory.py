"""How the process of the app holds its memory."""

from __future__ import annotations

import ctypes

# Names in glibc's malloc.h, mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
MEBIBYTE = 2**20


def keep_freed_memory(mebibytes: int = 256) -> bool:
    """Lets the process keep so much freed memory for its next tensors. `False` where the C library is not glibc's.

    By default glibc gives what a thread frees back to the system, which zeroes it, page by page, when it is taken
    again: a tenth of what a slider waits for, and more of what a photograph does. One arena for all threads, since each
    would keep as much. Tensors of more than 32 MiB are given back as ever.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # other C libraries, none, Windows
        return False
    sizes = {_ARENA_MAX: 1, _TRIM_THRESHOLD: mebibytes * MEBIBYTE, _MMAP_THRESHOLD: 32 * MEBIBYTE}
    return all(mallopt(name, size) == 1 for name, size in sizes.items())
