"""Joins, shows and classifies URIs and local paths, without opening what they name."""

import os
import re
import urllib.parse
from pathlib import Path

from apache_beam.io.filesystem import FileSystem

from beam_upscale.errors import shortened
from beam_upscale.storage.uris import secrets, urls

_KNOWN_SCHEMES = urls.WEB_SCHEMES | {"gs", "s3", "azfs", "hdfs"}

# A file URI of this machine (RFC 8089): without a host, or with the host localhost.
_LOCAL_FILE = re.compile(r"file:(?:/(?!/)|//(?:localhost)?(?:/|$))", re.IGNORECASE)
_OF_LOCAL_FILE = re.compile(r"file:(?://(?:localhost)?(?=/|$))?", re.IGNORECASE)

# The most characters of a URI in a message, and of a `data:` URI.
LONGEST_NAMED = 400
_LONGEST_DATA = 40

# An absolute Windows path, on a drive or on a server (UNC).
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")


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


def absolute(uri: str) -> str:
    """Makes a local path absolute, without `file:`; trims other URIs and their trailing slash."""
    if is_local(uri):
        return os.path.abspath(_without_scheme(uri))  # noqa: PTH100 (keeps odd bytes)
    uri = urls.trimmed(uri)
    return uri if urls.is_web(uri) else uri.rstrip("/")


def local_path(uri: str) -> Path:
    """Returns the path of a local URI or path."""
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
        f"{scheme}: is no scheme that is read; fetch the file, and name a path, an http(s) URL or "
        "a URI on one of Beam's file systems"
    )
