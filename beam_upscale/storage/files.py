"""Functions that read, list, write and delete files by URI, with the store that `store_of` chooses.

Guarantees and errors are those of the methods of `Store` with the same names.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, BinaryIO

from beam_upscale.errors import ImageError
from beam_upscale.storage.protocol.store import EVERYTHING, FileEntry, Guard, Scope
from beam_upscale.storage.stores import store_of


def configure(beam_options: Sequence[str]) -> None:
    """Sets the Beam options with which this process reaches remote file systems.

    A pipeline does the same for its workers; files that are read before it exists need it too.

    Args:
        beam_options: options as on a command line, such as `--s3_endpoint_url=…`.
    """
    # Imported here, since local files do not need Beam.
    from beam_upscale.storage.beam import options

    options.configure(beam_options)


def absolute(uri: str) -> str:
    """Makes a local path absolute, without `file:`; trims other URIs and their trailing slash."""
    return store_of(uri).absolute(uri)


def open_read(uri: str) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        ImageError: NOT_FOUND, PERMISSION_DENIED or READ_ERROR, with the store's own words.
    """
    return store_of(uri).open_read(uri)


def read(uri: str, limit: int | None = None) -> bytes:
    """Reads a file's bytes, or its first `limit` bytes; raises as `open_read`."""
    store = store_of(uri)
    return store.read(uri) if limit is None else store.read_range(uri, 0, limit)


def read_at_most(uri: str, max_bytes: int) -> bytes:
    """Reads a file's bytes, unless there are more than `max_bytes`: an error, FILE_TOO_LARGE."""
    return store_of(uri).read_at_most(uri, max_bytes)


def read_if_there(uri: str) -> bytes | None:
    """Reads a file's bytes; None if the file does not exist."""
    return store_of(uri).read_if_there(uri)


def read_range(uri: str, offset: int, size: int) -> bytes:
    """Reads `size` bytes of a file from `offset` on; fewer if the file ends before."""
    return store_of(uri).read_range(uri, offset, size)


def read_error(uri: str, error: Exception) -> ImageError:
    """Converts an exception to the `ImageError` that explains why a file could not be read."""
    return store_of(uri).read_error(uri, error)


def exists(uri: str) -> bool:
    """Checks whether a file exists; raises an error if its store does not answer."""
    return store_of(uri).exists(uri)


def size(uri: str) -> int | None:
    """Returns a file's size in bytes; None if it does not exist or its size is unknown."""
    return store_of(uri).size(uri)


def version(uri: str) -> tuple[object, ...]:
    """Returns values that change when a file is replaced, without reading it; () if unknown."""
    return store_of(uri).version(uri)


def sha256(uri: str) -> str:
    """Computes the SHA-256 of a file's bytes, in hexadecimal; raises as `open_read`."""
    return store_of(uri).sha256(uri)


def start_of_listing(pattern: str) -> str:
    """Returns the URI at which a listing begins: a file, a folder, or the base of a glob."""
    return store_of(pattern).start_of_listing(pattern)


def list_files(pattern: str, scope: Scope = EVERYTHING) -> Iterator[FileEntry]:
    """Lists every file that a pattern names, in no particular order."""
    return store_of(pattern).list_files(pattern, scope)


def list_below(folder: str) -> Iterator[FileEntry]:
    """Yields every file below a folder of our own, dot names included; none if it is missing."""
    return store_of(folder).list_below(folder)


def publish(
    uri: str, partial_folder: str | None = None, guard: Guard | None = None
) -> AbstractContextManager[IO[bytes]]:
    """Opens a file that appears under its name whole or not at all."""
    return store_of(uri).publish(uri, partial_folder, guard)


def write(
    uri: str, data: bytes, partial_folder: str | None = None, guard: Guard | None = None
) -> None:
    """Publishes a file with these bytes; see `publish`."""
    with publish(uri, partial_folder, guard) as file:
        file.write(data)


def publish_all(
    contents: Sequence[tuple[str, bytes]],
    partial_folder: str | None = None,
    guard: Guard | None = None,
) -> None:
    """Publishes several small files of one store, given as pairs of a URI and bytes."""
    if contents:
        store_of(contents[0][0]).publish_all(contents, partial_folder, guard)


def create(uri: str, data: bytes, partial_folder: str | None = None) -> bool:
    """Creates a file unless it exists; returns True if it is the caller's."""
    return store_of(uri).create(uri, data, partial_folder)


def delete(uri: str, guard: Guard | None = None) -> None:
    """Removes a file or a whole folder; does nothing if there is none."""
    store_of(uri).delete(uri, guard)
