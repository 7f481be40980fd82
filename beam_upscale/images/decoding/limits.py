"""Limits that a decoder process sets itself: memory, CPU time, open files, file sizes.

Before the first byte: no new privileges, no core dumps, few open files. For each image: CPU
seconds, open files, the size of files that are written, and address space for the file and
`HEADROOM_BYTES`; once the header is known also for a picture of that size.

The process sets them itself, since code that a parent with threads runs between fork and exec can
deadlock. The limit of address space is the process's use when a request comes, plus an allowance
for the image. Where the system does not tell that use (macOS, which does not enforce a limit
either), address space is not limited. Privileges can be given up on Linux only.
"""

import contextlib
import ctypes
import resource
import sys
import time
from collections.abc import Iterator

from beam_upscale.images.values import ImageHeader

HEADROOM_BYTES = 512 << 20
"""Address space beyond a file and its picture: threads, libraries that are loaded late, buffers."""

PIXEL_BYTES = 64
"""Bytes of address space for a pixel: the decoder's own planes or coefficients, its result, and
each copy until it is sent, of up to 8 bytes each. The most that was measured is 25, for an
interlaced PNG of 16 bits with alpha."""

CODEC_THREADS = 4
"""The most threads that decode one image; the codecs of AVIF and HEIC use several."""

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
    """Gives up, for good, the rights that no decoder needs."""
    if sys.platform.startswith("linux"):
        # An older kernel refuses; the decoder then runs without this protection.
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
        address_space: the bytes allowed now; None if they are not limited.
    """

    def __init__(self) -> None:
        self.address_space: int | None = None
        self._without_pixels: int | None = None
        self._written = _WRITTEN_BYTES
        self._hard = {kind: resource.getrlimit(kind)[1] for kind in _SOFT_LIMITS}

    @contextlib.contextmanager
    def of_image(
        self, taken: int | None, file_bytes: int, seconds: float, *, is_watched: bool
    ) -> Iterator[None]:
        """Limits this process within the context, for one image.

        Args:
            taken: bytes of address space that this process used before the image; None if unknown.
            file_bytes: the size of the image's file.
            seconds: the time that the parent waits for the image.
            is_watched: True if the parent ends this process when it uses too much address space;
                the system then sets no limit of its own.
        """
        self.address_space = None
        if taken is not None:
            self.address_space = taken + _FILE_COPIES * file_bytes + HEADROOM_BYTES
        self._without_pixels = self.address_space
        self._is_watched = is_watched
        self._seconds = seconds
        try:
            self._limit_address_space()
            self._limit_written(_WRITTEN_BYTES)
            self._limit(resource.RLIMIT_NOFILE, _FILES_OF_IMAGE)
            self.renew_seconds()
            yield
        finally:
            for kind in _SOFT_LIMITS:
                self._limit(kind, None)

    def allow(self, header: ImageHeader) -> None:
        """Raises the limit by room for the image's pixels, once its header is known."""
        pixels = header.width * header.height
        if self.address_space is not None:
            self.address_space += PIXEL_BYTES * pixels
            self._limit_address_space()
        self._limit_written(_WRITTEN_BYTES + _SPOOLED_PIXEL_BYTES * pixels)

    def begin_next(self) -> None:
        """Takes back the room for an image's pixels, before the next image of the same request."""
        self.address_space = self._without_pixels
        self._limit_address_space()

    def allow_reply(self, size: int) -> None:
        """Raises the limit of written bytes to those of a reply, whose memory counts as a file."""
        if size > self._written:
            self._limit_written(size)

    def renew_seconds(self) -> None:
        """Grants the image its CPU seconds again, after it has sent a part of its rows."""
        used = time.process_time()
        self._limit(resource.RLIMIT_CPU, int(used + CODEC_THREADS * self._seconds) + 1)

    def _limit_written(self, size: int) -> None:
        self._written = size
        self._limit(resource.RLIMIT_FSIZE, size)

    def _limit_address_space(self) -> None:
        self._limit(resource.RLIMIT_AS, None if self._is_watched else self.address_space)

    def _limit(self, kind: int, soft: int | None) -> None:
        hard = self._hard[kind]
        most = _MOST_BYTES if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(kind, (hard if soft is None else min(soft, most), hard))


class NoLimits(ImageLimits):
    """Sets no limits, for requests that are answered in a process of another kind."""

    def __init__(self) -> None:
        self.address_space = self._without_pixels = None
        self._written = 0
        self._seconds = 0.0
        self._is_watched = False

    def _limit(self, kind: int, soft: int | None) -> None:
        pass
