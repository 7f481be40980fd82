"""The store of files on any of Beam's file systems."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes, FileSystem
from apache_beam.io.filesystems import FileSystems

from beam_upscale.storage.beam import requirements
from beam_upscale.storage.beam.requirements import Requirement
from beam_upscale.storage.protocol.remote_store import RemoteStore
from beam_upscale.storage.protocol.store import CHUNK_BYTES, Guard


class BeamFiles(RemoteStore):
    """Files on a file system of Beam's, as Beam gives them.

    Args:
        requirement: what this process needs to reach it; None for a file system of a user's own.
    """

    def __init__(self, requirement: Requirement | None = None) -> None:
        self._requirement = requirement

    def reads(self, scheme: str) -> bool:
        """Checks whether Beam has a file system for a scheme.

        One whose client is not installed counts too: its error names the package.
        """
        if self._requirement is not None:
            return scheme == self._requirement.scheme
        return scheme in {each.scheme() for each in FileSystem.get_all_subclasses()}

    def require(self, uri: str) -> None:
        """Raises an ImageError if no file of the store can be reached; see `requirements.check`."""
        if self._requirement is not None:
            requirements.check(self._requirement, uri)

    def open_file(self, uri: str) -> BinaryIO:
        """Opens a file for reading, by Beam."""
        return cast(BinaryIO, FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED))

    def has_file(self, uri: str) -> bool:
        """Checks whether Beam knows a file."""
        return bool(FileSystems.exists(uri))

    def size_of(self, uri: str) -> int:
        """Returns a file's size in bytes."""
        return int(FileSystems.get_filesystem(uri).size(uri))

    def version_of(self, uri: str) -> tuple[object, ...]:
        """Returns a file's size and the time at which it was written."""
        (match,) = FileSystems.match([uri])
        (entry,) = match.metadata_list
        return entry.size_in_bytes, entry.last_updated_in_seconds

    def uris_below(self, prefix: str) -> Iterator[str]:
        """Yields the URIs with a prefix; an object store is listed page by page, not held."""
        # Every Beam file system has `_list`; `match` would hold all its results in a list.
        for metadata in FileSystems.get_filesystem(prefix)._list(prefix):
            yield metadata.path

    def put(
        self, file: IO[bytes], uri: str, partial_folder: str | None, guard: Guard | None
    ) -> None:
        """Writes a file, which appears when it is closed."""
        with (guard or contextlib.nullcontext)():
            copy(file, uri)

    def remove(self, uris: Sequence[str]) -> None:
        """Removes files that exist."""
        FileSystems.delete(list(uris))


def copy(file: IO[bytes], uri: str) -> None:
    """Writes a file of Beam's with the bytes of another one, from its position on."""
    target = FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    shutil.copyfileobj(file, target, CHUNK_BYTES)
    target.close()


STORE = BeamFiles()
