"""`beam-upscale verify`: checks a dataset against its manifest."""

import sys

import click

from beam_upscale.cli.display.output import EXIT_FAILED, out
from beam_upscale.cli.options.beam import BEAM_OPTIONS, check_beam_options
from beam_upscale.cli.options.types import PlaceType


@click.command("verify")
@click.argument("output", metavar="OUTPUT", type=PlaceType())
@BEAM_OPTIONS
def verify_command(output: str, beam_options: tuple[str, ...]) -> None:
    """Check the dataset OUTPUT against its manifest.

    Recomputes every SHA-256 and prints a line for each problem, such as a missing or changed file;
    the exit code is then 1. Options after -- go to Apache Beam, such as those of a file system.
    """
    check_beam_options(beam_options)
    from beam_upscale.dataset.verify import verify
    from beam_upscale.storage import files

    files.configure(beam_options)
    problems = 0
    for problem in verify(output):
        problems += 1
        out.line(f"{problem.kind}  {problem.path}  {problem.message}")
    if problems:
        out.line("1 problem" if problems == 1 else f"{problems:,} problems")
        sys.exit(EXIT_FAILED)
    out.line(f"{output} matches its manifest, byte for byte")
