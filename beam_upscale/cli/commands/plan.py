"""`beam-upscale plan`: previews a run and its price."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Unpack

import click

from beam_upscale.cli.commands.start_up import begin_decoding, import_inference
from beam_upscale.cli.display.hints import print_left_out
from beam_upscale.cli.display.output import err, out
from beam_upscale.cli.display.printing import Column, amount
from beam_upscale.cli.options.beam import BEAM_OPTIONS, check_beam_options, quieten_beam
from beam_upscale.cli.options.fields import with_options
from beam_upscale.cli.options.inputs import INPUT_OPTIONS
from beam_upscale.cli.options.planning import PARAMETER_OPTIONS, PLAN_OPTIONS, settings_of
from beam_upscale.cli.options.types import PlaceType
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.planning.chain import Backend

if TYPE_CHECKING:
    from beam_upscale.dataset.manifest.row import Status
    from beam_upscale.pipeline.preview import PreviewRow, PreviewRows, StatusTotals


@click.command("plan")
@click.argument("input_", metavar="INPUT", type=PlaceType())
@BEAM_OPTIONS
@with_options(INPUT_OPTIONS, PLAN_OPTIONS, PARAMETER_OPTIONS)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the totals and every image's row as JSON."
)
@click.option(
    "--to",
    type=PlaceType(),
    metavar="FOLDER",
    help="Write every image's row to FOLDER as Parquet. Required with a Beam --runner, "
    "whose workers must all be able to write to FOLDER.",
)
def preview_command(
    input_: str,
    beam_options: tuple[str, ...],
    input_format: str | None,
    image_column: str | None,
    deny_private_networks: bool,
    allow_link_local: bool,
    engine: str,
    then: tuple[str, ...],
    max_credits: Decimal | None,
    as_json: bool,
    to: str | None,
    **options: Unpack[UpscaleOptions],
) -> None:
    """Print a preview of a run on INPUT, and its price.

    A preview reads image headers only: it runs no network and spends nothing. INPUT is a file, a
    folder, a glob or a URL: of images, of tables that name or hold them (JSON lines, CSV, Parquet),
    or of WebDataset's tar files. Options after -- go to Apache Beam, such as its --runner.

    \b
    For example:
      beam-upscale plan photos
      beam-upscale plan 'shards/*.tar' --oversize tile --max-credits 500
    """  # noqa: D301
    check_beam_options(beam_options)
    if not beam_options:
        # With a runner of Beam's, other processes decode.
        begin_decoding()
    import_inference()
    from beam_upscale.inference.weights import advice
    from beam_upscale.pipeline.local_runner import runs_here
    from beam_upscale.pipeline.preview import limits_of_knowledge, preview, read_preview
    from beam_upscale.pipeline.read import ListingRequest
    from beam_upscale.sources.discovery import no_input
    from beam_upscale.sources.inputs.found_inputs import require_prompt_column
    from beam_upscale.storage import files
    from beam_upscale.storage.http import web_access
    from beam_upscale.storage.uris import secrets

    if to is None and not runs_here(beam_options):
        raise click.UsageError("a preview with a Beam --runner needs --to FOLDER")
    settings = settings_of(engine, then, **options)
    beam_options += web_access.beam_arguments(deny_private_networks, allow_link_local)
    files.configure(beam_options)
    listing = ListingRequest(input_, input_format, image_column).listing()
    if not listing.images:
        raise no_input(input_, listing)
    require_prompt_column(listing, settings.rules)
    quieten_beam()
    note = limits_of_knowledge(
        fans_out=settings.large_images.fan_out_above is not None,
        has_budget=max_credits is not None,
    )
    with contextlib.ExitStack() as stack:
        folder = to or stack.enter_context(tempfile.TemporaryDirectory(prefix="beam-upscale-plan-"))
        preview(listing.images, settings.rules, max_credits, folder, beam_options, on_wait=err.line)
        rows = read_preview(folder)
        if as_json:
            click.echo(_preview_as_json(settings.engines, list(rows), note))
            return
        title = f"{' and then '.join(settings.engines)} on {secrets.without_secrets(input_)}"
        _print_rows(title, rows)
    out.line(note)
    if settings.backend is Backend.LOCAL:
        for hint in advice.default_hints(settings.engines):
            out.line(f"by default {hint}")
    print_left_out(listing, out)


def _print_rows(title: str, rows: "PreviewRows") -> None:
    """Prints the sums over a preview, and a line for each input that would not be upscaled."""
    from beam_upscale.pipeline.preview import by_status

    _print_totals(title, by_status(rows))
    for row in rows:
        if row.error_code is not None:
            out.line(f"{row.status}  {row.error_code}  {row.input_id}: {row.message}")


def _preview_as_json(engines: tuple[str, ...], rows: "list[PreviewRow]", note: str) -> str:
    """Returns a preview as JSON; amounts are strings, which keeps every digit."""
    from beam_upscale.pipeline.preview import by_status

    values = {
        "engines": engines,
        "known_from": "headers",
        "note": note,
        "totals": {status: dataclasses.asdict(sum_) for status, sum_ in by_status(rows).items()},
        "images": [dataclasses.asdict(row) for row in rows],
    }
    return json.dumps(values, indent=2, default=str)


def _print_totals(title: str, sums: "Mapping[Status, StatusTotals]") -> None:
    out.line(title)
    numbers = ("images", "tiles", "credits", "dollars")
    out.table(
        [Column("status"), *(Column(name, is_number=True) for name in numbers)],
        [
            (
                status,
                f"{sum_.images:,}",
                f"{sum_.calls:,}",
                amount(sum_.credits),
                amount(sum_.usd),
            )
            for status, sum_ in sums.items()
        ],
    )
