"""A store of our own kind, without Beam: files in this process's memory, under `memory://`."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO

from beam_upscale.storage.protocol.remote_store import RemoteStore
from beam_upscale.storage.protocol.store import Guard
from beam_upscale.storage.stores import STORES, Entry


class MemoryStore(RemoteStore):
    """Files that are there once they are written whole.

    Attributes:
        files: what it holds, by URI.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def open_file(self, uri: str) -> BinaryIO:
        return io.BytesIO(self._data(uri))

    def has_file(self, uri: str) -> bool:
        return uri in self.files

    def size_of(self, uri: str) -> int:
        return len(self._data(uri))

    def version_of(self, uri: str) -> tuple[object, ...]:
        return (id(self._data(uri)),)

    def uris_below(self, prefix: str) -> Iterator[str]:
        yield from sorted(uri for uri in list(self.files) if uri.startswith(prefix))

    def put(
        self, file: IO[bytes], uri: str, partial_folder: str | None, guard: Guard | None
    ) -> None:
        with (guard or contextlib.nullcontext)():
            self.files[uri] = file.read()

    def remove(self, uris: Sequence[str]) -> None:
        for uri in uris:
            del self.files[uri]

    def _data(self, uri: str) -> bytes:
        if uri not in self.files:
            raise FileNotFoundError(uri)
        return self.files[uri]


STORE = MemoryStore()


@contextlib.contextmanager
def memory_store() -> Iterator[dict[str, bytes]]:
    """Adds the store for a while, and empty; gives its files by URI."""
    entry = Entry(lambda uri: uri.startswith("memory://"), __name__, ("memory",))
    STORES.insert(0, entry)
    STORE.files.clear()
    try:
        yield STORE.files
    finally:
        STORES.remove(entry)
