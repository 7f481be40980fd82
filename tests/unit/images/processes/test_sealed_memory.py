"""Memory that another process fills: what is read of it, and what is refused."""

import errno
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from beam_upscale.images.processes import sealed_memory
from beam_upscale.images.processes.sealed_memory import (
    LEAST_MAPPED,
    ReceivedMemory,
    SharedMemoryError,
    filled_memory,
    memfd_flags,
)

if sys.platform.startswith("linux"):
    import fcntl

    SEALS = {
        "shrink": fcntl.F_SEAL_SHRINK,
        "grow": fcntl.F_SEAL_GROW,
        "write": fcntl.F_SEAL_WRITE,
        "seal": fcntl.F_SEAL_SEAL,
    }
else:
    SEALS = {}

with_memfd = pytest.mark.skipif(not SEALS, reason="memfd and seals, which Linux has")


@pytest.fixture(params=["memfd", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Memory of this system, and the temporary file of a system without memfd."""
    if request.param == "file":
        monkeypatch.setattr(sealed_memory, "memfd_flags", lambda: None)
    name: str = request.param
    return name


def received(*buffers: bytes) -> ReceivedMemory:
    return ReceivedMemory(filled_memory(buffers), sum(map(len, buffers)))


@pytest.mark.usefixtures("kind")
def test_parts_are_taken_in_their_order_and_outlive_the_memory() -> None:
    large = os.urandom(LEAST_MAPPED + 5)
    memory = received(b"ab", large, b"", b"cd")

    parts = [memory.take(length) for length in (2, len(large), 0, 2)]
    memory.close()

    assert [part.tobytes() for part in parts] == [b"ab", large, b"", b"cd"]
    assert all(part.flags.writeable and part.dtype == np.uint8 for part in parts)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("size", [100, LEAST_MAPPED])
def test_what_a_reader_changes_is_its_own(size: int) -> None:
    descriptor = filled_memory([bytes(size)])
    first, second = (ReceivedMemory(os.dup(descriptor), size).take(size) for _ in range(2))
    os.close(descriptor)

    first[:] = 7

    assert not second.any()


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("length", [-1, 7, 2**62])
def test_more_than_there_is_cannot_be_taken(length: int) -> None:
    memory = received(b"pixels")

    with pytest.raises(ValueError, match="where 6 are left"):
        memory.take(length)

    memory.close()


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("size", [0, 5, 7, 2**62])
def test_another_size_than_is_due_is_refused(size: int) -> None:
    descriptor = filled_memory([b"pixels"])

    with pytest.raises(ValueError, match="memory of 6 bytes"):
        ReceivedMemory(descriptor, size)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@with_memfd
def test_sealed_memory_stays_as_it_is() -> None:
    descriptor = filled_memory([b"pixels"])

    for change in (
        lambda: os.pwrite(descriptor, b"x", 0),
        lambda: os.ftruncate(descriptor, 0),
        lambda: os.ftruncate(descriptor, 7),
        lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0),
    ):
        with pytest.raises(PermissionError):
            change()

    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@with_memfd
@pytest.mark.parametrize("missing", [*SEALS, "every"])
def test_memory_without_a_seal_is_refused(missing: str) -> None:
    descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.write(descriptor, b"pixels")
    # The last one keeps others from being added.
    for name in SEALS:
        if missing not in (name, "every"):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS[name])

    with pytest.raises(ValueError, match="memory with the seals"):
        ReceivedMemory(descriptor, 6)


@with_memfd
def test_memory_of_huge_pages_is_refused() -> None:
    try:
        descriptor = os.memfd_create("hostile", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError:
        pytest.skip("this system has no memory of huge pages")
    os.ftruncate(descriptor, 1 << 30)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, sum(SEALS.values()))

    memory = ReceivedMemory(descriptor, 1 << 30)

    with pytest.raises(ValueError, match="huge pages"):
        memory.take(1 << 30)

    memory.close()


@with_memfd
def test_what_has_no_seals_is_refused() -> None:
    for descriptor in os.pipe():
        with pytest.raises(OSError, match="Invalid argument"):
            ReceivedMemory(descriptor, 0)


def test_file_that_shrinks_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_memory, "memfd_flags", lambda: None)
    descriptor = filled_memory([b"pixels"])
    memory = ReceivedMemory(descriptor, 6)
    os.ftruncate(descriptor, 3)

    with pytest.raises(ValueError, match="shrunk"):
        memory.take(6)

    memory.close()


@pytest.fixture
def forgotten() -> Iterator[None]:
    memfd_flags.cache_clear()
    yield
    memfd_flags.cache_clear()


def refusing(number: int, refused: int) -> Callable[[str, int], int]:
    """A system that refuses some flags of memfd_create."""
    create = os.memfd_create

    def refuse(name: str, flags: int) -> int:
        if flags & refused:
            raise OSError(number, os.strerror(number))
        return create(name, flags)

    return refuse


@with_memfd
@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_flags_that_the_system_offers_are_used(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    plain = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING

    with monkeypatch.context() as older:
        older.setattr(os, "memfd_create", refusing(number, 0x8))
        assert memfd_flags() == plain
    memfd_flags.cache_clear()
    with monkeypatch.context() as forbidding:
        forbidding.setattr(os, "memfd_create", refusing(number, plain))
        assert memfd_flags() is None
    memfd_flags.cache_clear()
    with monkeypatch.context() as without:
        without.delattr(os, "memfd_create")
        assert memfd_flags() is None


@with_memfd
@pytest.mark.usefixtures("forgotten")
def test_lack_of_descriptors_is_told_and_does_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(os, "memfd_create", refusing(errno.EMFILE, -1))
        with pytest.raises(SharedMemoryError, match="Too many open files"):
            filled_memory([b"pixels"])

    received(b"pixels").close()


@pytest.mark.usefixtures("kind")
def test_lack_of_memory_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.close(free := os.dup(0))
    monkeypatch.setattr(os, "write", full)

    with pytest.raises(SharedMemoryError) as caught:
        filled_memory([b"pixels"])

    assert caught.value.error.errno == errno.ENOSPC
    os.close(after := os.dup(0))
    assert after == free
