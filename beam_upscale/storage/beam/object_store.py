"""Object stores, with writes and deletions that depend on a file's current version.

Beam's `FileSystems` can only create and replace. Two workers that do not know of each other need
more: to create a file only if there is none, and to replace or delete a file only if it is still
the version that they saw. S3, GCS and Azure have conditions for both, in clients of their own.
"""

import functools
import io
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Protocol

from apache_beam.io.filesystems import FileSystems

from beam_upscale.storage.beam.beam_files import BeamFiles
from beam_upscale.storage.beam.requirements import Requirement
from beam_upscale.storage.protocol.remote_store import DELETED_TOGETHER
from beam_upscale.storage.protocol.store import FileEntry, Guard
from beam_upscale.storage.uris.uris import join

# The connection pools of boto3 and requests keep as many connections.
_AT_ONCE = 10

# The most attempts to replace a file that other writers keep changing.
_MOST_TRIES = 10
_LONGEST_PAUSE = 0.2


class ConditionalClient(Protocol):
    """A client whose writes and deletions can depend on a file's current version."""

    def version(self, uri: str) -> str | None:
        """Returns a text that changes with a file's content; None if there is no file."""
        ...

    def read(self, uri: str) -> bytes | None:
        """Returns a file's content; None if there is no file."""
        ...

    def versions_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yields the URIs that begin with `prefix`, each with its version."""
        ...

    def write(self, uri: str, file: IO[bytes], expected: str | None) -> bool:
        """Writes a file if its version is the expected one; returns True if it was written.

        Args:
            uri: the URI of the file.
            file: the content; it is read from its beginning.
            expected: the version that `version` returned; None if there must be no file.
        """
        ...

    def delete(self, uri: str, expected: str) -> bool:
        """Deletes a file if its version is the expected one; returns True if the file is gone."""
        ...


class ObjectStore(BeamFiles):
    """Beam's file system for an object store, with the conditions of the store itself.

    Args:
        connect: makes a client from Beam's options; clients are shared by all threads.
        requirement: what this process needs to reach the store.
    """

    def __init__(
        self, connect: Callable[[Any], ConditionalClient], requirement: Requirement | None = None
    ) -> None:
        super().__init__(requirement)
        self._connect = connect

    def client(self, uri: str) -> ConditionalClient:
        """Returns the client that this process's options set up, the same for the same options."""
        filesystem = FileSystems.get_filesystem(uri)
        # In a process that was given no options, the file system has an empty dict, or None.
        kept = (getattr(filesystem, name, None) for name in ("_options", "_pipeline_options"))
        options: Any = next((each for each in kept if each is not None), {})
        return _connected(self._connect, _comparable(options))

    def read(self, uri: str) -> bytes:
        """Reads with a shared client; Beam creates a new client for each file that it opens."""
        self.check(uri)
        with self.explaining(uri):
            data = self.client(uri).read(uri)
        if data is None:
            raise self.read_error(uri, FileNotFoundError())
        return data

    def has_file(self, uri: str) -> bool:
        """Checks whether a file exists; Beam's own check raises for a missing blob of Azure."""
        return self.client(uri).version(uri) is not None

    def version_of(self, uri: str) -> tuple[object, ...]:
        """Returns a file's version as its store names it; () if it is missing."""
        found = self.client(uri).version(uri)
        return () if found is None else (found,)

    def list_below(self, folder: str) -> Iterator[FileEntry]:
        """Yields every file below a folder, listed by the shared client."""
        for uri, _ in self.client(folder).versions_below(join(folder, "")):
            yield FileEntry(uri, uri.removeprefix(folder).lstrip("/"))

    def put(
        self, file: IO[bytes], uri: str, partial_folder: str | None, guard: Guard | None
    ) -> None:
        """Writes a file; with a guard, only if nobody else writes it meanwhile: see `replace`."""
        if guard is None:
            super().put(file, uri, partial_folder, guard)
        else:
            replace(self.client(uri), uri, file, guard)

    def publish_all(
        self,
        contents: Sequence[tuple[str, bytes]],
        partial_folder: str | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Writes several files side by side, each on its own condition: see `replace`."""
        if len(contents) < 2 or guard is None:
            super().publish_all(contents, partial_folder, guard)
            return
        self.check(contents[0][0])
        client = self.client(contents[0][0])

        def put(content: tuple[str, bytes]) -> None:
            with io.BytesIO(content[1]) as file:
                replace(client, content[0], file, guard)

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for _ in threads.map(put, contents):
                pass

    def create_new(self, uri: str, data: bytes, partial_folder: str) -> bool:
        """Creates a file on the condition that there is none."""
        self.check(uri)
        with io.BytesIO(data) as file:
            return self.client(uri).write(uri, file, None)

    def delete(self, uri: str, guard: Guard | None = None) -> None:
        """Removes a file or all files below a folder; with a guard, only versions seen before."""
        if guard is None:
            super().delete(uri)
            return
        client = self.client(uri)
        seen = itertools.chain(client.versions_below(join(uri, "")), _seen(client, uri))
        while some := list(itertools.islice(seen, DELETED_TOGETHER)):
            delete_seen(client, some, guard)


def _seen(client: ConditionalClient, uri: str) -> Iterator[tuple[str, str]]:
    version = client.version(uri)
    if version is not None:
        yield uri, version


class _Options:
    """Beam's options, compared by their values, so that stores with equal options are shared."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self._text = json.dumps(_values(options), sort_keys=True, default=str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


_latest: tuple[Any, _Options] | None = None


def _comparable(options: Any) -> _Options:
    # Reading the values takes Beam milliseconds; mostly, the options are those of the last call.
    global _latest
    latest = _latest
    if latest is None or latest[0] is not options:
        _latest = latest = options, _Options(options)
    return latest[1]


def _values(options: Any) -> Any:
    return options if isinstance(options, dict) else options.get_all_options(drop_default=True)


@functools.lru_cache(maxsize=8)
def _connected(connect: Callable[[Any], ConditionalClient], options: _Options) -> ConditionalClient:
    # A client takes a tenth of a second to make; those of S3, GCS and Azure are thread-safe.
    return connect(options.options)


def forget_clients() -> None:
    """Drops the cached clients, since the options or the environment may have changed."""
    _connected.cache_clear()


os.register_at_fork(after_in_child=forget_clients)


def replace(client: ConditionalClient, uri: str, file: IO[bytes], guard: Guard) -> None:
    """Replaces a file, unless the guard refuses or another run has changed it.

    The order makes this safe: first the version to be replaced is read, then the guard is called,
    then exactly that version is replaced. A run that takes the output over after the guard was
    called either has changed the file, or will find this one and replace it.

    Raises:
        OSError: other writers keep changing the file.
        Exception: any exception of the guard or of the client.
    """
    expected: str | None = None
    for attempt in range(_MOST_TRIES):
        if attempt > 1:
            # Another writer is changing the same file.
            time.sleep(random.uniform(0, _LONGEST_PAUSE))
        with guard():
            is_written = client.write(uri, file, expected)
        if is_written:
            return
        expected = client.version(uri)
    raise OSError(f"other writers keep changing {uri}")


def delete_seen(client: ConditionalClient, seen: Iterable[tuple[str, str]], guard: Guard) -> None:
    """Deletes files whose versions are unchanged; files that have changed since stay.

    Args:
        client: the client of the files' store.
        seen: URIs with the versions that were seen; all are read before the guard is called.
        guard: called before each deletion.
    """
    pairs = list(seen)

    def delete(pair: tuple[str, str]) -> None:
        with guard():
            client.delete(*pair)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for _ in threads.map(delete, pairs):
            pass


def split(uri: str) -> tuple[str, str]:
    """Splits an object's URI into its bucket and its name."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return bucket, name
