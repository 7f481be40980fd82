"""The table of all stores, and the choice of one for a URI."""

import dataclasses
import functools
import importlib
from collections.abc import Callable

from beam_upscale.storage.local.local_disk import is_local
from beam_upscale.storage.protocol.store import Store
from beam_upscale.storage.uris import urls


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the table of stores.

    Attributes:
        takes: checks whether a path or a URI names a file of the store.
        module: the module that has the store, by the name `STORE`. It is imported when it is first
            needed: local files need neither Beam, whose import takes more than a second, nor a
            client.
        schemes: the schemes of the store's URIs, in small letters.
    """

    takes: Callable[[str], bool]
    module: str
    schemes: tuple[str, ...] = ()


def _by_scheme(scheme: str, module: str) -> Entry:
    """Returns the entry of a store that takes all URIs of one scheme, in small letters or not."""
    return Entry(lambda uri: uri.lower().startswith(f"{scheme}://"), module, (scheme,))


# In order: the first store that takes a URI is its store.
STORES: list[Entry] = [
    Entry(is_local, "beam_upscale.storage.local.local_disk", ("file",)),
    Entry(urls.is_web, "beam_upscale.storage.http.web_servers", ("http", "https")),
    _by_scheme("hdfs", "beam_upscale.storage.beam.hdfs"),
    _by_scheme("s3", "beam_upscale.storage.beam.s3"),
    _by_scheme("gs", "beam_upscale.storage.beam.gcs"),
    _by_scheme("azfs", "beam_upscale.storage.beam.azure"),
    # Any other scheme, of a file system that a user has added to Beam.
    Entry(lambda _: True, "beam_upscale.storage.beam.beam_files"),
]


def store_of(uri: str) -> Store:
    """Returns the store of a path or a URI, the same object each time.

    No other code decides by a scheme how a file is read or written.
    """
    store: Store = _module(next(entry.module for entry in STORES if entry.takes(uri))).STORE
    return store


# Kept, since Python's own lookup takes longer than a look for a file.
_module = functools.cache(importlib.import_module)


def known_schemes() -> frozenset[str]:
    """Returns the schemes of the stores in the table, in small letters."""
    return frozenset(scheme for entry in STORES for scheme in entry.schemes)
