"""Keep large temporaries mapped (Linux with glibc).

By default glibc maps memory anew for every tensor above 32 MiB and gives freed memory back, so each operation of a training step
faults its pages in again: in the wells model more than half of the time. Two settings of the process keep the memory instead.
The price is that the process never shrinks.
"""

from __future__ import annotations

import ctypes
import sys

# Names and numbers of <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
INT_MAX = 2**31 - 1


def tune() -> bool:
    """Serve large blocks from the heap and never trim it; return whether the setting took effect.

    Call it before the first large tensor is made. It does nothing outside of Linux with glibc (macOS, Windows, musl), and what
    another allocator (jemalloc, tcmalloc), preloaded, does with it is that allocator's affair.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, INT_MAX))
