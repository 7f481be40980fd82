"""Options of finding and reading inputs: dataset format, image column, allowed addresses."""

import click

from beam_upscale.cli.options.types import choice, described
from beam_upscale.sources.formats.input_format import InputFormat

INPUT_OPTIONS = (
    click.option(
        "--input-format",
        type=choice(InputFormat),
        help=f"Read INPUT in this format: {described(InputFormat)}. A table has a row for "
        "each image. [default: by file name; folder for a folder]",
    ),
    click.option(
        "--image-column",
        metavar="COLUMN",
        help="Take the images, their paths or their URLs from this column of a table. "
        "[default: the first with a usual name, such as image, url or file_name]",
    ),
    click.option(
        "--deny-private-networks",
        is_flag=True,
        help="Refuse URLs that lead to this machine or to a private network.",
    ),
    click.option(
        "--allow-link-local",
        is_flag=True,
        help="Allow URLs that lead to a link-local address or to a cloud's metadata service, which "
        "may reveal credentials. Without it, they are refused.",
    ),
)
