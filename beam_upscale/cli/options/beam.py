"""Options of Apache Beam, which follow `--`: of runners and of file systems."""

import logging

import click

from beam_upscale.cli.display.output import debugging

BEAM_OPTIONS = click.argument("beam_options", metavar="[-- BEAM OPTIONS]", nargs=-1)


def check_beam_options(beam_options: tuple[str, ...]) -> None:
    """Rejects an argument in the place where options of Beam begin.

    Raises:
        click.UsageError: the first of them is no option.
    """
    if beam_options and not beam_options[0].startswith("-"):
        raise click.UsageError(
            f"unexpected argument {beam_options[0]!r}; options of Beam stand after --"
        )


def quieten_beam() -> None:
    """Silences Beam's log of a failed bundle, but for --debug: the command ends with one line."""
    if not debugging().is_on:
        logging.getLogger().setLevel(logging.CRITICAL)
