"""Limits that a decoder sets itself, so that a file which leads a codec astray takes little.

Before the first byte: no new privileges, no core dumps, few open files. For each image: CPU
seconds, open files, the size of files that are written, and address space for the file and
`HEADROOM_BYTES`; once the header is known also for a picture of that size.

They are set by the process itself: what a parent with threads runs between fork and exec can
deadlock. Address space is what the process takes when a request comes, and what is allowed beyond.
Where the system does not tell how much that is (macOS, which does not enforce it either), it is not
limited; privileges can be given up on Linux only.
"""

import contextlib
import ctypes
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from beam_upscale.images.values import ImageHeader

HEADROOM_BYTES = 512 << 20
"""Address space beyond a file and its picture: threads, libraries that are loaded late, buffers."""

PIXEL_BYTES = 64
"""Address space for a pixel: the decoder's own planes or coefficients, what it gives, and each copy
until it is sent, of up to 8 bytes each. Of all formats an interlaced PNG of 16 bits with alpha was
seen to take most, 25."""

CODEC_THREADS = 4
"""The most that one image is decoded with: of AVIF and HEIC."""

_FILE_COPIES = 4
_MOST_FILES = 64
_FILES_OF_IMAGE = 48
_WRITTEN_BYTES = 1 << 20
_SPOOLED_PIXEL_BYTES = 8
_MOST_BYTES = 1 << 62

_PR_SET_NO_NEW_PRIVS = 38

_SOFT_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)


def harden() -> None:
    """Gives up, for good, what no decoder needs."""
    if sys.platform.startswith("linux"):
        # An older kernel refuses; there is nothing to do about it.
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _lower_for_good(resource.RLIMIT_CORE, 0)
    _lower_for_good(resource.RLIMIT_NOFILE, _MOST_FILES)


def _lower_for_good(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (limit, limit))


class ImageLimits:
    """Soft limits of this process, for one image at a time.

    Attributes:
        address_space: bytes that are allowed now; None where they are not limited.
    """

    def __init__(self) -> None:
        self.address_space: int | None = None
        self._hard = {kind: resource.getrlimit(kind)[1] for kind in _SOFT_LIMITS}

    @contextlib.contextmanager
    def of_image(
        self, taken: int | None, file_bytes: int, seconds: float, *, is_watched: bool
    ) -> Iterator[None]:
        """Limits this process until the image is done.

        Args:
            taken: address space of this process before the image came; None where that is not
                known.
            file_bytes: of the image.
            seconds: that its parent waits for it.
            is_watched: whether the parent ends this process where it takes too much address space,
                so that the system is not to refuse it.
        """
        self.address_space = None
        if taken is not None:
            self.address_space = taken + _FILE_COPIES * file_bytes + HEADROOM_BYTES
        self._is_watched = is_watched
        self._seconds = seconds
        try:
            self._limit_address_space()
            self._limit(resource.RLIMIT_FSIZE, _WRITTEN_BYTES)
            self._limit(resource.RLIMIT_NOFILE, _FILES_OF_IMAGE)
            self.renew_seconds()
            yield
        finally:
            for kind in _SOFT_LIMITS:
                self._limit(kind, None)

    def allow(self, header: ImageHeader) -> None:
        """Makes room for the pixels of the image, whose header is known now."""
        pixels = header.width * header.height
        if self.address_space is not None:
            self.address_space += PIXEL_BYTES * pixels
            self._limit_address_space()
        self._limit(resource.RLIMIT_FSIZE, _WRITTEN_BYTES + _SPOOLED_PIXEL_BYTES * pixels)

    def renew_seconds(self) -> None:
        """Gives the image its CPU seconds anew: it has given a part of what it is asked for."""
        used = time.process_time()
        self._limit(resource.RLIMIT_CPU, int(used + CODEC_THREADS * self._seconds) + 1)

    def _limit_address_space(self) -> None:
        self._limit(resource.RLIMIT_AS, None if self._is_watched else self.address_space)

    def _limit(self, kind: int, soft: int | None) -> None:
        hard = self._hard[kind]
        most = _MOST_BYTES if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(kind, (hard if soft is None else min(soft, most), hard))


class NoLimits(ImageLimits):
    """Limits nothing: for requests that are answered in a process of another kind."""

    def __init__(self) -> None:
        self.address_space = None
        self._seconds = 0.0
        self._is_watched = False

    def _limit(self, kind: int, soft: int | None) -> None:
        pass


def address_space_of(pid: int | str = "self") -> int | None:
    """Bytes of address space that a process takes; None where the system does not tell."""
    with contextlib.suppress(OSError):
        return int(_statm(pid)[0]) * os.sysconf("SC_PAGE_SIZE")
    return None


def peak_address_space() -> int | None:
    """The most bytes of address space that this process ever took; None where that is not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmPeak":
                return int(value.split()[0]) << 10
    return None


def resident_bytes() -> int:
    """Memory that this process holds; where the system tells only the peak, that."""
    with contextlib.suppress(OSError):
        return int(_statm("self")[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _statm(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/statm").read_text().split()
