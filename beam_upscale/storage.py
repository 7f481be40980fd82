"""Files on any of Beam's file systems: list, read and publish atomically; on web servers: read.

Local files go through the operating system directly: Beam's local file system matches names as
patterns and can neither sync nor replace atomically. Other files go through Beam's `FileSystems`,
where a file appears when it is closed (one PUT on an object store). On HDFS (`hadoop_files`) a file
is visible while it is written, so it is written under a temporary name and renamed. Files of web
servers (`http_files`) are read only.
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

# A file URI of this machine (RFC 8089): without a host, or with the host localhost.
_LOCAL_FILE = re.compile(r"file:(?:/(?!/)|//(?:localhost)?(?:/|$))", re.IGNORECASE)
_OF_LOCAL_FILE = re.compile(r"file:(?://(?:localhost)?(?=/|$))?", re.IGNORECASE)

_CHUNK_BYTES = 1 << 20

# The most characters of a URI in a message, and of a `data:` URI.
_LONGEST_NAMED = 400
_LONGEST_DATA = 40

# An absolute Windows path, on a drive or on a server (UNC).
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_DELETED_TOGETHER = 1000

# Tries to remove a folder; a file that vanishes meanwhile ends one try.
_MOST_TRIES = 10

# Error numbers of file systems without hard links, such as FAT.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})

# Error numbers of file systems whose folders cannot be synced.
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF})

# A file for a remote file system is buffered in memory up to this size, beyond it on local disk.
_BYTES_IN_MEMORY = 32 << 20


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file found by `list_files`.

    Attributes:
        uri: the URI to open; a local path may hold bytes that are not UTF-8, as surrogates.
        name: the path relative to the listed folder, with `/` between parts.
        is_folder: True for a folder that cannot be listed.
    """

    uri: str
    name: str
    is_folder: bool = False


class Scope:
    """The filter that decides what `list_files` skips below its start; this base skips nothing."""

    def enters(self, folder: str, identity: tuple[int, int]) -> bool:
        """Decides whether a local folder, with this (device, inode), is descended into."""
        return True

    def follows(self, link: str) -> bool:
        """Decides whether a local link is listed, or descended into if it leads to a folder."""
        return True

    def passes_over(self, folder: str) -> Collection[str]:
        """Returns the names in a local folder that are not listed."""
        return ()

    def sees(self, uri: str) -> bool:
        """Decides whether a remote file is listed; called also for files that no glob matches."""
        return True


_EVERYTHING = Scope()


def configure(beam_options: Sequence[str]) -> None:
    """Sets the Beam options with which this process reaches remote file systems.

    A pipeline does the same for its workers; files that are read before it exists need it too.

    Args:
        beam_options: options as on a command line, such as `--s3_endpoint_url=…`.
    """
    FileSystems.set_options(PipelineOptions(list(beam_options)))
    conditional_files.forget_clients()
    stores.forget()


def is_local(uri: str) -> bool:
    """Checks whether a URI names a file of this machine: a plain path, or one with `file:`."""
    if ":" not in uri:
        return True
    if _LOCAL_FILE.match(uri):
        return True
    return "://" not in uri and not urls.is_web(uri)


def unread_scheme(uri: str) -> str | None:
    """Returns a URI's scheme if no store reads it; None for a path or a supported scheme.

    A Beam scheme whose client is not installed counts as supported: its error names the package.
    """
    scheme = urls.scheme_of(uri)
    if scheme is None or scheme in _KNOWN_SCHEMES or (scheme == "file" and is_local(uri)):
        return None
    known = {each.scheme() for each in FileSystem.get_all_subclasses()}
    return None if scheme in known else scheme


def _failures(uri: str) -> type[Exception] | tuple[type[Exception], ...]:
    """Returns the exceptions that reading may raise; clients of object stores have their own."""
    return OSError if is_local(uri) else Exception


def absolute(uri: str) -> str:
    """Makes a local path absolute, without `file:`; trims other URIs and their trailing slash."""
    if is_local(uri):
        return os.path.abspath(_without_scheme(uri))  # noqa: PTH100 (keeps odd bytes)
    uri = urls.trimmed(uri)
    return uri if urls.is_web(uri) else uri.rstrip("/")


def _local_path(uri: str) -> Path:
    return Path(_without_scheme(uri))


