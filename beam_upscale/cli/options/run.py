"""Options of a run: layout, budget, retries, workers."""

import click

from beam_upscale.cli.options.fields import field_option
from beam_upscale.cli.options.types import (
    POSITIVE,
    FailureLimitType,
    StatusesType,
    choice,
    described,
)
from beam_upscale.dataset.defaults import DEFAULT_GRACE_SECONDS, DEFAULT_SHARD_ROWS
from beam_upscale.dataset.hold.defaults import DEFAULT_LEASE_SECONDS
from beam_upscale.dataset.layouts.layout import DEFAULT_LAYOUT, Layout
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings

RUN_OPTIONS = (
    click.option(
        "--layout",
        type=choice(Layout),
        default=str(DEFAULT_LAYOUT),
        show_default=True,
        help=f"Store results in this form: {described(Layout)}.",
    ),
    click.option(
        "--shard-rows",
        type=POSITIVE,
        default=DEFAULT_SHARD_ROWS,
        show_default=True,
        help="Put this many inputs into a shard, which has one manifest file and, unless "
        "each image has a file of its own, one file of images.",
    ),
    click.option(
        "--retry",
        type=StatusesType(),
        default=None,
        help="Process inputs again whose status from an earlier run is one of these, separated by "
        "commas: upscaled, skipped, rejected, failed, filtered, over_budget.",
    ),
    click.option(
        "--max-failures",
        type=FailureLimitType(),
        help="Stop when this number or share of the images has failed, such as 20 or 5%. "
        "[default: no limit]",
    ),
    field_option(
        UpscaleSettings,
        "keep_intermediates",
        "Store the images between the engines of --then too, in OUTPUT/intermediates.",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Delete the results of earlier runs in OUTPUT and start over. Without it, a run "
        "continues OUTPUT, and is refused if its settings differ.",
    ),
    click.option(
        "--workers",
        type=POSITIVE,
        help="Process images with this many parallel workers (threads) of the local runner; "
        "other runners ignore it. [default: 2 on a CPU, else by the number of cores, up "
        "to 16]",
    ),
    click.option(
        "--lease-seconds",
        type=click.FloatRange(min=1),
        default=DEFAULT_LEASE_SECONDS,
        show_default=True,
        help="Let another run take OUTPUT over after this many seconds without a sign of "
        "life. Applies to object stores, HDFS and other runners; a local run uses a "
        "lock on a local disk.",
    ),
    click.option(
        "--grace-seconds",
        type=click.FloatRange(min=0),
        default=DEFAULT_GRACE_SECONDS,
        show_default=True,
        help="Give images in progress this many seconds to finish after SIGTERM.",
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Exit with 1 if an image failed. Without it, a complete run exits with 0.",
    ),
    click.option("--quiet", is_flag=True, help="Show no progress line."),
)
