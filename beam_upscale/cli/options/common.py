"""Options that several commands take, and how they are attached."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, Unpack

import click

from beam_upscale.cli.display.output import err
from beam_upscale.cli.display.printing import Debugging
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings

_Command = TypeVar("_Command", bound=Callable[..., Any])


# Of Beam, after --: a runner's, and those of the file systems.
BEAM_OPTIONS = click.argument("beam_options", metavar="[-- BEAM OPTIONS]", nargs=-1)


def debugging() -> Debugging:
    """Returns what the current command was told by `--debug`."""
    return click.get_current_context().find_object(Debugging) or Debugging()


def quieten_beam() -> None:
    """Beam logs a failed bundle with every traceback; the command ends with one line instead."""
    if not debugging().is_on:
        logging.getLogger().setLevel(logging.CRITICAL)


def check_beam_options(beam_options: tuple[str, ...]) -> None:
    """Raises a UsageError if what stands for Beam's options begins with no option."""
    if beam_options and not beam_options[0].startswith("-"):
        raise click.UsageError(
            f"unexpected argument {beam_options[0]!r}; options of Beam stand after --"
        )


def with_options(
    *groups: Iterable[Callable[[_Command], _Command]],
) -> Callable[[_Command], _Command]:
    """Puts groups of options on a command, in the order they are written."""

    def decorate(command: _Command) -> _Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def settings_of(
    engine: str, then: tuple[str, ...], **options: Unpack[UpscaleOptions]
) -> UpscaleSettings:
    """Builds settings from the command line, with a warning where some have no effect."""
    settings = UpscaleSettings.of((engine, *then), **options)
    if settings.warning is not None:
        err.line(f"beam-upscale: {settings.warning}")
    return settings
