"""`beam-upscale serve`: serves the gRPC API over local engines."""

from pathlib import Path
from typing import Unpack

import click

from beam_upscale.cli.commands.start_up import import_inference
from beam_upscale.cli.display.output import EXIT_USAGE, fail
from beam_upscale.cli.options.fields import with_options
from beam_upscale.cli.options.networks import LOCAL_OPTIONS
from beam_upscale.cli.options.serving import SERVE_OPTIONS
from beam_upscale.pipeline.settings.upscale_options import LocalKeywords
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.engines import DEFAULT_ENGINE
from beam_upscale.server.settings import ServeSettings


@click.command("serve")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=(DEFAULT_ENGINE,),
    show_default=True,
    help="Serve this engine; may be repeated.",
)
@with_options(LOCAL_OPTIONS, SERVE_OPTIONS)
def serve_command(
    engines: tuple[str, ...],
    host: str,
    port: int,
    web_port: int | None,
    metrics_port: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure: bool,
    keys: Path | None,
    ledger: Path | None,
    cors_origins: tuple[str, ...],
    max_queue: int,
    max_in_flight_per_key: int,
    requests_per_second_per_key: float | None,
    request_timeout_seconds: float,
    decode_seconds: float,
    idle_seconds: float,
    drain_seconds: float,
    **options: Unpack[LocalKeywords],
) -> None:
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
            f"the module {error.name} is not installed; install what serving needs: "
            "pip install 'beam-upscale[serve]'",
            EXIT_USAGE,
        )
    serve(
        ServeSettings(
            UpscaleSettings.of(engines, **options),
            host=host,
            port=port,
            web_port=web_port,
            metrics_port=metrics_port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            insecure=insecure,
            keys=keys,
            ledger=ledger,
            cors_origins=cors_origins,
            max_queue=max_queue,
            max_in_flight_per_key=max_in_flight_per_key,
            requests_per_second_per_key=requests_per_second_per_key,
            request_timeout_seconds=request_timeout_seconds,
            decode_seconds=decode_seconds,
            idle_seconds=idle_seconds,
            drain_seconds=drain_seconds,
        )
    )
