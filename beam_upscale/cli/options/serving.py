"""Options of `beam-upscale serve`: addresses, keys and limits."""

from pathlib import Path

import click

from beam_upscale.cli.options.fields import field_option
from beam_upscale.cli.options.types import POSITIVE
from beam_upscale.server.settings import ServeSettings

_PORT = click.IntRange(0, 65535)
_PATH: "click.Path" = click.Path(path_type=Path)

SERVE_OPTIONS = (
    field_option(
        ServeSettings,
        "host",
        "Address to listen on. One that other machines can reach, such as 0.0.0.0, needs --keys, "
        "and TLS or --insecure.",
    ),
    field_option(ServeSettings, "port", "Port for gRPC; 0 takes a free one.", kind=_PORT),
    field_option(
        ServeSettings,
        "web_port",
        "Port for gRPC-Web, which web pages can call; 0 takes a free one. [default: none]",
        kind=_PORT,
    ),
    field_option(
        ServeSettings,
        "metrics_port",
        "Port for Prometheus metrics, which only this machine can read; 0 takes a free one. "
        "[default: none]",
        kind=_PORT,
    ),
    field_option(
        ServeSettings,
        "tls_cert",
        "PEM file of the certificate chain for TLS; needs --tls-key. [default: no TLS]",
        kind=_PATH,
        metavar="FILE",
    ),
    field_option(
        ServeSettings,
        "tls_key",
        "PEM file of the private key of --tls-cert.",
        kind=_PATH,
        metavar="FILE",
    ),
    field_option(
        ServeSettings,
        "insecure",
        "Serve other machines without TLS, for example behind a proxy that encrypts.",
    ),
    field_option(
        ServeSettings,
        "keys",
        "File of the API keys that may call (see `beam-upscale keys`); needs --ledger. Without it, "
        "calls need no key and come from this machine only.",
        kind=_PATH,
        metavar="FILE",
    ),
    field_option(
        ServeSettings,
        "ledger",
        "SQLite database of the credits that keys are charged, and of results for repeated calls; "
        "made if there is none. Required with --keys.",
        kind=_PATH,
        metavar="FILE",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Origin whose web pages may call --web-port, such as https://page.example, or * for "
        "all; may be repeated.",
    ),
    field_option(
        ServeSettings,
        "max_queue",
        "Largest number of calls that wait for the device; further ones are refused.",
        kind=click.IntRange(min=0),
    ),
    field_option(
        ServeSettings,
        "max_in_flight_per_key",
        "Largest number of calls in flight at a time for a key without a limit of its own, or for "
        "a client's address without --keys.",
        kind=POSITIVE,
    ),
    field_option(
        ServeSettings,
        "requests_per_second_per_key",
        "Largest number of calls that such a key or address begins in a second; above 0. "
        "[default: no limit]",
        kind=click.FLOAT,
    ),
    field_option(
        ServeSettings,
        "request_timeout_seconds",
        "Seconds that a request may take to arrive; above 0.",
        flag="--request-timeout",
    ),
    field_option(
        ServeSettings,
        "decode_seconds",
        "Seconds that an image may take to be decoded, above 0; a slower one is refused.",
    ),
    field_option(
        ServeSettings,
        "idle_seconds",
        "Seconds without a call after which a connection is closed; above 0.",
        flag="--idle-timeout",
    ),
    field_option(
        ServeSettings,
        "drain_seconds",
        "Seconds that calls in progress may take to finish after SIGTERM or Ctrl-C, 0 or more.",
    ),
)
