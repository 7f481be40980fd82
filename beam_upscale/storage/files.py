"""Files on any of Beam's file systems: list, read and publish atomically; on web servers: read.

Local files go through the operating system directly: Beam's local file system matches names as
patterns and can neither sync nor replace atomically. Other files go through Beam's `FileSystems`,
where a file appears when it is closed (one PUT on an object store). On HDFS (`hadoop_files`) a file
is visible while it is written, so it is written under a temporary name and renamed. Files of web
servers (`http_files`) are read only.
"""

import hashlib
import io
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_upscale.errors import ErrorCode, ImageError, reason, shortened
from beam_upscale.storage import conditional_files, hdfs, store_checks
from beam_upscale.storage.conditional_files import ConditionalStore
from beam_upscale.storage.http import reading
from beam_upscale.storage.uris import urls
from beam_upscale.storage.uris.uris import (
    LONGEST_NAMED,
    is_local,
    local_path,
    named,
    scheme_refusal,
    unread_scheme,
)

CHUNK_BYTES = 1 << 20


def configure(beam_options: Sequence[str]) -> None:
    """Sets the Beam options with which this process reaches remote file systems.

    A pipeline does the same for its workers; files that are read before it exists need it too.

    Args:
        beam_options: options as on a command line, such as `--s3_endpoint_url=…`.
    """
    FileSystems.set_options(PipelineOptions(list(beam_options)))
    conditional_files.forget_clients()
    store_checks.forget()


def _failures(uri: str) -> type[Exception] | tuple[type[Exception], ...]:
    """Returns the exceptions that reading may raise; clients of object stores have their own."""
    return OSError if is_local(uri) else Exception


def open_read(uri: str) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR, with the store's own words.
    """
    if urls.is_web(uri):
        return reading.open_read(uri)
    check_store(uri)
    try:
        if is_local(uri):
            return _open_regular(local_path(uri))
        if hdfs.is_hdfs(uri):
            return hdfs.open_read(uri)
        return cast(BinaryIO, FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED))
    except _failures(uri) as error:
        raise read_error(uri, error) from error


def check_store(uri: str) -> None:
    """Raises an ImageError that names the file if its store cannot be accessed at all."""
    try:
        store_checks.check(uri)
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
    check_store(uri)
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
        return reading.read_range(uri, offset, size)
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
        return reading.read(uri, max_bytes)
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
    words = shortened(reason(error, of=uri), LONGEST_NAMED)
    return ImageError(ErrorCode.READ_ERROR, f"{name} could not be read: {words}")


def exists(uri: str) -> bool:
    """Checks whether a file exists.

    Raises:
        ImageError: its store cannot be accessed at all, with the codes of `stores.check`.
        Exception: an error of the store's client.
    """
    if urls.is_web(uri):
        return reading.exists(uri)
    check_store(uri)
    if hdfs.is_hdfs(uri):
        return hdfs.exists(uri)
    if is_local(uri):
        return local_path(uri).is_file()
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
            return local_path(uri).stat().st_size
        if urls.is_web(uri):
            return reading.size(uri)
        check_store(uri)
        if hdfs.is_hdfs(uri):
            return hdfs.size(uri)
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
            status = local_path(uri).stat()
            # The ctime cannot be set: it reveals a file that was given the times of another one.
            return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns
        if urls.is_web(uri):
            return reading.version(uri)
        check_store(uri)
        if hdfs.is_hdfs(uri):
            return hdfs.version(uri)
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
        return reading.sha256(uri)
    digest = hashlib.sha256()
    with open_read(uri) as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        except _failures(uri) as error:
            raise read_error(uri, error) from error
    return digest.hexdigest()
