"""`beam-upscale run`: upscales a dataset."""

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Unpack

import click

from beam_upscale.cli.commands.start_up import (
    begin_decoding,
    import_inference,
    keeping_modules,
    loading_network,
)
from beam_upscale.cli.display.explanations import explained
from beam_upscale.cli.display.hints import print_left_out, reduction_hints
from beam_upscale.cli.display.output import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    debugging,
    err,
    fail,
    out,
)
from beam_upscale.cli.display.printing import flush
from beam_upscale.cli.options.beam import BEAM_OPTIONS, check_beam_options, quieten_beam
from beam_upscale.cli.options.encoding import ENCODE_OPTIONS
from beam_upscale.cli.options.fields import with_options
from beam_upscale.cli.options.inputs import INPUT_OPTIONS
from beam_upscale.cli.options.networks import LOCAL_OPTIONS
from beam_upscale.cli.options.planning import PARAMETER_OPTIONS, PLAN_OPTIONS, settings_of
from beam_upscale.cli.options.run import RUN_OPTIONS
from beam_upscale.cli.options.service import SERVICE_OPTIONS
from beam_upscale.cli.options.types import PlaceType
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.errors import BeamUpscaleError, reason
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.pipeline.termination import (
    EXIT_TERMINATED,
    INTERRUPTED,
    TERMINATED,
    TerminatedError,
)

if TYPE_CHECKING:
    from beam_upscale.dataset.manifest.row import Status
    from beam_upscale.pipeline.request import FailureLimit, Run, RunResult
    from beam_upscale.pipeline.settings.pinned import PinnedSettings
    from beam_upscale.sources.inputs.found_inputs import Listing


@click.command("run")
@click.argument("input_", metavar="INPUT", type=PlaceType())
@click.argument("output", metavar="OUTPUT", type=PlaceType())
@BEAM_OPTIONS
@with_options(
    *(INPUT_OPTIONS, PLAN_OPTIONS, PARAMETER_OPTIONS, LOCAL_OPTIONS),
    *(ENCODE_OPTIONS, SERVICE_OPTIONS, RUN_OPTIONS),
)
def run_command(
    input_: str,
    output: str,
    beam_options: tuple[str, ...],
    input_format: str | None,
    image_column: str | None,
    deny_private_networks: bool,
    allow_link_local: bool,
    engine: str,
    then: tuple[str, ...],
    layout: str,
    shard_rows: int,
    max_credits: Decimal | None,
    retry: "frozenset[Status] | None",
    max_failures: "FailureLimit | None",
    overwrite: bool,
    workers: int | None,
    grace_seconds: float,
    lease_seconds: float,
    strict: bool,
    quiet: bool,
    **options: Unpack[UpscaleOptions],
) -> None:
    """Upscale INPUT into the dataset OUTPUT.

    INPUT is a file, a folder, a glob or a URL: of images, of tables that name or hold them (JSON
    lines, CSV, Parquet), or of WebDataset's tar files. OUTPUT is a folder. Run the same command
    again to continue a run that was interrupted, or to add new images. Options after -- go to
    Apache Beam, such as its --runner.

    \b
    For example:
      beam-upscale run photos upscaled
      beam-upscale run photos upscaled --oversize tile --max-credits 500
    """  # noqa: D301
    check_beam_options(beam_options)
    if not beam_options:
        # With a runner of Beam's, other processes decode.
        begin_decoding()
    settings = settings_of(engine, then, **options)
    if not beam_options:
        click.get_current_context().with_resource(loading_network(settings))
    with keeping_modules():
        import_inference()
        from beam_upscale.pipeline.request import FailureLimit, Run
        from beam_upscale.storage.http import web_access

    request = Run(
        input=input_,
        output=output,
        settings=settings,
        layout=Layout(layout),
        shard_rows=shard_rows,
        max_credits=max_credits,
        retry=retry or frozenset(),
        max_failures=max_failures or FailureLimit(),
        overwrite=overwrite,
        workers=workers,
        input_format=input_format,
        image_column=image_column,
        grace_seconds=grace_seconds,
        beam_options=(
            *beam_options,
            *web_access.beam_arguments(deny_private_networks, allow_link_local),
        ),
        lease_seconds=lease_seconds,
    )
    quieten_beam()
    result = _run(request, shows_progress=err.console.is_terminal and not quiet)
    _print_summary(output, result)
    sys.exit(_exit_code(result, strict))


def _run(request: "Run", *, shows_progress: bool) -> "RunResult":
    """Runs to the end, or until it is stopped; ends this process if the run breaks."""
    from beam_upscale.cli.display.progress import ProgressLine
    from beam_upscale.cli.display.summary import HOW_TO_GO_ON

    with keeping_modules():
        from beam_upscale.pipeline.run import run

    with ProgressLine(err.console, shown=shows_progress) as line:

        def started(settings: "PinnedSettings", listing: "Listing") -> None:
            line.total = len(listing.images)
            _print_start(settings, listing)

        try:
            return run(request, on_start=started, on_progress=line.update, on_note=err.line)
        except BeamUpscaleError:
            raise
        except KeyboardInterrupt:
            # The pipeline's threads may be in the middle of an image; finished images are durable.
            fail(f"interrupted; {HOW_TO_GO_ON}", EXIT_INTERRUPTED, at_once=True)
        except TerminatedError as error:
            why = "" if error.__cause__ is None else f" ({explained(error.__cause__)})"
            fail(f"{TERMINATED}{why}; {HOW_TO_GO_ON}", EXIT_TERMINATED, at_once=True)
        except Exception as error:
            debugging().trace(error)
            fail(f"{explained(error)}; {HOW_TO_GO_ON}", EXIT_FAILED, at_once=True)


def _print_start(settings: "PinnedSettings", listing: "Listing") -> None:
    engines = " and then ".join(stage.pinned.in_words for stage in settings.stages)
    err.line(f"{engines}: {len(listing.images):,} inputs")
    for hint in reduction_hints(settings):
        err.line(hint)
    print_left_out(listing, err)


def _print_summary(output: str, result: "RunResult") -> None:
    from beam_upscale.cli.display.summary import print_result

    try:
        print_result(out, output, result)
        flush()
    except OSError as error:
        # The work is done, even if its summary could not be printed.
        err.line(f"the summary could not be printed: {reason(error)}")


def _exit_code(result: "RunResult", strict: bool) -> int:
    from beam_upscale.dataset.manifest.row import Status

    if result.stopped == INTERRUPTED:
        return EXIT_INTERRUPTED
    if result.stopped == TERMINATED:
        return EXIT_TERMINATED
    failed = bool(result.totals.by_status.get(Status.FAILED))
    return EXIT_FAILED if result.stopped is not None or (strict and failed) else 0
