"""The check that a store of Beam's can be used; it fails at once, where a client tries for minutes.

A store may lack something in this process: a package, credentials, options, a way to its host. This
is checked before the store's first file, and the result holds for the files that follow.
"""

import importlib.util
import socket
import time
import urllib.parse
from collections.abc import Callable

import requests
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

from beam_upscale.errors import ErrorCode, ImageError

# The module that Beam needs for a scheme, and our extra that brings it.
_PACKAGES = {
    "s3": ("boto3", "s3"),
    "gs": ("google.cloud.storage", "gcs"),
    "azfs": ("azure.storage.blob", "azure"),
    "hdfs": ("hdfs", "hdfs"),
}

_CONNECT_SECONDS = 10.0
_CONNECT_ATTEMPTS = 2

# Seconds after which a failed check is repeated.
_SECONDS_LACKING = 300.0

# By scheme: the process's options at the check, the time until which it holds, and its error.
_found: dict[str, tuple[object, float, ImageError | None]] = {}


def check(uri: str) -> None:
    """Raises an error if no file of a store can be reached from this process.

    Args:
        uri: a URI on any of Beam's file systems; a local path passes.

    Raises:
        ImageError: MISSING_PACKAGE, PERMISSION_DENIED or READ_ERROR.
    """
    scheme = uri.partition("://")[0]
    if scheme not in _PACKAGES:
        return
    options = FileSystems._pipeline_options
    under, until, problem = _found.get(scheme, (None, 0.0, None))
    if under is not options or time.monotonic() >= until:
        problem = _problem(scheme, uri)
        lasts = float("inf") if problem is None else _SECONDS_LACKING
        _found[scheme] = options, time.monotonic() + lasts, problem
    if problem is not None:
        raise ImageError(problem.code, problem.message)


def forget() -> None:
    """Forgets the results of all checks: options or the environment may have changed."""
    _found.clear()


def _problem(scheme: str, uri: str) -> ImageError | None:
    module, extra = _PACKAGES[scheme]
    if not _is_installed(module):
        return ImageError(
            ErrorCode.MISSING_PACKAGE,
            f"{scheme}:// needs the module {module}, which is not installed; "
            f"pip install 'beam-upscale[{extra}]'",
        )
    look = _CHECKS.get(scheme)
    return None if look is None else look(uri)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _hdfs(uri: str) -> ImageError | None:
    try:
        FileSystems.get_filesystem(uri)
    except ValueError:
        return ImageError(
            ErrorCode.READ_ERROR,
            "hdfs:// needs Beam's options --hdfs_host, --hdfs_port and --hdfs_user; pass them, on "
            "the command line behind --",
        )
    return None


def _s3(_: str) -> ImageError | None:
    import boto3  # type: ignore[import-untyped]
    from apache_beam.io.aws.clients.s3.boto3_client import Client

    found = FileSystems._pipeline_options
    options = found if isinstance(found, PipelineOptions) else PipelineOptions([])
    has_own = options.view_as(S3Options).s3_access_key_id is not None
    # Beam signs each request: it sends no anonymous ones.
    if not has_own and boto3.session.Session().get_credentials() is None:
        return ImageError(
            ErrorCode.PERMISSION_DENIED,
            "no credentials for S3 were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
            "profile, or a role of the machine",
        )
    return _unreached("S3", Client(options).client.meta.endpoint_url)


def _gs(_: str) -> ImageError | None:
    from google.cloud.storage import Client

    return _unreached("GCS", Client.create_anonymous_client()._connection.API_BASE_URL)


def _unreached(store: str, url: str) -> ImageError | None:
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


_CHECKS: dict[str, Callable[[str], ImageError | None]] = {"hdfs": _hdfs, "s3": _s3, "gs": _gs}
