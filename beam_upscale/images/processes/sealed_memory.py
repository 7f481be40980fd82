"""Memory without a name that one process fills and seals, and that another one reads.

On Linux it is a memfd. Its seals keep everybody from changing, shrinking or growing it, so that a
process may map what it is sent: a hostile sender can neither end that process with SIGBUS nor
change the bytes after they were checked. A memfd needs no room in /dev/shm, and a killed process
leaves nothing behind. Elsewhere (macOS) a temporary file without a name takes its place. It has no
seals, so its bytes are copied.
"""

import errno
import fcntl
import functools
import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_MAPPED = 2 << 20
"""Bytes. A smaller part is copied: that takes less time than its page faults, and no descriptor,
which a mapping keeps."""

_NAME = "beam-upscale"
_SEALS = (
    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    if hasattr(os, "memfd_create")
    else 0
)
_NOEXEC_SEAL = 0x8  # MFD_NOEXEC_SEAL of Linux 6.3, which Python does not name.
# Errors of a system, or of its rules, without memfd or without one of its flags.
_NOT_OFFERED = frozenset({errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EPERM})


class SharedMemoryError(Exception):
    """The system gives this process no memory, or no descriptor, to pass bytes to another one.

    Attributes:
        error: the system's error.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def filled_memory(buffers: Sequence[bytes | memoryview]) -> int:
    """Puts buffers of bytes into new memory, one behind the other, and seals it.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        SharedMemoryError: the system lacks memory or descriptors.
    """
    try:
        return _filled(buffers)
    except OSError as error:
        raise SharedMemoryError(error) from error


def _filled(buffers: Sequence[bytes | memoryview]) -> int:
    descriptor = _created()
    try:
        for buffer in buffers:
            view = memoryview(buffer)
            while view:
                view = view[os.write(descriptor, view) :]
        if memfd_flags() is not None:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _created() -> int:
    if (flags := memfd_flags()) is not None:
        return os.memfd_create(_NAME, flags)
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


@functools.cache
def memfd_flags() -> int | None:
    """Returns the flags with which this system creates a memfd; None if it creates none.

    Raises:
        OSError: the system lacks memory or descriptors at this moment.
    """
    if not hasattr(os, "memfd_create"):
        return None
    plain = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    for flags in (plain | _NOEXEC_SEAL, plain):
        try:
            os.close(os.memfd_create(_NAME, flags))
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
        else:
            return flags
    return None


class ReceivedMemory:
    """Memory that another process filled, whose parts are taken in their order."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Takes over the descriptor, and checks the memory before anything is read of it.

        Args:
            descriptor: as the other process sent it; it is closed if it is refused.
            size: the bytes that the memory must have.

        Raises:
            ValueError, OSError: it is no such memory, is not sealed, or has another size.
        """
        self._descriptor = descriptor
        self._size = size
        self._offset = 0
        self._mapping: mmap.mmap | None = None
        try:
            self._is_sealed = memfd_flags() is not None
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        if self._is_sealed:
            seals = fcntl.fcntl(self._descriptor, fcntl.F_GET_SEALS)
            if seals & _SEALS != _SEALS:
                raise ValueError(f"memory with the seals {seals:#x}")
        # Only now: what is not sealed can have another size in a moment.
        size = os.fstat(self._descriptor).st_size
        if size != self._size:
            raise ValueError(f"memory of {size} bytes where {self._size} are due")

    def take(self, length: int) -> NDArray[np.uint8]:
        """Returns the next bytes: (length,), writable, for this process alone.

        A large part of sealed memory is not copied; it stays mapped as long as its arrays live.

        Raises:
            ValueError, OSError: there are not so many bytes.
        """
        start = self._offset
        if not 0 <= length <= self._size - start:
            raise ValueError(f"{length} bytes where {self._size - start} are left")
        self._offset += length
        if self._is_sealed and length >= LEAST_MAPPED:
            return np.frombuffer(self._mapped(), np.uint8, length, start)
        taken = np.empty(length, np.uint8)
        view = taken.data
        while view:
            count = os.preadv(self._descriptor, [view], start)
            if not count:
                raise ValueError("memory that has shrunk")
            view, start = view[count:], start + count
        return taken

    def _mapped(self) -> mmap.mmap:
        if self._mapping is None:
            # Where no huge page is left, a process that touches such memory ends with SIGBUS.
            if os.fstatvfs(self._descriptor).f_bsize != mmap.PAGESIZE:
                raise ValueError("memory of huge pages")
            # Pages that this process writes to become its own.
            self._mapping = mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_COPY)
        return self._mapping

    def close(self) -> None:
        """Closes the descriptor; what was taken stays."""
        self._mapping = None
        os.close(self._descriptor)


class ReceivedBytes:
    """Bytes that came within a message, whose parts are taken in their order."""

    def __init__(self, data: bytearray) -> None:
        """Takes over the bytes."""
        self._data = np.frombuffer(data, np.uint8)
        self._offset = 0

    def take(self, length: int) -> NDArray[np.uint8]:
        """Returns the next bytes: (length,), writable, for this process alone.

        Raises:
            ValueError: there are not so many bytes.
        """
        start = self._offset
        if not 0 <= length <= len(self._data) - start:
            raise ValueError(f"{length} bytes where {len(self._data) - start} are left")
        self._offset += length
        return self._data[start : start + length]

    def close(self) -> None:
        """Has nothing to close; what was taken stays."""
