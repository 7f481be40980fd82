"""The command line: `beam-upscale plan | run | verify | engines | weights | serve | keys`."""

import contextlib
import sys
from typing import NoReturn

import click

from beam_upscale.cli.commands.engines import engines_command
from beam_upscale.cli.commands.keys import keys_group
from beam_upscale.cli.commands.plan import preview_command
from beam_upscale.cli.commands.run import run_command
from beam_upscale.cli.commands.serve import serve_command
from beam_upscale.cli.commands.verify import verify_command
from beam_upscale.cli.commands.weights import weights_group
from beam_upscale.cli.display.explanations import explained
from beam_upscale.cli.display.output import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail
from beam_upscale.cli.display.printing import Debugging, flush, show_all_characters
from beam_upscale.errors import BeamUpscaleError, BrokenProcessError, ErrorCode, HoldLostError
from beam_upscale.pipeline.termination import (
    EXIT_TERMINATED,
    INTERRUPTED,
    TERMINATED,
    TerminatedError,
    raising_at_sigterm,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="beam-upscale")
def cli() -> None:
    """Upscale image datasets of any size, at a price known beforehand."""


COMMANDS = (
    engines_command,
    keys_group,
    preview_command,
    run_command,
    serve_command,
    verify_command,
    weights_group,
)
"""The commands: a new one is a file of `commands` and a line here."""


def main() -> None:
    """Entry point: errors are one line, and their exit codes are documented."""
    show_all_characters()
    with Debugging() as asked:
        try:
            with raising_at_sigterm():
                cli.main(standalone_mode=False, obj=asked)
            flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(EXIT_USAGE)
        except Exception as error:
            asked.trace(error)
            _end(error)
        except KeyboardInterrupt:
            fail(INTERRUPTED, EXIT_INTERRUPTED, at_once=True)
        except TerminatedError:
            fail(TERMINATED, EXIT_TERMINATED, at_once=True)
        except SystemExit:
            with contextlib.suppress(OSError):
                flush()
            raise


def _end(error: Exception) -> NoReturn:
    """Ends this process with one line that explains an error."""
    match error:
        case click.Abort():
            fail(INTERRUPTED, EXIT_INTERRUPTED, at_once=True)
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "beam-upscale"
            message = f"{ErrorCode.INVALID_OPTION}: {error.format_message()}"
            fail(f"{message} (see {command} --help)", EXIT_USAGE)
        case BrokenPipeError():
            # The reader of the output has closed it, as `head` does.
            fail(None, EXIT_FAILED, at_once=True)
        case BrokenProcessError() | HoldLostError():
            fail(explained(error), EXIT_FAILED, at_once=True)
        case BeamUpscaleError():
            fail(explained(error), EXIT_USAGE)
        case _:
            fail(explained(error), EXIT_FAILED, at_once=True)


def _take_debug(command: click.Command) -> None:
    """Adds --debug to a command and all commands below it."""
    command.params.append(
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_begin_debugging,
            help="Print logs, and the traceback of an error.",
        )
    )
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _take_debug(each)


def _begin_debugging(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    asked = context.find_object(Debugging)
    if is_asked and asked is not None:
        asked.begin()


for _command in COMMANDS:
    cli.add_command(_command)
_take_debug(cli)
