"""Publishes files that appear whole or not at all, and deletes files."""

import contextlib
import errno
import io
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_upscale.storage import conditional_files, hdfs
from beam_upscale.storage.conditional_files import ConditionalStore, Guard
from beam_upscale.storage.files import CHUNK_BYTES, check_store, exists, read_if_there
from beam_upscale.storage.uris.uris import is_local, join, local_path
from beam_upscale.storage.walking import list_below

_DELETED_TOGETHER = 1000

# Tries to remove a folder; a file that vanishes meanwhile ends one try.
_MOST_TRIES = 10

# Error numbers of file systems without hard links, such as FAT.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})

# Error numbers of file systems whose folders cannot be synced.
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF})

# A file for a remote file system is buffered in memory up to this size, beyond it on local disk.
_BYTES_IN_MEMORY = 32 << 20


@contextlib.contextmanager
def publish(
    uri: str, partial_folder: str | None = None, guard: Guard | None = None
) -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name whole or not at all.

    A second writer of the same bytes does no harm: the writer that closes last replaces the file
    with an equal one.

    Args:
        uri: the final name; missing folders are created.
        partial_folder: the folder in which a local file, or one on HDFS, is written before it is
            renamed, on the same disk; by default the file's own folder. A killed process leaves its
            partial file there.
        guard: the context within which the file appears; if it raises, nothing appears. None for a
            file that no other process writes. See `conditional_files.put` for stores that do not
            rename.

    Yields:
        A binary file. If the block or the guard raises, nothing appears.
    """
    is_conditional = guard is not None
    check_store(uri)
    store = conditional_files.store_of(uri) if is_conditional else None
    guard = guard or contextlib.nullcontext
    with guard():
        # Checked first: a run that lost the output must not even create a folder.
        pass
    if is_local(uri):
        path = local_path(uri)
        folder = path.parent if partial_folder is None else local_path(partial_folder)
        with _publish_local(path, folder, guard) as file:
            yield file
        return
    # Closing a remote file publishes it, and Python closes a file after an exception too. So the
    # file is opened only once all its bytes are in the buffer.
    with tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY) as file:
        yield file
        file.seek(0)
        if hdfs.is_hdfs(uri):
            # On HDFS a file is visible while it is written.
            temporary = join(partial_folder or uri.rpartition("/")[0], _partial_name())
            _publish_hdfs(file, temporary, uri, guard, is_conditional)
        elif store is not None:
            conditional_files.put(store, uri, file, guard)
        else:
            with guard():
                _copy(file, uri)


def _publish_hdfs(
    file: IO[bytes], temporary: str, uri: str, guard: Guard, is_conditional: bool
) -> None:
    try:
        _copy(file, temporary)
        if is_conditional:
            # Renamed without replacing first, which detects a file that another run made meanwhile.
            with guard():
                if hdfs.rename(temporary, uri):
                    return
        with guard():
            hdfs.replace(temporary, uri)
    except BaseException:
        with contextlib.suppress(Exception):
            FileSystems.delete([temporary])
        raise


def _partial_name() -> str:
    return f".{uuid.uuid4().hex}.partial"


def _copy(file: IO[bytes], uri: str) -> None:
    target = FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    shutil.copyfileobj(file, target, CHUNK_BYTES)
    target.close()


@contextlib.contextmanager
def _publish_local(path: Path, partial_folder: Path, guard: Guard) -> Iterator[IO[bytes]]:
    for folder in (path.parent, partial_folder):
        folder.mkdir(parents=True, exist_ok=True)
    temporary = partial_folder / _partial_name()
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


def write(
    uri: str, data: bytes, partial_folder: str | None = None, guard: Guard | None = None
) -> None:
    """Publishes a file with these bytes; see `publish`."""
    with publish(uri, partial_folder, guard) as file:
        file.write(data)


def create(uri: str, data: bytes, partial_folder: str | None = None) -> bool:
    """Creates a file unless it exists; it appears whole or not at all, and is durable.

    Args:
        uri: the file's URI, on a local disk or any of Beam's file systems. On file systems with
            neither conditions nor a rename (none that Beam has) its existence is checked first.
        data: its content, which must differ between callers: if the file exists with exactly this
            content, an earlier attempt of the same caller has created it.
        partial_folder: the folder in which it is written first, on a local disk and on HDFS; by
            default the file's own folder.

    Returns:
        True if the file is the caller's.

    Raises:
        OSError: the file cannot be written.
    """
    folder = partial_folder or uri.rpartition("/")[0]
    check_store(uri)
    store = conditional_files.store_of(uri)
    if is_local(uri):
        created = _create_local(local_path(uri), local_path(folder), data)
    elif hdfs.is_hdfs(uri):
        created = _create_hdfs(uri, folder, data)
    elif store is not None:
        with io.BytesIO(data) as file:
            created = store.write(uri, file, None)
    else:
        created = not exists(uri)
        if created:
            write(uri, data)
    return created or _reads(uri, data)


def _reads(uri: str, data: bytes) -> bool:
    return read_if_there(uri) == data


def _create_local(path: Path, folder: Path, data: bytes) -> bool:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync_folder(path.parent.parent)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / _partial_name()
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


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, if the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
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


def _create_hdfs(uri: str, folder: str, data: bytes) -> bool:
    temporary = join(folder, _partial_name())
    with io.BytesIO(data) as file:
        _copy(file, temporary)
    if hdfs.rename(temporary, uri):
        return True
    FileSystems.delete([temporary])
    return False


def delete(uri: str, guard: Guard | None = None) -> None:
    """Removes a file or a whole folder; does nothing if there is none.

    Args:
        uri: the file or the folder.
        guard: the context within which it is removed; if it raises, nothing is removed. On stores
            with conditions, only files seen before the guard was entered are removed.
    """
    store = None if guard is None else conditional_files.store_of(uri)
    guard = guard or contextlib.nullcontext
    if store is not None:
        seen = itertools.chain(store.versions_below(join(uri, "")), _seen(store, uri))
        while some := list(itertools.islice(seen, _DELETED_TOGETHER)):
            conditional_files.delete_seen(store, some, guard)
        return
    if hdfs.is_hdfs(uri):
        # A run that lost the output while it was suspended must delete one file at most.
        for path in [*hdfs.paths_below(join(uri, "")), uri]:
            if exists(path):
                with guard():
                    FileSystems.delete([path])
        return
    with guard():
        _delete(uri)


def delete_below(folder: str, guard: Guard | None, but_for: str) -> None:
    """Removes all entries of a folder of work in progress, except one.

    Args:
        folder: the folder; it need not exist.
        guard: as in `delete`; on HDFS a whole subfolder is removed within it.
        but_for: the name of the entry that stays.
    """
    for name in sorted(_names_in(folder) - {but_for}):
        uri = join(folder, name)
        if guard is not None and hdfs.is_hdfs(uri):
            with guard():
                _delete(uri)
        else:
            delete(uri, guard)


def _names_in(folder: str) -> set[str]:
    """Returns the names of the direct entries of a folder."""
    if is_local(folder):
        path = local_path(folder)
        return set(os.listdir(path)) if path.is_dir() else set()  # noqa: PTH208
    return {entry.name.partition("/")[0] for entry in list_below(folder)}


def _seen(store: ConditionalStore, uri: str) -> Iterator[tuple[str, str]]:
    version = store.version(uri)
    if version is not None:
        yield uri, version


def _delete(uri: str) -> None:
    if hdfs.is_hdfs(uri):
        FileSystems.delete([uri])
        return
    if not is_local(uri):
        below = (entry.uri for entry in list_below(uri))
        while some := list(itertools.islice(below, _DELETED_TOGETHER)):
            FileSystems.delete(some)
        if FileSystems.exists(uri):
            FileSystems.delete([uri])
        return
    path = local_path(uri)
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