def _without_scheme(uri: str) -> str:
    return _OF_LOCAL_FILE.sub("", uri, count=1) if _LOCAL_FILE.match(uri) else uri


def join(base: str, *parts: str) -> str:
    """Joins a base URI and the parts of a path below it."""
    return "/".join([base.rstrip("/"), *parts])


def printable(uri: str) -> str:
    """Returns a URI for publication: `encoded`, without secrets such as passwords or signatures."""
    if ":" not in uri:
        return encoded(uri)
    if urls.scheme_of(uri) == "data":
        # A `data:` URI is the content itself, which may be long.
        uri = shortened(uri, _LONGEST_DATA)
    return encoded(urls.without_secrets(uri))


def named(uri: str) -> str:
    """Returns a URI for messages: `printable`, without its middle if it is long."""
    return shortened(printable(uri), _LONGEST_NAMED)


def encoded(uri: str) -> str:
    """Returns a URI as text that every store accepts: percent-encoded if it is not UTF-8.

    A name that is UTF-8 is unchanged, percent signs included. A name that is not is encoded whole,
    percent signs included, so that two such names never become equal.
    """
    try:
        uri.encode()
    except UnicodeEncodeError:
        return urllib.parse.quote(os.fsencode(uri), safe="/:")
    return uri


def is_windows_path(uri: str) -> bool:
    """Checks whether a path is an absolute Windows path, which cannot exist here."""
    return _WINDOWS_PATH.match(uri) is not None


def scheme_refusal(scheme: str) -> str:
    """Explains, for a message, that a scheme is not supported, and what to do."""
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
    """Opens a file for reading.

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
    """Raises an ImageError that names the file if its store cannot be accessed at all."""
    try:
        stores.check(uri)
    except ImageError as error:
        found = f"{named(uri)} could not be read: {error.message}"
        raise ImageError(error.code, found) from error


def _open_regular(path: Path) -> BinaryIO:
    """Opens a file, but not a pipe or a device: reading those may never end."""
    mode = path.stat().st_mode
    # A folder passes: the operating system's own error for it is better.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError("not a regular file")
    return path.open("rb")


def read(uri: str, limit: int | None = None) -> bytes:
    """Reads a file's bytes, or its first `limit` bytes.

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
    """Reads with a shared client; Beam creates a new client for each file that it opens."""
    try:
        data = store.read(uri)
    except Exception as error:
        raise read_error(uri, error) from error
    if data is None:
        raise read_error(uri, FileNotFoundError())
    return data


def read_if_there(uri: str) -> bytes | None:
    """Reads a file's bytes; None if the file does not exist.

    Raises:
        OSError: the file cannot be read.
        Exception: an error of the store's client.
    """
    try:
        return read(uri)
    except ImageError as error:
        if error.code is ErrorCode.NOT_FOUND or not exists(uri):
            return None
        raise OSError(error.message) from error


def read_range(uri: str, offset: int, size: int) -> bytes:
    """Reads `size` bytes of a file from `offset` on; fewer if the file ends before.

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
    # Beam's buffers for S3 and HDFS have 16 MiB and would read all of that for a smaller part.
    source = file.raw if isinstance(file, io.BufferedReader) else file
    source.seek(offset)
    parts: list[bytes] = []
    while size > 0 and (data := source.read(size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def read_at_most(uri: str, max_bytes: int) -> bytes:
    """Reads a file's bytes, unless there are more than `max_bytes`.

    Raises:
        ImageError: FILE_TOO_LARGE, NOT_FOUND, PERMISSION_DENIED or READ_ERROR.
    """
    if urls.is_web(uri):
        # In one request, as a server need not report the size beforehand.
        return http_files.read(uri, max_bytes)
    check_size(size(uri), max_bytes)
    return read(uri)


def check_size(found: int | None, max_bytes: int) -> None:
    """Raises an ImageError, FILE_TOO_LARGE, for more bytes; None, an unknown size, is allowed."""
    if found is not None and found > max_bytes:
        raise ImageError(
            ErrorCode.FILE_TOO_LARGE,
            f"the file has {found:,} bytes; at most {max_bytes:,} are read (--max-input-bytes)",
        )


def read_error(uri: str, error: Exception) -> ImageError:
    """Converts an exception to the `ImageError` that explains why a file could not be read."""
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
    """Checks whether a file exists.

    Raises:
        ImageError: its store cannot be accessed at all, with the codes of `stores.check`.
        Exception: an error of the store's client.
    """
    if urls.is_web(uri):
        return http_files.exists(uri)
    _check_store(uri)
    if hadoop_files.is_hdfs(uri):
        return hadoop_files.exists(uri)
    if is_local(uri):
        return _local_path(uri).is_file()
    store = conditional_files.store_of(uri)
    # Beam's own check raises for a missing blob of Azure.
    return bool(FileSystems.exists(uri)) if store is None else store.version(uri) is not None


def size(uri: str) -> int | None:
    """Returns a file's size in bytes; None if it does not exist or its size is unknown.

    Raises:
        ImageError: the file may exist, but its store does not answer for it; READ_ERROR, or the
            codes of `stores.check`.
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
        # A result that is wrongly taken for missing would be made, and paid for, again.
        raise read_error(uri, error) from error


