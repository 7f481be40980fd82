"""Files on any of Beam's file systems: list, read, and publish atomically; of web servers: read.

Local files go through the operating system directly: Beam's local file system matches names as
patterns and has no way to sync or to replace atomically. Everything else goes through Beam's
`FileSystems`, where a file appears when it is closed (one PUT on an object store). On HDFS
(`hadoop_files`) it can be seen while it is written: there it is written under a temporary name and
renamed. Files of web servers (`http_files`) are read only.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import os
import re
import shutil
import stat
import tempfile
import urllib.parse
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes, FileSystem
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_upscale import conditional_files, hadoop_files, http_files, stores, urls
from beam_upscale.conditional_files import ConditionalStore, Guard
from beam_upscale.errors import ErrorCode, ImageError, SettingsError, reason
from beam_upscale.globs import Glob, State, base_of, has_wildcard, literal_start
from beam_upscale.literal import shortened

_KNOWN_SCHEMES = urls.WEB_SCHEMES | {"gs", "s3", "azfs", "hdfs"}

# A file of this machine as RFC 8089 writes it: of no host, or of one that is always this.
_LOCAL_FILE = re.compile(r"file:(?:/(?!/)|//(?:localhost)?(?:/|$))", re.IGNORECASE)
_OF_LOCAL_FILE = re.compile(r"file:(?://(?:localhost)?(?=/|$))?", re.IGNORECASE)

_CHUNK_BYTES = 1 << 20

# Characters.
_LONGEST_NAMED = 400
_LONGEST_DATA = 40

# A path on a drive of Windows, or on a server as Windows names one.
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_DELETED_TOGETHER = 1000

# A file that vanishes ends the removal of its folder.
_MOST_TRIES = 10

# What file systems without hard links say, such as FAT.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})

# What file systems say whose folders cannot be synced.
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF})

# A file for another file system waits in memory up to this size, beyond it on the local disk.
_BYTES_IN_MEMORY = 32 << 20


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file found by `list_files`.

    Attributes:
        uri: what to open; a local path may hold bytes that are not UTF-8, as surrogates.
        name: path relative to what was listed, with `/` between parts.
        is_folder: whether it is a folder that may not be listed.
    """

    uri: str
    name: str
    is_folder: bool = False


class Scope:
    """Decides what `list_files` passes over below the place where it begins; this one, nothing."""

    def enters(self, folder: str, identity: tuple[int, int]) -> bool:
        """Whether a local folder, of this device and inode, is descended into."""
        return True

    def follows(self, link: str) -> bool:
        """Whether a local link is listed, or descended into where it leads to a folder."""
        return True

    def passes_over(self, folder: str) -> Collection[str]:
        """The names in a local folder that are not listed."""
        return ()

    def sees(self, uri: str) -> bool:
        """Whether a file on another store is listed; asked for all, whatever a glob names."""
        return True


_EVERYTHING = Scope()


def configure(beam_options: Sequence[str]) -> None:
    """Has this process reach other file systems as these options of Beam say.

    A pipeline does the same for its workers; what is read before there is one needs it too.

    Args:
        beam_options: as on a command line, such as `--s3_endpoint_url=…`.
    """
    FileSystems.set_options(PipelineOptions(list(beam_options)))
    conditional_files.forget_clients()
    stores.forget()


def is_local(uri: str) -> bool:
    """Whether a URI names a file of this machine: a plain path, or one with `file:`."""
    if ":" not in uri:
        return True
    if _LOCAL_FILE.match(uri):
        return True
    return "://" not in uri and not urls.is_web(uri)


def unread_scheme(uri: str) -> str | None:
    """The scheme of a URI that nothing here reads; None where it is a path, or something does.

    A scheme of Beam's own whose client is not installed counts as read: its reader says what lacks.
    """
    scheme = urls.scheme_of(uri)
    if scheme is None or scheme in _KNOWN_SCHEMES or (scheme == "file" and is_local(uri)):
        return None
    known = {each.scheme() for each in FileSystem.get_all_subclasses()}
    return None if scheme in known else scheme


