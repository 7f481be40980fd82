"""Keeps the memory that large images leave behind from staying with the process."""

import ctypes
import sys

# From glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK_BYTES = 128 << 10


def give_memory_back() -> None:
    """Makes the C library return large blocks to the system when they are freed.

    glibc keeps ever larger blocks for each thread once some were freed. For a large image, whose
    rows and tiles come and go in the hundreds, this takes a gigabyte. Other libraries have no such
    call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
