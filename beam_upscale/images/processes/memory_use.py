"""The memory that processes use, as the system tells it."""

import contextlib
import os
import resource
import sys
from pathlib import Path


def address_space_of(pid: int | str = "self") -> int | None:
    """Returns the bytes of address space that a process uses; None if the system does not tell."""
    with contextlib.suppress(OSError):
        return int(_statm(pid)[0]) * os.sysconf("SC_PAGE_SIZE")
    return None


def peak_address_space() -> int | None:
    """Returns the most bytes of address space that this process ever used; None if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmPeak":
                return int(value.split()[0]) << 10
    return None


def resident_bytes() -> int:
    """Returns the bytes of memory that this process holds, or their peak if only that is known."""
    with contextlib.suppress(OSError):
        return int(_statm("self")[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _statm(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/statm").read_text().split()