def _failures(uri: str) -> type[Exception] | tuple[type[Exception], ...]:
    """What reading may raise; the clients of object stores raise errors of their own."""
    return OSError if is_local(uri) else Exception


def absolute(uri: str) -> str:
    """A local path made absolute, without `file:`; any other URI trimmed, no trailing slash."""
    if is_local(uri):
        return os.path.abspath(_without_scheme(uri))  # noqa: PTH100 (keeps odd bytes)
    uri = urls.trimmed(uri)
    return uri if urls.is_web(uri) else uri.rstrip("/")


def _local_path(uri: str) -> Path:
    return Path(_without_scheme(uri))


def _without_scheme(uri: str) -> str:
    return _OF_LOCAL_FILE.sub("", uri, count=1) if _LOCAL_FILE.match(uri) else uri


def join(base: str, *parts: str) -> str:
    """A URI below `base`."""
    return "/".join([base.rstrip("/"), *parts])


def printable(uri: str) -> str:
    """A URI as it is published: as `encoded`, without secrets such as a password or a signature."""
    if ":" not in uri:
        return encoded(uri)
    if urls.scheme_of(uri) == "data":
        # It is no place but what would stand there.
        uri = shortened(uri, _LONGEST_DATA)
    return encoded(urls.without_secrets(uri))


def named(uri: str) -> str:
    """A URI as messages name it: as `printable`, without its middle where it is long."""
    return shortened(printable(uri), _LONGEST_NAMED)


def encoded(uri: str) -> str:
    """A URI as text that every store takes: percent-encoded where it is not UTF-8.

    Names that are UTF-8 are left as they are, percent signs included. A name that is not is encoded
    whole, percent signs included, so that two of them never become one.
    """
    try:
        uri.encode()
    except UnicodeEncodeError:
        return urllib.parse.quote(os.fsencode(uri), safe="/:")
    return uri


def is_windows_path(uri: str) -> bool:
    """Whether a path is an absolute one of Windows, which leads nowhere here."""
    return _WINDOWS_PATH.match(uri) is not None


def scheme_refusal(scheme: str) -> str:
    """What is wrong with a URI of a scheme that nothing here reads, and what to do."""
    if scheme == "file":
        return (
            "it is a file of another machine; fetch the file, or name one of this machine, by its "
            "path or as file:///path"
        )
    return (
        f"{scheme}: is no scheme that is read; fetch the file, and name a path, an http(s) URL or "
        "a URI on one of Beam's file systems"
    )


def open_read(uri: str) -> BinaryIO:
    """A file opened for reading.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR, with the store's own words.
    """
    if urls.is_web(uri):
        return http_files.open_read(uri)
    _check_store(uri)
    try:
        if is_local(uri):
            return _open_regular(_local_path(uri))
        if hadoop_files.is_hdfs(uri):
            return hadoop_files.open_read(uri)
        return cast(BinaryIO, FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED))
    except _failures(uri) as error:
        raise read_error(uri, error) from error


def _check_store(uri: str) -> None:
    """Raises an ImageError, which names the file, where its store cannot be asked at all."""
    try:
        stores.check(uri)
    except ImageError as error:
        found = f"{named(uri)} could not be read: {error.message}"
        raise ImageError(error.code, found) from error


def _open_regular(path: Path) -> BinaryIO:
    """Opens a file, but not a pipe or a device: reading those may never end."""
    mode = path.stat().st_mode
    # What is wrong with a folder, the operating system says best.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError("not a regular file")
    return path.open("rb")


def read(uri: str, limit: int | None = None) -> bytes:
    """A file's bytes, or its first `limit` bytes.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """
    if limit is not None:
        return read_range(uri, 0, limit)
    _check_store(uri)
    store = conditional_files.store_of(uri)
    if store is not None:
        return _read_from(store, uri)
    with open_read(uri) as file:
        try:
            return file.read()
        except _failures(uri) as error:
            raise read_error(uri, error) from error