def _is_gone(uri: str) -> bool:
    """Checks whether a file is certainly missing; False if its store does not answer."""
    try:
        return not exists(uri)
    except Exception:
        return False


def version(uri: str) -> tuple[object, ...]:
    """Returns values that change when a file is replaced, without reading it; () if unknown."""
    try:
        if is_local(uri):
            status = _local_path(uri).stat()
            # The ctime cannot be set: it reveals a file that was given the times of another one.
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
    """Computes the SHA-256 of a file's bytes, in hexadecimal.

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
    _check_store(uri)
    store = conditional_files.store_of(uri) if is_conditional else None
    guard = guard or contextlib.nullcontext
    with guard():
        # Checked first: a run that lost the output must not even create a folder.
        pass
    if is_local(uri):
        path = _local_path(uri)
        folder = path.parent if partial_folder is None else _local_path(partial_folder)
        with _publish_local(path, folder, guard) as file:
            yield file
        return
    # Closing a remote file publishes it, and Python closes a file after an exception too. So the
    # file is opened only once all its bytes are in the buffer.
    with tempfile.SpooledTemporaryFile(max_size=_BYTES_IN_MEMORY) as file:
        yield file
        file.seek(0)
        if hadoop_files.is_hdfs(uri):
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
    if hadoop_files.rename(temporary, uri):
        return True
    FileSystems.delete([temporary])
    return False


def start_of_listing(pattern: str) -> str:
    """Returns the URI at which a listing begins: a file, a folder, or the base of a glob.

    The name of an existing local file or folder is never read as a glob.
    """
    target = absolute(pattern)
    if urls.is_web(pattern):
        return target
    is_glob = has_wildcard(target) and not (is_local(target) and os.path.lexists(target))
    return (base_of(target) or "/") if is_glob else target


def list_files(pattern: str, scope: Scope = _EVERYTHING) -> Iterator[FileEntry]:
    """Lists every file that a pattern names, in no particular order.

    Args:
        pattern: a file, a folder (descended into, through symbolic links too, into each folder
            once) or a glob (`**` crosses folders), on any of Beam's file systems. A folder that a
            glob matches is descended into. A URL of a web server is that of one file.
        scope: the filter of what is skipped below a folder, or below the base of a glob.

    Yields:
        The files. A local folder that cannot be listed is an entry of its own, so that its reader's
        error names it. Names that begin with a dot are left out below a folder.

    Raises:
        SettingsError: a remote store cannot list them, with the codes of `open_read`.
    """
    if urls.is_web(pattern):
        yield FileEntry(absolute(pattern), urls.path_of(pattern).rpartition("/")[2])
    elif is_local(pattern):
        yield from _list_local(absolute(pattern), scope)
    else:
        yield from _list_remote(absolute(pattern), scope)


def _list_remote(pattern: str, scope: Scope) -> Iterator[FileEntry]:
    if not has_wildcard(pattern):
        # An object store has no folders to check for, so files below the name are searched first.
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
    """Yields the files that Beam lists, without hidden names and empty objects for folders."""
    for path in _listed_below(pattern.removesuffix("**")):
        name = path.removeprefix(base).lstrip("/")
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not is_hidden and not path.endswith("/") and scope.sees(path):
            yield FileEntry(path, name)


def _listed_below(prefix: str) -> Iterator[str]:
    """Yields the same paths as `_paths_below`, with errors for a listing of inputs.

    Raises:
        SettingsError: PERMISSION_DENIED, NOT_FOUND or READ_ERROR, with the store's own words.
    """
    try:
        _check_store(prefix)
        yield from _paths_below(prefix)
    except Exception as error:
        found = read_error(prefix, error)
        # The store's message names the folder, which may be a subfolder.
        is_told = found is error or found.code is ErrorCode.READ_ERROR
        words = "" if is_told else f": {error}"
        message = f"the inputs cannot be listed: {found.message}{words}"
        raise SettingsError(found.code, message) from error


def _paths_below(prefix: str) -> Iterator[str]:
    """Yields the URIs of files with a prefix; an object store is listed page by page, not held."""
    if hadoop_files.is_hdfs(prefix):
        yield from hadoop_files.paths_below(prefix)
        return
    # Every Beam file system has `_list`; `match` would hold all its results in a list.
    for metadata in FileSystems.get_filesystem(prefix)._list(prefix):
        yield metadata.path


def _list_local(pattern: str, scope: Scope) -> Iterator[FileEntry]:
    path = Path(pattern)
    try:
        is_folder, is_there = path.is_dir(), path.exists() or path.is_symlink()
    except OSError:
        # In a folder that may not be entered; its reader raises the error.
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
        path: the path by which it is reached.
        state: the state of the glob after that path.
    """

    path: str
    state: State = dataclasses.field(compare=False)


