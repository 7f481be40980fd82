"""`beam-upscale serve`: serves the gRPC API over local engines."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from beam_upscale.cli.commands.start_up import import_inference
from beam_upscale.cli.display.output import EXIT_USAGE, fail
from beam_upscale.cli.options.common import DEFAULT_ENGINE, DEFAULT_SETTINGS, with_options
from beam_upscale.cli.options.networks import MODEL_OPTIONS
from beam_upscale.cli.options.types import POSITIVE
from beam_upscale.pipeline.settings.choices import weights_by_engine
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.server.settings import ServeSettings

_DEFAULT_SERVE_SETTINGS = ServeSettings(DEFAULT_SETTINGS)


_PORT = click.IntRange(0, 65535)
_PATH = click.Path(path_type=Path)

_SERVE_OPTIONS = (
    click.option(
        "--host",
        default=_DEFAULT_SERVE_SETTINGS.host,
        show_default=True,
        help="Address to listen on. One that other machines can reach, such as 0.0.0.0, needs "
        "--keys, and TLS or --insecure.",
    ),
    click.option(
        "--port",
        type=_PORT,
        default=_DEFAULT_SERVE_SETTINGS.port,
        show_default=True,
        help="Port for gRPC; 0 takes a free one.",
    ),
    click.option(
        "--web-port",
        type=_PORT,
        help="Port for gRPC-Web, which web pages can call; 0 takes a free one. [default: none]",
    ),
    click.option(
        "--metrics-port",
        type=_PORT,
        help="Port for Prometheus metrics, which only this machine can read; 0 takes a free one. "
        "[default: none]",
    ),
    click.option(
        "--tls-cert",
        type=_PATH,
        metavar="FILE",
        help="PEM file of the certificate chain for TLS; needs --tls-key. [default: no TLS]",
    ),
    click.option(
        "--tls-key", type=_PATH, metavar="FILE", help="PEM file of the private key of --tls-cert."
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Serve other machines without TLS, for example behind a proxy that encrypts.",
    ),
    click.option(
        "--keys",
        type=_PATH,
        metavar="FILE",
        help="File of the API keys that may call (see `beam-upscale keys`); needs --ledger. "
        "Without it, calls need no key and come from this machine only.",
    ),
    click.option(
        "--ledger",
        type=_PATH,
        metavar="FILE",
        help="SQLite database of the credits that keys are charged, and of results for repeated "
        "calls; made if there is none. Required with --keys.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Origin whose web pages may call --web-port, such as https://page.example, or * for "
        "all; may be repeated.",
    ),
    click.option(
        "--max-queue",
        type=click.IntRange(min=0),
        default=_DEFAULT_SERVE_SETTINGS.max_queue,
        show_default=True,
        help="Largest number of calls that wait for the device; further ones are refused.",
    ),
    click.option(
        "--max-in-flight-per-key",
        type=POSITIVE,
        default=_DEFAULT_SERVE_SETTINGS.max_in_flight_per_key,
        show_default=True,
        help="Largest number of calls in flight at a time for a key without a limit of its own, or "
        "for a client's address without --keys.",
    ),
    click.option(
        "--requests-per-second-per-key",
        type=float,
        help="Largest number of calls that such a key or address begins in a second; above 0. "
        "[default: no limit]",
    ),
    click.option(
        "--request-timeout",
        "request_timeout_seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.request_timeout_seconds,
        show_default=True,
        help="Seconds that a request may take to arrive; above 0.",
    ),
    click.option(
        "--decode-seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.decode_seconds,
        show_default=True,
        help="Seconds that an image may take to be decoded, above 0; a slower one is refused.",
    ),
    click.option(
        "--idle-timeout",
        "idle_seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.idle_seconds,
        show_default=True,
        help="Seconds without a call after which a connection is closed; above 0.",
    ),
    click.option(
        "--drain-seconds",
        type=float,
        default=_DEFAULT_SERVE_SETTINGS.drain_seconds,
        show_default=True,
        help="Seconds that calls in progress may take to finish after SIGTERM or Ctrl-C, 0 or "
        "more.",
    ),
)


@click.command("serve")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=(DEFAULT_ENGINE,),
    show_default=True,
    help="Engine to serve; may be repeated.",
)
@with_options(MODEL_OPTIONS, _SERVE_OPTIONS)
def serve_command(engines: tuple[str, ...], weights: tuple[str, ...], **options: Any) -> None:
    """Serve engines of this machine over gRPC.

    Answers calls of `beam-upscale run --backend grpc` and of other clients, until SIGTERM or
    Ctrl-C. The exit code is 75 if the device is lost or no decoder can be started any more; restart
    the server then.

    \b
    For example:
      beam-upscale serve
      beam-upscale serve --keys keys.jsonl --ledger ledger.sqlite
    """  # noqa: D301
    import_inference()
    try:
        from beam_upscale.server.serve import serve
    except ModuleNotFoundError as error:
        fail(
            f"there is no module {error.name}; install what serving needs: "
            "pip install 'beam-upscale[serve]'",
            EXIT_USAGE,
        )
    names = {field.name for field in dataclasses.fields(ServeSettings)}
    upscale = UpscaleSettings.of(
        engines,
        weights=weights_by_engine(weights),
        **{name: value for name, value in options.items() if name not in names},
    )
    serve(
        ServeSettings(upscale, **{name: value for name, value in options.items() if name in names})
    )
