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
        "Listen on this address. One that other machines can reach, such as 0.0.0.0, "
        "needs --keys, and TLS or --insecure.",
    ),
    field_option(
        ServeSettings, "port", "Listen on this port for gRPC; 0 takes a free one.", kind=_PORT
    ),
    field_option(
        ServeSettings,
        "web_port",
        "Listen on this port for gRPC-Web, which web pages can call; 0 takes a free "
        "one. [default: none]",
        kind=_PORT,
    ),
    field_option(
        ServeSettings,
        "metrics_port",
        "Show metrics for Prometheus on this port, which only this machine can read; 0 "
        "takes a free one. [default: none]",
        kind=_PORT,
    ),
    field_option(
        ServeSettings,
        "tls_cert",
        "Serve over TLS with the certificate chain in this PEM file; needs --tls-key. "
        "[default: no TLS]",
        kind=_PATH,
        metavar="FILE",
    ),
    field_option(
        ServeSettings,
        "tls_key",
        "Read the private key of --tls-cert from this PEM file.",
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
        "Answer only calls with an API key of this file (see `beam-upscale keys`); "
        "needs --ledger. Without it, calls need no key and come from this machine only.",
        kind=_PATH,
        metavar="FILE",
    ),
    field_option(
        ServeSettings,
        "ledger",
        "Keep the credits that keys are charged, and results for repeated calls, in "
        "this SQLite database; made if there is none. Required with --keys.",
        kind=_PATH,
        metavar="FILE",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Let web pages of this origin call --web-port, such as https://page.example, or "
        "* for all; may be repeated.",
    ),
    field_option(
        ServeSettings,
        "max_queue",
        "Let at most this many calls wait for the device; further ones are refused.",
        kind=click.IntRange(min=0),
    ),
    field_option(
        ServeSettings,
        "max_in_flight_per_key",
        "Answer at most this many calls at a time for a key without a limit of its own, "
        "or for a client's address without --keys.",
        kind=POSITIVE,
    ),
    field_option(
        ServeSettings,
        "requests_per_second_per_key",
        "Let such a key or address begin at most this many calls in a second; above 0. "
        "[default: no limit]",
        kind=click.FLOAT,
    ),
    field_option(
        ServeSettings,
        "request_timeout_seconds",
        "Give a request this many seconds to arrive; above 0.",
        flag="--request-timeout",
    ),
    field_option(
        ServeSettings,
        "decode_seconds",
        "Give an image this many seconds to be decoded, above 0; a slower one is refused.",
    ),
    field_option(
        ServeSettings,
        "idle_seconds",
        "Close a connection after this many seconds without a call; above 0.",
        flag="--idle-timeout",
    ),
    field_option(
        ServeSettings,
        "drain_seconds",
        "Give calls in progress this many seconds to finish after SIGTERM or Ctrl-C, 0 or more.",
    ),
)