def _read_from(store: ConditionalStore, uri: str) -> bytes:
    """Reads with a client that is shared: Beam makes one for each file that it opens."""
    try:
        data = store.read(uri)
    except Exception as error:
        raise read_error(uri, error) from error
    if data is None:
        raise read_error(uri, FileNotFoundError())
    return data


def read_if_there(uri: str) -> bytes | None:
    """A file's bytes; None where there is none.

    Raises:
        OSError: it cannot be read.
        Exception: of the store's client.
    """
    try:
        return read(uri)
    except ImageError as error:
        if error.code is ErrorCode.NOT_FOUND or not exists(uri):
            return None
        raise OSError(error.message) from error


def read_range(uri: str, offset: int, size: int) -> bytes:
    """Part of a file's bytes; fewer than `size` where the file ends before.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """
    if urls.is_web(uri):
        return http_files.read_range(uri, offset, size)
    with open_read(uri) as file:
        try:
            return _part(file, offset, size)
        except _failures(uri) as error:
            raise read_error(uri, error) from error


def _part(file: BinaryIO, offset: int, size: int) -> bytes:
    # Beam's buffers for S3 and HDFS have 16 MiB: a smaller part would be read with all of that.
    source = file.raw if isinstance(file, io.BufferedReader) else file
    source.seek(offset)
    parts: list[bytes] = []
    while size > 0 and (data := source.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def read_at_most(uri: str, max_bytes: int) -> bytes:
    """A file's bytes, where they are not too many.

    Raises:
        ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """
    if urls.is_web(uri):
        # In one request: a server need not say beforehand how much there is.
        return http_files.read(uri, max_bytes)
    check_size(size(uri), max_bytes)
    return read(uri)


def check_size(found: int | None, max_bytes: int) -> None:
    """Raises an ImageError, FILE_TOO_LARGE, where there are more bytes; None is not known."""
    if found is not None and found > max_bytes:
        raise ImageError(
            ErrorCode.FILE_TOO_LARGE,
            f"the file has {found:,} bytes; at most {max_bytes:,} are read (--max-input-bytes)",
        )


def read_error(uri: str, error: Exception) -> ImageError:
    """The `ImageError` that says why a file could not be read."""
    if isinstance(error, ImageError):
        return error
    name = named(uri)
    if isinstance(error, FileNotFoundError):
        return ImageError(ErrorCode.NOT_FOUND, f"{name} does not exist")
    if isinstance(error, PermissionError):
        return ImageError(ErrorCode.PERMISSION_DENIED, f"{name} may not be read by this user")
    if (scheme := unread_scheme(uri)) is not None:
        return ImageError(ErrorCode.READ_ERROR, f"{name} is not read: {scheme_refusal(scheme)}")
    words = shortened(reason(error, of=uri), _LONGEST_NAMED)
    return ImageError(ErrorCode.READ_ERROR, f"{name} could not be read: {words}")


def exists(uri: str) -> bool:
    """Whether a file is there.

    Raises:
        ImageError: its store cannot be asked at all, with the codes of `stores.check`.
        Exception: of the store's client.
    """
    if urls.is_web(uri):
        return http_files.exists(uri)
    _check_store(uri)
    if hadoop_files.is_hdfs(uri):
        return hadoop_files.exists(uri)
    if is_local(uri):
        return _local_path(uri).is_file()
    store = conditional_files.store_of(uri)
    # Beam's own answer raises for a blob of Azure that is not there.
    return bool(FileSystems.exists(uri)) if store is None else store.version(uri) is not None


def size(uri: str) -> int | None:
    """A file's size in bytes, None where it does not exist or cannot be told.

    Raises:
        ImageError: READ_ERROR, the file is there and its store does not answer for it.
    """
    try:
        if is_local(uri):
            return _local_path(uri).stat().st_size
        if urls.is_web(uri):
            return http_files.size(uri)
        _check_store(uri)
        if hadoop_files.is_hdfs(uri):
            return hadoop_files.size(uri)
        return int(FileSystems.get_filesystem(uri).size(uri))
    except _failures(uri) as error:
        if is_local(uri) or urls.is_web(uri):
            return None
        if unread_scheme(uri) is None and _is_gone(uri):
            return None
        # Taken for gone, a result would be made, and paid for, again.
        raise read_error(uri, error) from error


def _is_gone(uri: str) -> bool:
    """Whether a file is not there for sure."""
    try:
        return not exists(uri)
    except Exception:
        return False


def version(uri: str) -> tuple[object, ...]:
    """What changes, as far as can be told without reading it, when a file is replaced."""
    try:
        if is_local(uri):
            status = _local_path(uri).stat()
            # The last cannot be set: it tells of a file that was given the times of another.
            return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns
        if urls.is_web(uri):
            return http_files.version(uri)
        _check_store(uri)
        if hadoop_files.is_hdfs(uri):
            return hadoop_files.version(uri)
        store = conditional_files.store_of(uri)
        if store is not None:
            found = store.version(uri)
            return () if found is None else (found,)
        (match,) = FileSystems.match([uri])
        (entry,) = match.metadata_list
        return entry.size_in_bytes, entry.last_updated_in_seconds
    except _failures(uri):
        return ()


def sha256(uri: str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        ImageError: as `read`.
    """
    if urls.is_web(uri):
        return http_files.sha256(uri)
    digest = hashlib.sha256()
    with open_read(uri) as file:
        try:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        except _failures(uri) as error:
            raise read_error(uri, error) from error
    return digest.hexdigest()


@contextlib.contextmanager
def publish(
    uri: str, partial_folder: str | None = None, guard: Guard | None = None
) -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name whole or not at all.

    A second writer of the same bytes does no harm: whoever closes last replaces the file with
    an equal one.

    Args:
        uri: the final name; missing folders are made.
        partial_folder: where a local file, or one on HDFS, is written before it is renamed, on the
            same disk; its own folder by default. What a killed process leaves behind lies there.
        guard: what the file appears within, or not at all; None for a file that is no one else's.
            See `conditional_files.put` for stores that do not rename.

    Yields:
        A binary file. When the block or the guard raises, nothing appears.
    """
    is_conditional = guard is not None
    _check_store(uri)
    store = conditional_files.store_of(uri) if is_conditional else None
    guard = guard or contextlib.nullcontext
    with guard():
        # A run that lost the output must not even create a folder.
        pass
    if is_local(uri):
        path = _local_path(uri)
        folder = path.parent if partial_folder is None else _local_path(partial_folder)
        with _publish_local(path, folder, guard) as file:
            yield file
        return
    # Closing a file there publishes it, and Python closes what an exception leaves behind: the
    # file is opened only once its bytes are all there.
    with tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY) as file:
        yield file
        file.seek(0)
        if hadoop_files.is_hdfs(uri):
            # Seen while it is written.
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
            # First as if nothing were there: what another run has made meanwhile is seen then.
            with guard():
                if hadoop_files.rename(temporary, uri):
                    return
        with guard():
            hadoop_files.replace(temporary, uri)
    except BaseException:
        with contextlib.suppress(Exception):
            FileSystems.delete([temporary])
        raise


def _partial_name() -> str:
    return f".{uuid.uuid4().hex}.partial"


def _copy(file: IO[bytes], uri: str) -> None:
    target = FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    shutil.copyfileobj(file, target, _CHUNK_BYTES)
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
    """Publishes a file of these bytes; see `publish`."""
    with publish(uri, partial_folder, guard) as file:
        file.write(data)


def create(uri: str, data: bytes, partial_folder: str | None = None) -> bool:
    """Creates a file, unless there is one; it appears whole or not at all, and is durable.

    Args:
        uri: the file's, of a local disk or any of Beam's file systems. On those that have neither
            conditions nor a rename (none that Beam brings) it is looked for first.
        data: its content, different for each that may create it: where the file is there with
            exactly this content, an earlier attempt of the same caller has made it.
        partial_folder: where it is written first, on a local disk and on HDFS; by default the
            file's own folder.

    Returns:
        Whether the file is the caller's.

    Raises:
        OSError: it cannot be written.
    """
    folder = partial_folder or uri.rpartition("/")[0]
    _check_store(uri)
    store = conditional_files.store_of(uri)
    if is_local(uri):
        created = _create_local(_local_path(uri), _local_path(folder), data)
    elif hadoop_files.is_hdfs(uri):
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
    """Makes the names in a folder durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _link(temporary: Path, path: Path, data: bytes) -> bool:
    """Gives a file a second name, unless that is taken; a rename would replace."""
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
    """Creates a file where there are no hard links: it can be seen before all of it is there."""
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
    if hadoop_files.rename(temporary, uri):
        return True
    FileSystems.delete([temporary])
    return False


def start_of_listing(pattern: str) -> str:
    """The place where a listing begins: a file, a folder, or a glob up to its first wildcard.

    A local file or folder that is called like a glob is none.
    """
    target = absolute(pattern)
    if urls.is_web(pattern):
        return target
    is_glob = has_wildcard(target) and not (is_local(target) and os.path.lexists(target))
    return (base_of(target) or "/") if is_glob else target


def list_files(pattern: str, scope: Scope = _EVERYTHING) -> Iterator[FileEntry]:
    """Every file that a pattern names, in no particular order.

    Args:
        pattern: a file, a folder (descended into, through symbolic links too, into each folder
            once) or a glob (`**` crosses folders), on any of Beam's file systems. A folder that a
            glob matches is descended into. A URL of a web server is that of one file.
        scope: what is passed over below a folder, or where a glob begins.

    Yields:
        The files. A local folder that may not be listed is given as an entry of its own, so that
        its reader's error names it. Names that begin with a dot are left out below a folder.

    Raises:
        SettingsError: another store does not list them, with the codes of `open_read`.
    """
    if urls.is_web(pattern):
        yield FileEntry(absolute(pattern), urls.path_of(pattern).rpartition("/")[2])
    elif is_local(pattern):
        yield from _list_local(absolute(pattern), scope)
    else:
        yield from _list_remote(absolute(pattern), scope)


def _list_remote(pattern: str, scope: Scope) -> Iterator[FileEntry]:
    if not has_wildcard(pattern):
        # An object store has no folders to ask for, so what lies below is looked for first.
        below = _match(join(pattern, "**"), pattern, scope)
        first = next(below, None)
        if first is not None:
            yield first
            yield from below
        elif exists(pattern):
            yield FileEntry(pattern, pattern.rpartition("/")[2])
        return
    base = base_of(pattern)
    glob = Glob(pattern.removeprefix(base))
    for entry in _match(f"{literal_start(pattern)}**", base, scope):
        if glob.matches(entry.name):
            yield entry


def _match(pattern: str, base: str, scope: Scope) -> Iterator[FileEntry]:
    """What Beam finds, without hidden names and the empty objects that stand for folders."""
    for path in _listed_below(pattern.removesuffix("**")):
        name = path.removeprefix(base).lstrip("/")
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not is_hidden and not path.endswith("/") and scope.sees(path):
            yield FileEntry(path, name)


def _listed_below(prefix: str) -> Iterator[str]:
    """As `_paths_below`, of inputs.

    Raises:
        SettingsError: PERMISSION_DENIED, NOT_FOUND or READ_ERROR, with the store's own words.
    """
    try:
        _check_store(prefix)
        yield from _paths_below(prefix)
    except Exception as error:
        found = read_error(prefix, error)
        # The store names the folder, which may be one further down.
        is_told = found is error or found.code is ErrorCode.READ_ERROR
        words = "" if is_told else f": {error}"
        message = f"the inputs cannot be listed: {found.message}{words}"
        raise SettingsError(found.code, message) from error


def _paths_below(prefix: str) -> Iterator[str]:
    """The files whose names begin like this; of an object store page by page, and not held."""
    if hadoop_files.is_hdfs(prefix):
        yield from hadoop_files.paths_below(prefix)
        return
    # `match` is a list of all that this gives, which every file system of Beam's has.
    for metadata in FileSystems.get_filesystem(prefix)._list(prefix):
        yield metadata.path


def _list_local(pattern: str, scope: Scope) -> Iterator[FileEntry]:
    path = Path(pattern)
    try:
        is_folder, is_there = path.is_dir(), path.exists() or path.is_symlink()
    except OSError:
        # In a folder that may not be entered: for the reader to say.
        is_folder, is_there = False, True
    if is_folder:
        yield from _Walk(pattern, Glob(), scope).files()
    elif is_there:
        yield FileEntry(pattern, path.name)
    elif has_wildcard(pattern):
        base = base_of(pattern) or "/"
        yield from _Walk(base, Glob(pattern.removeprefix(base)), scope).files()


@dataclasses.dataclass(frozen=True, order=True)
class _Folder:
    """A local folder that is to be listed.

    Attributes:
        path: by which it is reached.
        state: how far that has come in the glob.
    """

    path: str
    state: State = dataclasses.field(compare=False)


class _Walk:
    """Lists a local folder and those below it: each once, however links and mounts lead to it.

    What is reached without links comes first, then what links among that lead to, then what links
    there lead to, and of several names always the first in order: a folder is listed by the same
    name on every run. Under a glob it is listed once more only by a name that the glob takes
    differently.

    Args:
        root: where names begin.
        glob: what a name has to match.
        scope: what is passed over.
    """

    def __init__(self, root: str, glob: Glob, scope: Scope) -> None:
        self._root = root
        self._glob = glob
        self._scope = scope
        self._seen: set[tuple[tuple[int, int], State]] = set()
        self._linked: list[_Folder] = []

    def files(self) -> Iterator[FileEntry]:
        """The files, and the folders that cannot be listed."""
        self._linked = [_Folder(self._root, self._glob.start)]
        while self._linked:
            level, self._linked = sorted(self._linked), []
            for folder in level:
                yield from self._below(folder)

    def _below(self, begin: _Folder) -> Iterator[FileEntry]:
        """What is reached without links; they are remembered."""
        # Not by recursion: folders may be nested deeper than calls.
        ahead = [begin]
        while ahead:
            folders: list[_Folder] = []
            yield from self._listed(ahead.pop(), folders)
            ahead += sorted(folders, reverse=True)

    def _listed(self, folder: _Folder, folders: list[_Folder]) -> Iterator[FileEntry]:
        """The files in a folder; the folders in it are added to a list."""
        try:
            status = os.stat(folder.path)  # noqa: PTH116 (odd bytes)
            if self._enters(folder, (status.st_dev, status.st_ino)):
                with os.scandir(folder.path) as children:
                    yield from self._among(children, folder, folders)
        except OSError:
            # Also in its midst, where it goes or its disk fails.
            yield FileEntry(folder.path, self._name(folder.path), is_folder=True)

    def _enters(self, folder: _Folder, identity: tuple[int, int]) -> bool:
        visit = identity, folder.state
        if visit in self._seen or not self._scope.enters(folder.path, identity):
            return False
        self._seen.add(visit)
        return True

    def _among(
        self, children: Iterable[os.DirEntry[str]], folder: _Folder, folders: list[_Folder]
    ) -> Iterator[FileEntry]:
        passed_over = self._scope.passes_over(folder.path)
        for child in children:
            if child.name.startswith(".") or child.name in passed_over:
                continue
            state = self._glob.after(folder.state, child.name)
            if not state:
                continue
            is_link = child.is_symlink()
            if is_link and not self._scope.follows(child.path):
                continue
            if _is_folder(child):
                (self._linked if is_link else folders).append(_Folder(child.path, state))
            elif self._glob.is_match(state):
                yield FileEntry(child.path, self._name(child.path))

    def _name(self, path: str) -> str:
        return "." if path == self._root else path.removeprefix(join(self._root, ""))


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:
        # A link to itself, or into a folder that may not be entered: for its reader to say.
        return False


def list_below(folder: str) -> Iterator[FileEntry]:
    """Every file below a folder of our own, dot names included; none when it does not exist."""
    if is_local(folder):
        for directory, _, names in os.walk(folder):
            for name in names:
                path = join(directory, name)
                yield FileEntry(path, os.path.relpath(path, folder))
        return
    prefix = join(folder, "")
    store = conditional_files.store_of(folder)
    found = _paths_below(prefix) if store is None else (u for u, _ in store.versions_below(prefix))
    for path in found:
        yield FileEntry(path, path.removeprefix(folder).lstrip("/"))


def delete(uri: str, guard: Guard | None = None) -> None:
    """Removes a file or a whole folder; nothing happens when there is none.

    Args:
        uri: the file or the folder.
        guard: what it is removed within; where it raises, nothing is removed. On stores with
            conditions only what was seen before the guard was asked is removed.
    """
    store = None if guard is None else conditional_files.store_of(uri)
    guard = guard or contextlib.nullcontext
    if store is not None:
        seen = itertools.chain(store.versions_below(join(uri, "")), _seen(store, uri))
        while some := list(itertools.islice(seen, _DELETED_TOGETHER)):
            conditional_files.delete_seen(store, some, guard)
        return
    if hadoop_files.is_hdfs(uri):
        # A run that lost the output while it was stopped is to delete one file at most.
        for path in [*hadoop_files.paths_below(join(uri, "")), uri]:
            if exists(path):
                with guard():
                    FileSystems.delete([path])
        return
    with guard():
        _delete(uri)


def delete_below(folder: str, guard: Guard | None, but_for: str) -> None:
    """Removes all that lies in a folder of work in progress, but for what has one name.

    Args:
        folder: the folder; it need not be there.
        guard: as of `delete`; on HDFS a whole folder is removed within it.
        but_for: the name of what stays.
    """
    for name in sorted(_names_in(folder) - {but_for}):
        uri = join(folder, name)
        if guard is not None and hadoop_files.is_hdfs(uri):
            with guard():
                _delete(uri)
        else:
            delete(uri, guard)


def _names_in(folder: str) -> set[str]:
    """The names of what lies in a folder directly."""
    if is_local(folder):
        path = _local_path(folder)
        return set(os.listdir(path)) if path.is_dir() else set()  # noqa: PTH208
    return {entry.name.partition("/")[0] for entry in list_below(folder)}


def _seen(store: ConditionalStore, uri: str) -> Iterator[tuple[str, str]]:
    version = store.version(uri)
    if version is not None:
        yield uri, version


def _delete(uri: str) -> None:
    if hadoop_files.is_hdfs(uri):
        FileSystems.delete([uri])
        return
    if not is_local(uri):
        below = (entry.uri for entry in list_below(uri))
        while some := list(itertools.islice(below, _DELETED_TOGETHER)):
            FileSystems.delete(some)
        if FileSystems.exists(uri):
            FileSystems.delete([uri])
        return
    path = _local_path(uri)
    if path.is_dir() and not path.is_symlink():
        _delete_tree(path)
        return
    try:
        path.unlink()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _delete_tree(folder: Path) -> None:
    """Removes a folder in which others may be writing and deleting still."""
    for _ in range(_MOST_TRIES):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        if not folder.exists():
            return
    shutil.rmtree(folder)
