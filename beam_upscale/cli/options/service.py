"""Options of the service behind the gRPC API."""

import click

from beam_upscale.cli.options.fields import field_option
from beam_upscale.cli.options.types import POSITIVE, PlaceType
from beam_upscale.inference.service_options import API_KEY_VARIABLE, ServiceOptions

SERVICE_OPTIONS = (
    field_option(
        ServiceOptions,
        "endpoint",
        "Address of the service; required with --backend grpc, and only used with it.",
        metavar="HOST:PORT",
    ),
    field_option(
        ServiceOptions,
        "api_key_file",
        "File with the API key for the service, which every worker reads. "
        f"[default: the environment variable {API_KEY_VARIABLE} holds the key]",
        kind=PlaceType(),
        metavar="FILE",
    ),
    field_option(
        ServiceOptions,
        "ca_file",
        "PEM file of the certificate authorities to trust. With it, a service on this machine is "
        "called over TLS too. [default: the system's authorities]",
        kind=PlaceType(),
        metavar="FILE",
    ),
    field_option(
        ServiceOptions,
        "insecure",
        "Call a service on another machine without TLS. Without this option, TLS is used for every "
        "machine but this one.",
    ),
    field_option(
        ServiceOptions,
        "max_in_flight",
        "Largest number of calls that one worker process has in flight at a time.",
        kind=POSITIVE,
    ),
    field_option(
        ServiceOptions,
        "requests_per_second",
        "Largest number of calls that all worker processes together begin in a second; above 0. "
        "[default: no limit]",
        kind=click.FLOAT,
    ),
    field_option(
        ServiceOptions,
        "worker_processes",
        "Number of worker processes that share --requests-per-second. [default: 1 locally, else "
        "Beam's --parallelism]",
        kind=POSITIVE,
    ),
    field_option(
        ServiceOptions,
        "deadline_seconds",
        "Seconds that one attempt of a call may take; above 0.",
    ),
    field_option(
        ServiceOptions,
        "retry_seconds",
        "Seconds after the first attempt of a call in which it may be repeated while the service "
        "is unavailable; above 0.",
    ),
)
