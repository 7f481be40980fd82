"""Options of the service behind the gRPC API."""

import click

from beam_upscale.cli.options.fields import field_option
from beam_upscale.cli.options.types import POSITIVE, PlaceType
from beam_upscale.inference.service_options import API_KEY_VARIABLE, ServiceOptions

SERVICE_OPTIONS = (
    field_option(
        ServiceOptions,
        "endpoint",
        "Call the service at this address; required with --backend grpc, and only used with it.",
        metavar="HOST:PORT",
    ),
    field_option(
        ServiceOptions,
        "api_key_file",
        "Read the API key for the service from this file, on every worker. [default: "
        f"the environment variable {API_KEY_VARIABLE} holds the key]",
        kind=PlaceType(),
        metavar="FILE",
    ),
    field_option(
        ServiceOptions,
        "ca_file",
        "Trust the certificate authorities in this PEM file. With it, a service on this "
        "machine is called over TLS too. [default: the system's authorities]",
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
        "Keep at most this many calls of one worker process in flight at a time.",
        kind=POSITIVE,
    ),
    field_option(
        ServiceOptions,
        "requests_per_second",
        "Begin at most this many calls in a second, in all worker processes together; "
        "above 0. [default: no limit]",
        kind=click.FLOAT,
    ),
    field_option(
        ServiceOptions,
        "worker_processes",
        "Share --requests-per-second among this many worker processes. [default: 1 "
        "locally, else Beam's --parallelism]",
        kind=POSITIVE,
    ),
    field_option(
        ServiceOptions,
        "deadline_seconds",
        "Give one attempt of a call this many seconds; above 0.",
    ),
    field_option(
        ServiceOptions,
        "retry_seconds",
        "Repeat a call for this many seconds after its first attempt while the service "
        "is unavailable; above 0.",
    ),
)
