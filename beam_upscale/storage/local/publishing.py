"""Publishes files of a local disk, which appear whole or not at all, and deletes files."""

import contextlib
import ctypes
import errno
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from beam_upscale.storage.protocol.store import Guard, partial_name

# Tries to remove a folder; a file that vanishes meanwhile ends one try.
_MOST_TRIES = 10

# Error numbers of file systems without hard links, such as FAT.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})

# Error numbers of file systems whose folders cannot be synced.
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF})

# A flag of Linux, in <fcntl.h>.
_SYNC_FILE_RANGE_WRITE = 2


@contextlib.contextmanager
def publish(path: Path, partial_folder: Path, guard: Guard) -> Iterator[IO[bytes]]:
    """Opens a file that is written below another folder, synced and renamed within the guard."""
    with guard():
        # Checked first: a run that lost the output must not even create a folder.
        pass
    for folder in (path.parent, partial_folder):
        folder.mkdir(parents=True, exist_ok=True)
    temporary = partial_folder / partial_name()
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with guard():
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish_all(contents: Sequence[tuple[str, bytes]], partial_folder: Path, guard: Guard) -> None:
    """Publishes several files, given as pairs of a path and bytes, durably and at little cost.

    The kernel begins to write each file at once, and all are written before the first is synced:
    the disk then has most of the bytes already, and syncs take half of the time or less. The
    folders are synced once each, after the renames.
    """
    with guard():
        # Checked first: a run that lost the output must not even create a folder.
        pass
    partial_folder.mkdir(parents=True, exist_ok=True)
    names = [f"{partial_folder}/{partial_name()}" for _ in contents]
    try:
        for name, (_, data) in zip(names, contents, strict=True):
            with open(name, "xb") as file:  # noqa: PTH123 (a path would cost more than the write)
                file.write(data)
                file.flush()
                _begin_to_store()(file.fileno())
        for name in names:
            _sync(name, os.O_RDWR)
        with guard():
            folders = set().union(
                *(_rename(name, path) for name, (path, _) in zip(names, contents, strict=True))
            )
        for folder in folders:
            _sync_folder(folder)
    except BaseException:
        for name in names:
            Path(name).unlink(missing_ok=True)
        raise


@functools.cache
def _begin_to_store() -> Callable[[int], object]:
    """Returns a function that has the kernel begin to write a file to its disk.

    It is a hint, and waits for nothing: durable is what is synced. Python does not have it.
    """
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return lambda _: None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return lambda descriptor: function(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def _rename(name: str, path: str) -> set[str]:
    """Renames a file, and creates missing folders; returns the folders to sync afterwards."""
    folder = os.path.dirname(path)  # noqa: PTH120 (as above)
    try:
        os.replace(name, path)  # noqa: PTH105 (as above)
        return {folder}
    except FileNotFoundError:
        missing = [each for each in (Path(folder), *Path(folder).parents) if not each.exists()]
        Path(folder).mkdir(parents=True, exist_ok=True)
        os.replace(name, path)  # noqa: PTH105 (as above)
        return {folder, *(str(each.parent) for each in missing)}


def create_new(path: Path, folder: Path, data: bytes) -> bool:
    """Creates a durable file; returns False if it exists. It is written in another folder."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync_folder(path.parent.parent)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / partial_name()
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        created = _link(temporary, path, data)
    finally:
        temporary.unlink(missing_ok=True)
    if created:
        _sync_folder(path.parent)
    return created


def _sync_folder(folder: Path | str) -> None:
    """Makes the names in a folder durable, if the file system can."""
    try:
        _sync(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path | str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(temporary: Path, path: Path, data: bytes) -> bool:
    """Links a file to a second name, False if that exists; a rename would replace it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_without_links(path, data)
    return True


def _create_without_links(path: Path, data: bytes) -> bool:
    """Creates a file on a disk without hard links, where it is visible before it is complete."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def delete(path: Path) -> None:
    """Removes a file or a whole folder; does nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        _delete_tree(path)
        return
    try:
        path.unlink()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _delete_tree(folder: Path) -> None:
    """Removes a folder in which other processes may still be writing and deleting."""
    for _ in range(_MOST_TRIES):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        if not folder.exists():
            return
    shutil.rmtree(folder)
