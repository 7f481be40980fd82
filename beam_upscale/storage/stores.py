"""The table of all stores, and the choice of one for a URI."""

import importlib
from collections.abc import Callable

from beam_upscale.storage.local.local_disk import is_local
from beam_upscale.storage.protocol.store import Store
from beam_upscale.storage.uris import urls


def _has_scheme(scheme: str) -> Callable[[str], bool]:
    """Returns a check for URIs of a scheme, in small letters or capitals."""
    return lambda uri: uri.lower().startswith(f"{scheme}://")


# In order: the first store that takes a URI is its store, by the name `STORE` in a module. The
# module is imported when it is first needed: local files need neither Beam, whose import takes more
# than a second, nor a client.
STORES: list[tuple[Callable[[str], bool], str]] = [
    (is_local, "beam_upscale.storage.local.local_disk"),
    (urls.is_web, "beam_upscale.storage.http.web_servers"),
    (_has_scheme("hdfs"), "beam_upscale.storage.beam.hdfs"),
    (_has_scheme("s3"), "beam_upscale.storage.beam.s3"),
    (_has_scheme("gs"), "beam_upscale.storage.beam.gcs"),
    (_has_scheme("azfs"), "beam_upscale.storage.beam.azure"),
    # Any other scheme, of a file system that a user has added to Beam.
    (lambda _: True, "beam_upscale.storage.beam.beam_files"),
]


def store_of(uri: str) -> Store:
    """Returns the store of a path or a URI, the same object each time.

    No other code decides by a scheme how a file is read or written.
    """
    module = next(module for takes, module in STORES if takes(uri))
    store: Store = importlib.import_module(module).STORE
    return store