class _Walk:
    """The listing of a local folder and its subfolders, each once, whatever links lead to it.

    Folders reached without links come first, then those reached through one link, then through two,
    and so on; among several names of a folder the first in order is used. So a folder is listed by
    the same name on every run. With a glob, a folder is listed again only under a name for which
    the glob is in another state.

    Args:
        root: the folder that names are relative to.
        glob: the glob that names have to match.
        scope: the filter of what is skipped.
    """

    def __init__(self, root: str, glob: Glob, scope: Scope) -> None:
        self._root = root
        self._glob = glob
        self._scope = scope
        self._seen: set[tuple[tuple[int, int], State]] = set()
        self._linked: list[_Folder] = []

    def files(self) -> Iterator[FileEntry]:
        """Yields the files, and the folders that cannot be listed."""
        self._linked = [_Folder(self._root, self._glob.start)]
        while self._linked:
            level, self._linked = sorted(self._linked), []
            for folder in level:
                yield from self._below(folder)

    def _below(self, begin: _Folder) -> Iterator[FileEntry]:
        """Yields the files reached without links; collects links to folders for the next level."""
        # Without recursion, as folders may be nested deeper than the stack allows.
        ahead = [begin]
        while ahead:
            folders: list[_Folder] = []
            yield from self._listed(ahead.pop(), folders)
            ahead += sorted(folders, reverse=True)

    def _listed(self, folder: _Folder, folders: list[_Folder]) -> Iterator[FileEntry]:
        """Yields the files in a folder; adds its subfolders to a list."""
        try:
            status = os.stat(folder.path)  # noqa: PTH116 (odd bytes)
            if self._enters(folder, (status.st_dev, status.st_ino)):
                with os.scandir(folder.path) as children:
                    yield from self._among(children, folder, folders)
        except OSError:
            # Also after some entries, if the folder vanishes or its disk fails.
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
        # A link to itself, or into a folder that may not be entered; its reader raises the error.
        return False


def list_below(folder: str) -> Iterator[FileEntry]:
    """Yields every file below a folder of our own, dot names included; none if it is missing."""
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
    if hadoop_files.is_hdfs(uri):
        # A run that lost the output while it was suspended must delete one file at most.
        for path in [*hadoop_files.paths_below(join(uri, "")), uri]:
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
        if guard is not None and hadoop_files.is_hdfs(uri):
            with guard():
                _delete(uri)
        else:
            delete(uri, guard)


def _names_in(folder: str) -> set[str]:
    """Returns the names of the direct entries of a folder."""
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
    """Removes a folder in which other processes may still be writing and deleting."""
    for _ in range(_MOST_TRIES):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        if not folder.exists():
            return
    shutil.rmtree(folder)
