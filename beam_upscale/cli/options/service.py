"""Options of the service behind the gRPC API."""

import click

from beam_upscale.cli.options.common import DEFAULT_SETTINGS
from beam_upscale.cli.options.types import POSITIVE, PlaceType
from beam_upscale.inference.remote_engines import API_KEY_VARIABLE

SERVICE_OPTIONS = (
    click.option(
        "--endpoint",
        metavar="HOST:PORT",
        help="Address of the service; required with --backend grpc, and only used with it.",
    ),
    click.option(
        "--api-key-file",
        type=PlaceType(),
        metavar="FILE",
        help="File with the API key for the service, which every worker reads. "
        f"[default: the environment variable {API_KEY_VARIABLE} holds the key]",
    ),
    click.option(
        "--ca-file",
        type=PlaceType(),
        metavar="FILE",
        help="PEM file of the certificate authorities to trust. With it, a service on this machine "
        "is called over TLS too. [default: the system's authorities]",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Call a service on another machine without TLS. Without this option, TLS is used for "
        "every machine but this one.",
    ),
    click.option(
        "--max-in-flight",
        type=POSITIVE,
        default=DEFAULT_SETTINGS.max_in_flight,
        show_default=True,
        help="Largest number of calls that one worker process has in flight at a time.",
    ),
    click.option(
        "--requests-per-second",
        type=float,
        help="Largest number of calls that all worker processes together begin in a second; above "
        "0. [default: no limit]",
    ),
    click.option(
        "--worker-processes",
        type=POSITIVE,
        help="Number of worker processes that share --requests-per-second. [default: 1 locally, "
        "else Beam's --parallelism]",
    ),
    click.option(
        "--deadline-seconds",
        type=float,
        default=DEFAULT_SETTINGS.deadline_seconds,
        show_default=True,
        help="Seconds that one attempt of a call may take; above 0.",
    ),
    click.option(
        "--retry-seconds",
        type=float,
        default=DEFAULT_SETTINGS.retry_seconds,
        show_default=True,
        help="Seconds after the first attempt of a call in which it may be repeated while the "
        "service is unavailable; above 0.",
    ),
)
