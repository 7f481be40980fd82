"""Joins and shows URIs and local paths, without opening what they name."""

import os
import re
import urllib.parse

from beam_upscale.errors import shortened
from beam_upscale.storage.uris import secrets, urls

# The most characters of a URI in a message, and of a `data:` URI.
LONGEST_NAMED = 400
_LONGEST_DATA = 40

# An absolute Windows path, on a drive or on a server (UNC).
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")


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
    return encoded(secrets.without_secrets(uri))


def named(uri: str) -> str:
    """Returns a URI for messages: `printable`, without its middle if it is long."""
    return shortened(printable(uri), LONGEST_NAMED)


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
        f"{scheme}: is not a scheme that is read; fetch the file, and name a path, an http(s) URL "
        "or a URI on one of Beam's file systems"
    )
