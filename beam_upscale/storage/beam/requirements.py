"""Checks that one of Beam's stores can be used, at once, where its client would try for minutes.

A store may lack something in this process: a package, credentials, options, a way to its host. This
is checked before the store's first file, and the result holds for the files that follow.
"""

import dataclasses
import importlib.util
import socket
import time
import urllib.parse
from collections.abc import Callable

import requests
from apache_beam.io.filesystems import FileSystems

from beam_upscale.errors import ErrorCode, ImageError

_CONNECT_SECONDS = 10.0
_CONNECT_ATTEMPTS = 2

# Seconds after which a failed check is repeated.
_SECONDS_LACKING = 300.0


@dataclasses.dataclass(frozen=True)
class Requirement:
    """The needs of a process that reaches a store: a module, an extra, further checks.

    Attributes:
        scheme: the scheme of its URIs.
        module: the module that Beam needs for them.
        extra: our extra that brings the module.
        find_problem: finds a further obstacle, by a URI; None if none is looked for.
    """

    scheme: str
    module: str
    extra: str
    find_problem: Callable[[str], ImageError | None] | None = None


# By scheme: the process's options at the check, the time until which it holds, and its error.
_found: dict[str, tuple[object, float, ImageError | None]] = {}


def check(requirement: Requirement, uri: str) -> None:
    """Raises an error if no file of a store can be reached from this process.

    Args:
        requirement: the requirement of the store.
        uri: a URI of the store.

    Raises:
        ImageError: MISSING_PACKAGE, PERMISSION_DENIED or READ_ERROR.
    """
    options = FileSystems._pipeline_options
    under, until, problem = _found.get(requirement.scheme, (None, 0.0, None))
    if under is not options or time.monotonic() >= until:
        problem = _problem(requirement, uri)
        lasts = float("inf") if problem is None else _SECONDS_LACKING
        _found[requirement.scheme] = options, time.monotonic() + lasts, problem
    if problem is not None:
        raise ImageError(problem.code, problem.message)


def forget() -> None:
    """Forgets the results of all checks: options or the environment may have changed."""
    _found.clear()


def _problem(requirement: Requirement, uri: str) -> ImageError | None:
    if not _is_installed(requirement.module):
        return ImageError(
            ErrorCode.MISSING_PACKAGE,
            f"{requirement.scheme}:// needs the module {requirement.module}, which is not "
            f"installed; pip install 'beam-upscale[{requirement.extra}]'",
        )
    return None if requirement.find_problem is None else requirement.find_problem(uri)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def unreached(store: str, url: str) -> ImageError | None:
    """Returns the error if a store's host cannot be connected to; passes if a proxy is set."""
    if requests.utils.get_environ_proxies(url):
        return None
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    for attempt in range(_CONNECT_ATTEMPTS):
        try:
            with socket.create_connection((parts.hostname or "", port), _CONNECT_SECONDS):
                return None
        except OSError:
            time.sleep(attempt)
    return ImageError(
        ErrorCode.READ_ERROR,
        f"{store} cannot be reached: there is no connection to {parts.hostname}:{port}; is this "
        "machine without a network, or does it need HTTPS_PROXY?",
    )
