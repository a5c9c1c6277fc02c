"""How a process that restores pictures holds its memory."""

from __future__ import annotations

import contextlib
import ctypes

# Names in glibc's malloc.h, mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
KEPT = 2**29  # bytes; more did not help with 24 megapixels


def keep_freed_memory() -> bool:
    """Lets the process keep freed memory for its next tensors. `False` where the C library is not glibc's.

    By default glibc gives what a thread frees back to the system, and each tensor of more than 32 MiB at once. The
    system zeroes it, page by page, when it is taken again: a third of what a photograph of 24 megapixels takes, and a
    tenth of what a slider waits for. One arena for all threads, since each would keep as much.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # other C libraries, none, Windows
        return False
    return all(mallopt(name, size) == 1 for name, size in {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: KEPT}.items())


def give_back_freed_memory() -> None:
    """Gives back what is kept: after what needed much more than comes next."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
