"""The two consoles of the command line, its exit codes, and the switch --debug."""

import os
import sys
from typing import NoReturn

import click

from beam_upscale.cli.display.printing import Debugging, Printer

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

out = Printer()
err = Printer(is_for_errors=True)


def fail(message: str | None, code: int, at_once: bool = False) -> NoReturn:
    """Ends the process with an exit code, after a message on standard error if there is one.

    Args:
        message: one line, without the program's name.
        code: the exit code.
        at_once: True waits neither for threads nor for functions registered to run at the end.
    """
    if message is not None:
        err.line(f"beam-upscale: {message}")
    if at_once:
        os._exit(code)
    sys.exit(code)


def debugging() -> Debugging:
    """Returns the current command's `Debugging`, which `--debug` begins."""
    return click.get_current_context().find_object(Debugging) or Debugging()
